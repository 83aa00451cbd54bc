"""The SR: read back by pydicom and highdicom, checked by dciodvfy, the same every time."""

from __future__ import annotations

import copy
import io
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian
from result_samples import ISSUED, KERNEL, LUNGS, MODEL, refused, result

from fhir_ext.resources import codes
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.resources.observation import tracking_uid
from fhir_ext.results import ServiceResult

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.7", "1.2.826.0.1.3680043.8.498.7.1"
INSTANCES = tuple(f"{SERIES}.{number}" for number in range(1, 4))


@pytest.fixture(autouse=True)
def strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword or an invalid value is an error."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    yield


def evidence(**changes: Any) -> list[Dataset]:
    """Headers of CT slices, as the archive's metadata gives them."""
    found = []
    for number, uid in enumerate(INSTANCES, 1):
        item = Dataset()
        item.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.SOPInstanceUID = uid
        item.StudyInstanceUID = STUDY
        item.SeriesInstanceUID = SERIES
        item.SeriesNumber = 3
        item.InstanceNumber = number
        item.Modality = "CT"
        item.Manufacturer = "ACME"
        item.StudyDate = "20260105"
        item.StudyTime = "101500"
        item.StudyID = "17"
        item.AccessionNumber = "A-17"
        item.ReferringPhysicianName = "Referring^Ann"
        item.StudyDescription = "Chest CT"
        item.PatientName = "Müller^Jörg"
        item.PatientID = "MRN-17"
        item.IssuerOfPatientID = "SITE"
        item.PatientBirthDate = "19600214"
        item.PatientSex = "M"
        item.PatientAge = "065Y"
        item.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in changes.items():
            if value is None:
                del item[keyword]
            else:
                setattr(item, keyword, value)
        found.append(item)
    return found


def made(**changes: Any) -> ServiceResult:
    return result(
        study=STUDY,
        series=SERIES,
        instances=INSTANCES,
        withheld={"perc15": KERNEL},
        **changes,
    )


def build(of: ServiceResult | None = None, **arguments: Any) -> Dataset:
    from fhir_ext.dicom.sr import build_sr

    return build_sr(
        of or made(),
        arguments.get("evidence") or evidence(),
        arguments.get("issued", ISSUED),
    )


def encoded(sr: Dataset) -> bytes:
    buffer = io.BytesIO()
    sr.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(sr: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(encoded(sr)))


def test_same_arguments_give_the_same_bytes() -> None:
    first = encoded(build())
    # Longer than the resolution of DICOM times that highdicom would take from the clock.
    time.sleep(1.1)
    assert encoded(build()) == first


def test_identity_is_computed_and_ours() -> None:
    of = made()
    sr = reread(build(of))
    assert sr.SOPInstanceUID == dicom_uid(of.inference_key, "sr")
    assert sr.SeriesInstanceUID == dicom_uid(of.inference_key, "sr-series")
    assert sr.file_meta.MediaStorageSOPInstanceUID == sr.SOPInstanceUID
    assert sr.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert sr.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert sr.Manufacturer == "fhir-ext"
    assert (sr.Modality, sr.SeriesNumber) == ("SR", 9003)
    assert (sr.ManufacturerModelName, sr.SoftwareVersions) == (MODEL.title, MODEL.version)
    assert (sr.PreliminaryFlag, sr.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")


def test_patient_and_study_are_those_of_the_source() -> None:
    sr, source = reread(build()), evidence()[0]
    for keyword in (
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "StudyDescription",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
    ):
        assert sr[keyword].value == source[keyword].value, keyword


def test_a_source_from_a_file_in_latin_1_keeps_its_names() -> None:
    """Raw elements, decoded late, from another character set than the SR's."""
    sources = []
    for item in evidence():
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
        sources.append(reread(item))
    sr = reread(build(evidence=sources))
    assert str(sr.PatientName) == "Müller^Jörg"
    assert sr.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("offset", "content", "stated"),
    [
        (None, ("20260105", "093015"), None),
        ("+0000", ("20260105", "093015"), "+0000"),
        ("+1445", ("20260106", "001515"), "+1445"),
        ("-0930", ("20260105", "000015"), "-0930"),
    ],
)
def test_content_time_is_in_the_zone_of_the_source(
    offset: str | None, content: tuple[str, str], stated: str | None
) -> None:
    sources = evidence(TimezoneOffsetFromUTC=offset) if offset else evidence()
    sr = reread(build(evidence=sources))
    assert (sr.ContentDate, sr.ContentTime) == content
    assert (sr.InstanceCreationDate, sr.InstanceCreationTime) == content
    assert sr.get("TimezoneOffsetFromUTC") == stated


def test_read_back_by_highdicom() -> None:
    import highdicom as hd

    of = made()
    sr = hd.sr.srread(io.BytesIO(encoded(build(of))))
    assert isinstance(sr, hd.sr.Comprehensive3DSR)
    report = sr.content
    assert isinstance(report, hd.sr.MeasurementReport)
    groups = report.get_image_measurement_groups()
    assert [group.tracking_uid for group in groups] == [tracking_uid(of, r) for r in LUNGS]
    for region, group in zip(LUNGS, groups, strict=True):
        (site,) = group.finding_sites
        assert site.value == dictionary.SCT.Lung
        assert site.laterality.value == codes.REGION_LATERALITY[region].code
        numbers = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
        assert numbers == {
            "118565006": (5123.4, "mL"),
            "112181": (-842.11, "[hnsf'U]"),
            "laa-950": (7.25, "%"),
        }
        (withheld,) = group.get_qualitative_evaluations()
        assert (withheld.name.value, withheld.value.value) == ("perc15", "kernel")
        assert withheld.value.scheme_designator == "99FHIREXT"
    assert [image.referenced_sop_instance_uid for image in groups[0].source_images] == list(
        INSTANCES
    )


