"""The SR of results of every kind, for pydicom, highdicom and dciodvfy."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from finding_samples import FOUND, FRAME, detected, headers, of_a_site, refused_detection
from pydicom import Dataset
from result_samples import ISSUED, KERNEL

from fhir_ext.resources.detection import detection_uid
from fhir_ext.resources.observation import refusal_text
from fhir_ext.results import Classification, Region, ServiceResult

RESULTS = {
    "found": detected(),
    "none-found": detected(found=()),
    "not-looked": refused_detection(),
    "site": of_a_site(),
}


@pytest.fixture(autouse=True)
def strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword or an invalid value is an error."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    yield


def build(of: ServiceResult) -> bytes:
    from fhir_ext.dicom.sr import build_sr

    buffer = io.BytesIO()
    build_sr(of, headers(of), ISSUED).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(of: ServiceResult) -> Any:
    """The content of the SR as highdicom reads it."""
    from highdicom.sr import Comprehensive3DSR

    return Comprehensive3DSR.from_dataset(pydicom.dcmread(io.BytesIO(build(of))))


def code(item: Dataset) -> str:
    """Concept name of a content item; empty without one."""
    sequence = item.get("ConceptNameCodeSequence")
    if not sequence:
        return ""
    return str(sequence[0].get("CodeValue") or sequence[0].LongCodeValue)


def test_a_place_is_an_ellipsoid_in_the_frame_of_reference() -> None:
    of = detected()
    groups = read(of).content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_uid for group in groups] == [detection_uid(of, 0), detection_uid(of, 1)]
    for group, place in zip(groups, FOUND, strict=True):
        assert group.finding_type.value == "27925004"
        assert [site.value.value for site in group.finding_sites] == ["39607008"]
        (surface,) = (item for item in group[0].ContentSequence if item.ValueType == "SCOORD3D")
        assert surface.ReferencedFrameOfReferenceUID == FRAME
        assert surface.GraphicType == "ELLIPSOID"
        ends = np.array(surface.GraphicData).reshape(3, 2, 3)
        assert ends.mean(axis=(0, 1)) == pytest.approx(place.centre_mm, abs=1e-3)
        widths = [ends[axis, 1, axis] - ends[axis, 0, axis] for axis in range(3)]
        assert widths == pytest.approx(place.size_mm, abs=1e-3)
        values = {m.name.value: m.value for m in group.get_measurements()}
        assert values["score"] == place.score
        assert values["size-z"] == place.size_mm[2]


def test_none_found_is_a_count_of_zero_and_not_looked_is_a_reason() -> None:
    (group,) = read(detected(found=())).content.get_image_measurement_groups()
    (count,) = group.get_measurements()
    assert (count.name.value, count.value) == ("lung-nodule-count", 0)
    (group,) = read(refused_detection()).content.get_image_measurement_groups()
    (reason,) = group.get_qualitative_evaluations()
    assert (reason.name.value, reason.value.value) == ("lung-nodule-count", "kernel")


def test_without_a_frame_of_reference_there_are_no_coordinates() -> None:
    sr = read(replace(detected(), frame_of_reference_uid=""))
    assert sr.content.get_volumetric_roi_measurement_groups() == []
    assert len(sr.content.get_image_measurement_groups()) == 3


def test_a_size_of_nothing_is_a_point() -> None:
    flat = replace(FOUND[0], size_mm=(4.0, 4.0, 0.0))
    (group,) = read(detected(found=(flat,))).content.get_volumetric_roi_measurement_groups()
    (surface,) = (item for item in group[0].ContentSequence if item.ValueType == "SCOORD3D")
    assert surface.GraphicType == "POINT"
    assert list(surface.GraphicData) == pytest.approx(flat.centre_mm)


def test_a_site_s_names_stand_beside_standard_ones() -> None:
    groups = read(of_a_site()).content.get_image_measurement_groups()
    liver = groups[0]
    names = [(m.name.scheme_designator, m.name.value) for m in liver.get_measurements()]
    # A system that DICOM has no designator for is not written as one that it is not.
    assert names[:2] == [
        ("99FHIREXT", "acme-liver.liver-fat"),
        ("99FHIREXT", "acme-liver.mean-fat"),
    ]
    said = {e.name.value: e.value.value for e in liver.get_qualitative_evaluations()}
    assert said == {"acme-liver.grade": "197321007", "acme-liver.iron": "272519000"}
    kidney = groups[-1]
    (evaluation,) = kidney.get_qualitative_evaluations()
    assert evaluation.value.value == "kernel"


def test_uncertainty_has_the_unit_of_its_number() -> None:
    groups = read(of_a_site()).content.get_image_measurement_groups()
    fat, mean, *_ = groups[0].get_measurements()
    for number, half, unit in ((fat, 2.5, "%"), (mean, 0.25, "mm")):
        ranges = {code(item): item for item in number[0].ContentSequence}
        for name in ("371886008", "371885007"):
            (value,) = ranges[name].MeasuredValueSequence
            assert float(value.NumericValue) == half
            assert value.MeasurementUnitsCodeSequence[0].CodeValue == unit
    parameters = [item.TextValue for item in groups[0][0].ContentSequence if code(item) == "111002"]
    assert "uncertainty of liver-fat: half of the confidence interval of level 0.95" in parameters
    assert "uncertainty of mean-fat: one standard deviation" in parameters


def test_notes_are_comments_of_the_group_they_belong_to() -> None:
    groups = read(of_a_site()).content.get_image_measurement_groups()
    texts = [
        [item.TextValue for item in group[0].ContentSequence if code(item) == "121106"]
        for group in groups
    ]
    assert texts[0] == ["The scan was not calibrated.", "Said of the whole."]
    assert texts[1] == texts[2] == [refusal_text(KERNEL)]


def test_evidence_keeps_its_series() -> None:
    of = of_a_site()
    sr = pydicom.dcmread(io.BytesIO(build(of)))
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    named = {
        str(series.SeriesInstanceUID): [
            str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence
        ]
        for series in study.ReferencedSeriesSequence
    }
    assert named == {
        of.series_instance_uid: list(of.sop_instance_uids),
        of.further[0].series_instance_uid: ["1.2.3.9"],
    }


def reviewed() -> dict[str, bytes]:
    """What a review makes of it: a successor with a human's category, and a note."""
    from fhir_ext.dicom.rejection import build_rejection
    from fhir_ext.dicom.sr import Correction, build_sr

    of = of_a_site()
    first = build_sr(of, headers(of), ISSUED)
    grade = Classification("grade", Region.LIVER, ("none",), (), "none")
    human = replace(of, classifications=(grade, *of.classifications[1:]), detections=())
    keys = frozenset({("grade", Region.LIVER)})
    correction = Correction("2.25.9", first, "Reader^Ann", "Not stated", keys)
    seg = headers(of)[-1]
    made = {
        "successor": build_sr(human, headers(of), ISSUED, correction),
        "note": build_rejection([first, seg], headers(of)[0], "2.25.10", "2.25.11", ISSUED),
    }
    found = {}
    for name, document in made.items():
        buffer = io.BytesIO()
        document.save_as(buffer, enforce_file_format=True)
        found[name] = buffer.getvalue()
    return found


def errors_of(dciodvfy: Path, path: Path) -> list[str]:
    answer = subprocess.run(
        [str(dciodvfy), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert {"Comprehensive3DSR", "KeyObjectSelectionDocument"} & set(lines), lines
    return [line for line in lines if line.startswith("Error")]


def test_dciodvfy_finds_no_error_after_a_review(tmp_path: Path, dciodvfy: Path) -> None:
    for name, part in reviewed().items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(part)
        assert errors_of(dciodvfy, path) == [], name


@pytest.mark.parametrize("name", RESULTS)
def test_the_same_arguments_give_the_same_bytes_and_dciodvfy_no_error(
    tmp_path: Path, dciodvfy: Path, name: str
) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(build(RESULTS[name]))
    assert path.read_bytes() == build(RESULTS[name])
    assert errors_of(dciodvfy, path) == []
