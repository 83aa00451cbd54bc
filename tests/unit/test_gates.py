"""Gates: every rule refuses and accepts what it should, with a coded reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from synthetic_cr import radiograph
from synthetic_cr import read as read_radiographs
from synthetic_mg import mammogram, raw_twin, view_code
from synthetic_mg import read as read_mammograms

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry, GeometryIssue
from fhir_ext.resources.codes import REFUSAL_REASON
from models.gates import BLOOD_POOL, Gate, Subject, first_refusal
from models.registry import Registry

GATE: TypeAdapter[Any] = TypeAdapter(Gate)
PLAIN = Acquisition(
    modality="CT",
    manufacturer="SIEMENS",
    convolution_kernel="B30f",
    slice_thickness_mm=1.0,
    kvp=120.0,
    patient_age_years=60.0,
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    burned_in_annotation="NO",
    photometric_interpretation="MONOCHROME2",
    patient_position="HFS",
)


def volume(
    acquisition: Acquisition = PLAIN,
    *,
    slices: int = 100,
    spacing: tuple[float, float, float] = (2.0, 0.8, 0.8),
    issues: tuple[GeometryIssue, ...] = (),
) -> CTVolume:
    dz, dy, dx = spacing
    return CTVolume(
        voxels=np.zeros((slices, 2, 2), dtype=np.int16),
        geometry=Geometry((0, 0, 0), (dx, 0, 0), (0, dy, 0), (0, 0, dz), ""),
        acquisition=acquisition,
        study_instance_uid="1.2",
        series_instance_uid="1.3",
        sop_instance_uids=tuple(f"1.4.{k}" for k in range(slices)),
        issues=issues,
    )


def with_header(**values: Any) -> CTVolume:
    return volume(replace(PLAIN, **values))


def turned() -> CTVolume:
    """Coronal slices."""
    grid = Geometry((0, 0, 0), (1, 0, 0), (0, 0, -1), (0, 1, 0), "")
    return replace(volume(), geometry=grid)


def of_mg(view: str = "L-CC", **changes: Any) -> Subject:
    (image,) = read_mammograms(mammogram(view, **changes))
    return Subject.of_image(image)


def of_cr(view: str = "PA", **changes: Any) -> Subject:
    (image,) = read_radiographs(radiograph(view, **changes))
    return Subject.of_image(image)


def blood(hu: float | None) -> Subject:
    """A subject whose aorta has so many HU; None: it has no aorta."""
    return Subject.of_volume(volume(), {BLOOD_POOL: {("aorta",): hu}.get})


RAW = Subject.of_image(read_mammograms(raw_twin(mammogram("L-CC")))[0])
KERNELS = {"rule": "kernel", "allow": {"siemens": [r"B[1-3]\d[fs]"], "philips": ["[AB]"]}}
THICKNESS = {"rule": "slice-thickness", "min": 0.5, "max": 5.0}

CASES: list[tuple[dict[str, Any], CTVolume | Subject, CTVolume | Subject]] = [
    ({"rule": "modality", "allow": ["CT"]}, volume(), with_header(modality="MR")),
    (
        {"rule": "image-type", "forbid": ["LOCALIZER", "SECONDARY"]},
        volume(),
        with_header(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
    ),
    (
        {"rule": "image-type", "forbid": ["SECONDARY"]},
        with_header(image_type=()),
        with_header(image_type=("DERIVED", "SECONDARY", "AXIAL")),
    ),
    (KERNELS, volume(), with_header(convolution_kernel="B70f")),
    (KERNELS, with_header(convolution_kernel="b31F"), with_header(convolution_kernel=None)),
    (
        KERNELS,
        with_header(manufacturer="Philips Healthcare", convolution_kernel="B"),
        with_header(manufacturer="Philips", convolution_kernel="B30f"),
    ),
    (KERNELS, volume(), with_header(manufacturer=None)),
    (KERNELS, volume(), with_header(convolution_kernel="B30f\\B70f")),
    (
        {"rule": "kernel", "deny": {"siemens": ["B[5-9].*"]}},
        with_header(convolution_kernel="I30f\\3"),
        with_header(convolution_kernel="B30f\\B70f"),
    ),
    ({**KERNELS, "deny": {"siemens": ["B31s"]}}, volume(), with_header(convolution_kernel="B31s")),
    (
        {**KERNELS, "unknown": "accept"},
        with_header(convolution_kernel=None),
        with_header(convolution_kernel="B70f"),
    ),
    (
        {"rule": "image-type", "require": ["ORIGINAL", "AXIAL"]},
        volume(),
        with_header(image_type=("ORIGINAL", "PRIMARY")),
    ),
    (
        {"rule": "patient-position", "allow": ["HFS", "FFS"]},
        volume(),
        with_header(patient_position="HFP"),
    ),
    (
        {"rule": "patient-position", "allow": ["HFS"], "unknown": "accept"},
        with_header(patient_position=None),
        with_header(patient_position="FFS"),
    ),
    (
        {"rule": "photometric-interpretation", "allow": ["MONOCHROME2"]},
        volume(),
        with_header(photometric_interpretation="MONOCHROME1"),
    ),
    (
        {"rule": "contrast-agent", "wanted": "present"},
        with_header(contrast_agent="Iohexol"),
        volume(),
    ),
    ({"rule": "slice-orientation", "max_degrees": 10}, volume(), turned()),
    ({"rule": "slice-orientation", "plane": "coronal", "max_degrees": 10}, turned(), volume()),
    ({"rule": "spacing", "min_between_slices": 2.0}, volume(), volume(spacing=(1.5, 0.8, 0.8))),
    ({"rule": "slice-count", "min": 1, "max": 100}, volume(), volume(slices=101)),
    ({"rule": "image-size", "min_rows": 2, "min_columns": 6}, of_mg(), volume()),
    ({"rule": "blood-pool", "structures": ["aorta"], "max_hu": 100}, blood(100), blood(101)),
    ({"rule": "blood-pool", "structures": ["aorta"], "min_hu": 150}, blood(150), blood(149)),
    (
        {"rule": "blood-pool", "structures": ["aorta"], "max_hu": 100, "unknown": "accept"},
        blood(None),
        blood(101),
    ),
    ({"rule": "blood-pool", "structures": ["aorta"], "max_hu": 100}, blood(40), blood(None)),
    ({"rule": "pixel-spacing"}, of_cr(), of_cr(ImagerPixelSpacing=None)),
    ({"rule": "pixel-spacing", "max_mm": 0.14}, of_cr(), of_cr(ImagerPixelSpacing=["0.2", "0.14"])),
    ({"rule": "pixel-spacing", "min_mm": 0.1}, of_cr(), of_cr(ImagerPixelSpacing=["0.09", "0.1"])),
    (
        {"rule": "pixel-spacing", "calibrated": True},
        of_cr(PixelSpacing=["0.12", "0.12"], PixelSpacingCalibrationType="GEOMETRY"),
        of_cr(),
    ),
    ({"rule": "view-position", "allow": ["PA"]}, of_cr("PA"), of_cr("AP")),
    ({"rule": "view-position", "allow": ["PA"]}, of_cr("PA"), of_cr("PA", ViewPosition="AP")),
    (
        {"rule": "view-position", "allow": ["PA"], "unknown": "accept"},
        of_cr("PA", ViewPosition=None, ViewCodeSequence=None),
        of_cr("LL"),
    ),
    (
        {"rule": "row-direction", "allow": ["L", "R"]},
        of_cr(),
        of_cr(PatientOrientation=["F", "R"]),
    ),
    (
        {"rule": "row-direction", "allow": ["L"], "unknown": "accept"},
        of_cr(PatientOrientation=None),
        of_cr(PatientOrientation=["R", "F"]),
    ),
    ({"rule": "laterality", "allow": ["L", "R"]}, of_mg("R-CC"), of_mg(ImageLaterality="B")),
    ({"rule": "laterality", "allow": ["R"]}, of_mg("R-CC"), of_mg("L-CC")),
    ({"rule": "presentation-intent", "allow": ["FOR PRESENTATION"]}, of_mg(), RAW),
    ({"rule": "mammography-view"}, of_mg(), of_mg(ViewPosition="MLO")),
    ({"rule": "mammography-view", "allow": ["CC", "MLO"]}, of_mg("L-MLO"), of_mg("L-XCCL")),
    ({"rule": "breast-implant"}, of_mg(), of_mg(BreastImplantPresent="YES")),
    (
        {"rule": "special-view"},
        of_mg(EstimatedRadiographicMagnificationFactor="1.8"),
        of_mg(PaddleDescription="10CM SPOT"),
    ),
    (
        {"rule": "special-view", "max_magnification": 1.3},
        of_mg(EstimatedRadiographicMagnificationFactor="1.1"),
        of_mg(EstimatedRadiographicMagnificationFactor="1.8"),
    ),
    (
        {"rule": "special-view", "modifiers": ["cleavage"]},
        of_mg(ViewCodeSequence=view_code("CC", "cleavage")),
        of_mg(ViewCodeSequence=view_code("CC", "cleavage", "tangential")),
    ),
    (THICKNESS, with_header(slice_thickness_mm=5.0), with_header(slice_thickness_mm=5.01)),
    (THICKNESS, with_header(slice_thickness_mm=0.5), with_header(slice_thickness_mm=0.4)),
    (THICKNESS, volume(), with_header(slice_thickness_mm=None)),
    ({"rule": "kvp", "min": 100, "max": 140}, volume(), with_header(kvp=80.0)),
    (
        {"rule": "kvp", "min": 100, "unknown": "accept"},
        with_header(kvp=None),
        with_header(kvp=70.0),
    ),
    ({"rule": "kvp", "min": 100}, volume(), with_header(kvp=None)),
    (
        {"rule": "patient-age", "min": 18, "unknown": "accept"},
        with_header(patient_age_years=None),
        with_header(patient_age_years=17.0),
    ),
    ({"rule": "patient-age", "min": 18}, volume(), with_header(patient_age_years=None)),
    ({"rule": "spacing", "max_between_slices": 2.0}, volume(), volume(spacing=(2.5, 0.8, 0.8))),
    ({"rule": "spacing", "max_in_plane": 0.8}, volume(), volume(spacing=(2.0, 0.7, 0.9))),
    ({"rule": "slice-count", "min": 100}, volume(), volume(slices=99)),
    ({"rule": "coverage", "min": 200}, volume(), volume(slices=99)),
    (
        {"rule": "contrast-agent"},
        with_header(contrast_agent=" "),
        with_header(contrast_agent="Iohexol"),
    ),
    (
        {"rule": "burned-in-annotation"},
        with_header(burned_in_annotation=None),
        with_header(burned_in_annotation="YES"),
    ),
    (
        {"rule": "burned-in-annotation", "unknown": "refuse"},
        volume(),
        with_header(burned_in_annotation=None),
    ),
    *(
        ({"rule": code}, volume(issues=(GeometryIssue("other", ""),)), volume(issues=(issue,)))
        for code in ("gap", "irregular-spacing", "duplicate-slices", "single-slice", "gantry-tilt")
        for issue in (GeometryIssue(code, "2 of 100"),)
    ),
]


@pytest.mark.parametrize(("rule", "good", "bad"), CASES, ids=lambda v: str(v)[:60])
def test_rule_accepts_and_refuses(
    rule: dict[str, Any], good: CTVolume | Subject, bad: CTVolume | Subject
) -> None:
    gate = GATE.validate_python(rule)
    assert first_refusal([gate], good) is None
    refusal = first_refusal([gate], bad)
    assert refusal is not None
    assert refusal.rule in (gate.reasons or (rule["rule"],))
    assert refusal.seen
    assert refusal.needed


def test_every_rule_of_the_engine_has_a_case_and_its_reasons_have_codes() -> None:
    union = get_args(get_args(Gate)[0])
    rules: set[str] = set()
    reasons: set[str] = set()
    for gate in union:
        own = get_args(gate.model_fields["rule"].annotation)
        rules |= set(own)
        reasons |= set(gate.reasons or own)
    # That rule looks at all images of a study: test_gates_study.py.
    assert rules - {"required-views"} == {rule["rule"] for rule, _, _ in CASES}
    assert reasons <= {item.code for item in REFUSAL_REASON.codes}


def test_a_gate_behind_the_first_that_refuses_is_not_asked() -> None:
    """What a gate measures may cost time."""

    def never(_structures: tuple[str, ...]) -> float | None:
        raise AssertionError("measured")

    gates = [
        GATE.validate_python({"rule": "kvp", "max": 100}),
        GATE.validate_python({"rule": "blood-pool", "structures": ["aorta"], "max_hu": 100}),
    ]
    refusal = first_refusal(gates, Subject.of_volume(volume(), {BLOOD_POOL: never}))
    assert refusal is not None
    assert refusal.rule == "kvp"


@pytest.mark.parametrize(
    ("rule", "subject"),
    [
        ({"rule": "gap"}, of_cr()),
        ({"rule": "pixel-spacing"}, Subject.of_volume(volume())),
        ({"rule": "breast-implant"}, of_cr()),
    ],
)
def test_what_a_subject_does_not_have_is_a_bug(rule: dict[str, Any], subject: Subject) -> None:
    with pytest.raises(LookupError):
        first_refusal([GATE.validate_python(rule)], subject)


def test_refusals_come_in_the_order_of_the_gates_and_only_for_what_they_cover() -> None:
    gates = [
        GATE.validate_python({"rule": "kvp", "min": 100, "applies_to": ["laa-950"]}),
        GATE.validate_python({"rule": "coverage", "min": 1000}),
    ]
    bad = with_header(kvp=80.0)
    for measurement, rule in (("laa-950", "kvp"), ("lung-volume", "coverage"), (None, "kvp")):
        refusal = first_refusal(gates, bad, measurement)
        assert refusal is not None
        assert refusal.rule == rule


def test_refusal_names_what_was_seen_and_what_is_needed() -> None:
    thickness = GATE.validate_python({"rule": "slice-thickness", "max": 5.0})
    refusal = first_refusal([thickness], with_header(slice_thickness_mm=8.0))
    assert refusal is not None
    assert (refusal.seen, refusal.needed) == ("8 mm", "at most 5 mm")
    refusal = first_refusal([thickness], with_header(slice_thickness_mm=None))
    assert refusal is not None
    assert refusal.seen == "not stated"


def test_refusal_does_not_repeat_age_or_agent() -> None:
    age = GATE.validate_python({"rule": "patient-age", "max": 80})
    refusal = first_refusal([age], with_header(patient_age_years=97.0))
    assert refusal is not None
    assert "97" not in refusal.seen
    agent = GATE.validate_python({"rule": "contrast-agent"})
    refusal = first_refusal([agent], with_header(contrast_agent="given by J. Doe"))
    assert refusal is not None
    assert "Doe" not in refusal.seen


def test_header_text_is_cut_and_cleaned() -> None:
    gate = GATE.validate_python(KERNELS)
    refusal = first_refusal([gate], with_header(convolution_kernel="X\n\x00" + "Y" * 500))
    assert refusal is not None
    assert refusal.seen == "X" + "Y" * 63


@pytest.mark.parametrize(
    "bad",
    [
        {"rule": "no-such-rule"},
        {"rule": "kvp"},
        {"rule": "kvp", "min": 140, "max": 100},
        {"rule": "spacing"},
        {"rule": "kernel", "allow": {"siemens": ["B[3"]}},
        {"rule": "kernel", "allow": {}},
        {"rule": "coverage", "min": 200, "surplus": 1},
        {"rule": "kernel"},
        {"rule": "kernel", "allow": {"siemens": []}},
        {"rule": "kernel", "allow": {"ge": ["SOFT"]}, "deny": {"ge": [".*"]}},
        {"rule": "kernel", "allow": {"ge": ["SOFT"]}, "deny": {"ge": ["SO.*", "LUNG"]}},
        {"rule": "image-type"},
        {"rule": "image-type", "forbid": ["AXIAL"], "require": ["AXIAL"]},
        {"rule": "slice-count", "min": 5, "max": 4},
        {"rule": "spacing", "min_between_slices": 2, "max_between_slices": 1},
        {"rule": "blood-pool", "structures": ["aorta"]},
        {"rule": "blood-pool", "structures": [], "max_hu": 1},
        {"rule": "blood-pool", "structures": ["aorta"], "min_hu": 150, "max_hu": 100},
        {"rule": "gap", "applies_to": []},
    ],
)
def test_malformed_gate_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GATE.validate_python(bad)


@pytest.mark.parametrize(
    ("manufacturer", "kernel", "accepted"),
    [
        ("SIEMENS", "B30f", True),
        ("Siemens Healthineers", "Br40d\\3", True),
        ("SIEMENS", "I30f\\2", True),
        ("SIEMENS", "B70f", False),
        ("SIEMENS", "B50f", False),
        ("Siemens Healthineers", "Bl57d\\3", False),
        ("GE MEDICAL SYSTEMS", "STANDARD", True),
        ("GE MEDICAL SYSTEMS", "LUNG", False),
        ("GE MEDICAL SYSTEMS", "BONEPLUS", False),
        ("Philips", "B", True),
        ("Philips", "L", False),
        ("Philips", "YB", False),
        ("TOSHIBA", "FC01", True),
        ("Canon Medical Systems", "FC18", True),
        ("TOSHIBA", "FC51", False),
        ("Unheard of", "B", False),
        (None, "STANDARD", False),
        ("Philips", None, False),
    ],
)
def test_shipped_kernel_lists(manufacturer: str | None, kernel: str | None, accepted: bool) -> None:
    manifest = Registry().manifest("lung-density")
    refused = manifest.refusals(with_header(manufacturer=manufacturer, convolution_kernel=kernel))
    assert "lung-volume" not in refused
    for name in ("mean-lung-density", "laa-950", "perc15"):
        assert (name not in refused) is accepted
        assert accepted or refused[name].rule == "kernel"