def test_algorithm_and_observer_are_the_model_version() -> None:
    sr = reread(build())
    texts = {}

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence", []):
            if child.ValueType == "TEXT":
                texts[child.ConceptNameCodeSequence[0].CodeMeaning] = child.TextValue
            walk(child)

    walk(sr)
    assert texts["Algorithm Name"] == "lung-density"
    assert texts["Algorithm Version"] == "1.0.0"
    assert MODEL.settings_hash in texts["Algorithm Parameters"]
    assert texts["Device Observer Manufacturer"] == "fhir-ext"
    assert texts["Device Observer Model Name"] == "lung-density 1.0.0"


def test_every_source_instance_is_referenced() -> None:
    sr = reread(build())
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == STUDY
    assert series.SeriesInstanceUID == SERIES
    referenced = [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence]
    assert sorted(referenced) == sorted(INSTANCES)


def test_a_refused_result_says_why_everywhere() -> None:
    import highdicom as hd

    sr = hd.sr.srread(io.BytesIO(encoded(build(refused(study=STUDY, series=SERIES)))))
    for group in sr.content.get_image_measurement_groups():
        assert group.get_measurements() == []
        reasons = {e.value.value for e in group.get_qualitative_evaluations()}
        assert reasons == {"no-slices"}


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "SeriesNumber",
        "Manufacturer",
        "SpecificCharacterSet",
    ],
)
def test_a_source_that_lacks_an_element(keyword: str) -> None:
    assert reread(build(evidence=evidence(**{keyword: None}))).Modality == "SR"


def test_invalid_values_of_the_source_are_copied_as_they_are() -> None:
    sources = evidence()
    for item in sources:
        for keyword, vr, value in (
            ("PatientSex", "CS", "UNKNOWN"),
            ("PatientBirthDate", "DA", "1960-XX"),
        ):
            item[keyword] = pydicom.DataElement(
                keyword, vr, value, validation_mode=pydicom.config.IGNORE
            )
    sr = build(evidence=sources)
    assert sr["PatientSex"].value == "UNKNOWN"
    assert sr["PatientBirthDate"].value == "1960-XX"
    assert sources[0].PatientSex == "UNKNOWN"


def _reference(**uids: str) -> Dataset:
    found = Dataset()
    for keyword, value in uids.items():
        setattr(found, keyword, value)
    return found


def test_incomplete_references_of_the_source_are_dropped() -> None:
    whole = _reference(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID="1.2.3.9"
    )
    lame = _reference(ReferencedSOPInstanceUID="1.2.3.10")
    sources = evidence(ReferencedStudySequence=[whole, lame], ReferencedPatientSequence=[lame])
    sr = reread(build(evidence=sources))
    assert [i.ReferencedSOPInstanceUID for i in sr.ReferencedStudySequence] == ["1.2.3.9"]
    assert "ReferencedPatientSequence" not in sr
    assert len(sources[0].ReferencedStudySequence) == 2


def test_a_name_of_one_component_is_copied_without_a_word(recwarn: Any, caplog: Any) -> None:
    """highdicom would warn, and quote the name."""
    sr = reread(build(evidence=evidence(PatientName="Lonelyname")))
    assert str(sr.PatientName) == "Lonelyname"
    said = [str(warning.message) for warning in recwarn] + caplog.messages
    assert not [text for text in said if "Lonelyname" in text]


def test_the_source_is_not_changed() -> None:
    sources = evidence(PatientSex=None)
    before = copy.deepcopy(sources)
    build(evidence=sources)
    assert sources == before


def test_what_cannot_be_an_sr_is_an_error() -> None:
    from fhir_ext.dicom.sr import build_sr

    with pytest.raises(ValueError, match="evidence"):
        build_sr(made(), [], ISSUED)
    with pytest.raises(ValueError, match="something to say"):
        build_sr(made(measurements=()), evidence(), ISSUED)
    with pytest.raises(ValueError, match="aware"):
        build_sr(made(), evidence(), datetime(2026, 1, 5))  # noqa: DTZ001  that is the point


@pytest.mark.parametrize("kind", ["done", "refused", "zoned", "de-identified"])
def test_dciodvfy_finds_no_error(tmp_path: Path, dciodvfy: Path, kind: str) -> None:
    of = refused(study=STUDY, series=SERIES) if kind == "refused" else made()
    # dciodvfy does not know UTF-8 names; an ASCII one keeps its answer about the rest.
    sources = evidence(PatientName="Mueller^Joerg")
    if kind == "zoned":
        sources = evidence(PatientName="Mueller^Joerg", TimezoneOffsetFromUTC="+0100")
    if kind == "de-identified":
        lame = _reference(ReferencedSOPInstanceUID="1.2.3.10")
        sources = evidence(PatientName="A0001", ReferencedStudySequence=[lame])
    path = tmp_path / "sr.dcm"
    path.write_bytes(encoded(build(of, evidence=sources, issued=datetime.now(UTC))))
    answer = subprocess.run(
        [str(dciodvfy), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert "Comprehensive3DSR" in lines
    assert [line for line in lines if line.startswith("Error")] == []
