"""The corrected SR and the note that withdraws one: read back, and checked by dciodvfy."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from result_samples import ISSUED, KERNEL, result

from fhir_ext.resources.ids import dicom_uid, review_dicom_uid
from fhir_ext.results import Region, ServiceResult

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.8", "1.2.826.0.1.3680043.8.498.8.1"
INSTANCES = tuple(f"{SERIES}.{number}" for number in range(1, 4))
DECIDED = datetime(2026, 1, 6, 14, 5, 6, tzinfo=UTC)
TASK = "11111111-2222-5333-8444-555555555555"


@pytest.fixture(autouse=True)
def strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword or an invalid value is an error."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    yield


def headers(**changes: Any) -> list[Dataset]:
    """Headers of CT slices, as the archive's metadata gives them."""
    found = []
    for uid in INSTANCES:
        item = Dataset()
        item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
        item.StudyInstanceUID, item.SeriesInstanceUID = STUDY, SERIES
        item.SeriesNumber, item.Modality = 3, "CT"
        item.StudyDate, item.StudyTime, item.StudyID = "20260105", "101500", "17"
        item.AccessionNumber, item.ReferringPhysicianName = "A-17", "Referring^Ann"
        item.PatientName, item.PatientID = "Mueller^Joerg", "MRN-17"
        item.PatientBirthDate, item.PatientSex = "19600214", "M"
        for keyword, value in changes.items():
            setattr(item, keyword, value)
        found.append(item)
    return found


def machine() -> ServiceResult:
    return result(study=STUDY, series=SERIES, instances=INSTANCES, withheld={"perc15": KERNEL})


def human() -> ServiceResult:
    """LAA-950 of both lungs changed, Perc15 of the left lung given."""
    changed = {("laa-950", Region.LUNGS): 3.5, ("perc15", Region.LEFT_LUNG): -930.0}
    return replace(
        machine(),
        measurements=tuple(
            replace(m, value=changed[m.name, m.region], refusal=None)
            if (m.name, m.region) in changed
            else m
            for m in machine().measurements
        ),
    )


def first() -> Dataset:
    from fhir_ext.dicom.sr import build_sr

    return build_sr(machine(), headers(), ISSUED)


def successor(observer: str = "Reader^Ann", **changes: Any) -> Dataset:
    from fhir_ext.dicom.sr import Correction, build_sr

    correction = Correction(
        sop_instance_uid=review_dicom_uid(TASK, "sr"),
        predecessor=first(),
        observer=observer,
        organization="Not stated",
        by_hand=frozenset({("laa-950", Region.LUNGS), ("perc15", Region.LEFT_LUNG)}),
    )
    return build_sr(human(), headers(**changes), DECIDED, correction)


def rejection(**changes: Any) -> Dataset:
    from fhir_ext.dicom.rejection import build_rejection

    return build_rejection(
        first(),
        headers(**changes)[0],
        review_dicom_uid(TASK, "rejection-series"),
        review_dicom_uid(TASK, "rejection"),
        DECIDED,
    )


def encoded(document: Dataset) -> bytes:
    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(document: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(encoded(document)))


@pytest.mark.parametrize("build", [successor, rejection])
def test_same_arguments_give_the_same_bytes(build: Any) -> None:
    before = encoded(build())
    time.sleep(1.1)
    assert encoded(build()) == before


def test_the_successor_is_verified_and_names_what_it_replaces() -> None:
    sr, old = reread(successor()), reread(first())
    assert sr.SOPInstanceUID != old.SOPInstanceUID
    assert (
        sr.SeriesInstanceUID
        == old.SeriesInstanceUID
        == dicom_uid(machine().inference_key, "sr-series")
    )
    assert (sr.SeriesNumber, sr.InstanceNumber) == (old.SeriesNumber, 2)
    assert sr.Manufacturer == "fhir-ext", "the bridge ignores it"
    flags = (sr.CompletionFlag, sr.VerificationFlag, sr.PreliminaryFlag)
    assert flags == ("COMPLETE", "VERIFIED", "FINAL")
    (observer,) = sr.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName) == "Reader^Ann"
    assert observer.VerifyingOrganization == "Not stated"
    assert str(observer.VerificationDateTime) == "20260106140506+0000"
    (study,) = sr.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, old.SeriesInstanceUID)
    assert reference.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == old.SOPClassUID


def numbers(sr: Dataset) -> dict[tuple[str, str], tuple[float, str | None]]:
    """(tracking identifier, measurement) to (value, method)."""
    import highdicom as hd

    content = hd.sr.srread(io.BytesIO(encoded(sr))).content
    found = {}
    for group in content.get_image_measurement_groups():
        for item in group.get_measurements():
            method = item.method.value if item.method is not None else None
            found[group.tracking_identifier, item.name.value] = (item.value, method)
    return found


def test_the_successor_says_the_humans_numbers_and_nothing_else_anew() -> None:
    old, new = numbers(first()), numbers(successor())
    assert new["Both lungs", "laa-950"] == (3.5, "human-value")
    assert new["Left lung", "perc15"] == (-930.0, "human-value")
    untouched = set(new) - {("Both lungs", "laa-950"), ("Left lung", "perc15")}
    assert {key: new[key] for key in untouched} == {key: old[key] for key in untouched}


def test_an_observer_of_one_component_is_written_without_a_word(recwarn: Any) -> None:
    sr = reread(successor("Practitioner/ann"))
    (observer,) = sr.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName) == "Practitioner/ann"
    assert not list(recwarn)


def test_the_note_withdraws_the_machines_sr() -> None:
    note, old = reread(rejection()), reread(first())
    assert (note.Modality, note.Manufacturer) == ("KO", "fhir-ext")
    (title,) = note.ConceptNameCodeSequence
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (reference,) = series.ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert series.SeriesInstanceUID == old.SeriesInstanceUID != note.SeriesInstanceUID
    assert (note.StudyInstanceUID, note.PatientID) == (STUDY, "MRN-17")
    import highdicom as hd

    content = hd.ko.KeyObjectSelectionDocument.from_dataset(note).content
    (named,) = content.get_references()
    assert named.referenced_sop_instance_uid == old.SOPInstanceUID


@pytest.mark.parametrize("zoned", [False, True])
@pytest.mark.parametrize(
    ("build", "kind"), [(successor, "Comprehensive3DSR"), (rejection, "KeyObjectSelectionDocument")]
)
def test_dciodvfy_finds_no_error(
    tmp_path: Path, dciodvfy: Path, build: Any, kind: str, zoned: bool
) -> None:
    path = tmp_path / "document.dcm"
    path.write_bytes(encoded(build(**({"TimezoneOffsetFromUTC": "+0100"} if zoned else {}))))
    answer = subprocess.run(
        [str(dciodvfy), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert kind in lines
    assert [line for line in lines if line.startswith("Error")] == []
