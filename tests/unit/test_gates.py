"""Gates: every rule refuses and accepts what it should, with a coded reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry, GeometryIssue
from models.gates import RULES, Gate, evaluate
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


KERNELS = {"rule": "kernel", "allow": {"siemens": [r"B[1-3]\d[fs]"], "philips": ["[AB]"]}}
THICKNESS = {"rule": "slice-thickness", "min": 0.5, "max": 5.0}

CASES: list[tuple[dict[str, Any], CTVolume, CTVolume]] = [
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
def test_rule_accepts_and_refuses(rule: dict[str, Any], good: CTVolume, bad: CTVolume) -> None:
    gate = GATE.validate_python(rule)
    assert evaluate([gate], good) == ()
    (refusal,) = evaluate([gate], bad)
    assert refusal.rule == rule["rule"]
    assert refusal.seen
    assert refusal.needed


def test_every_rule_of_the_engine_is_listed_and_has_a_case() -> None:
    union = get_args(get_args(Gate)[0])
    codes = {code for gate in union for code in get_args(gate.model_fields["rule"].annotation)}
    assert codes <= set(RULES)
    assert codes == {rule["rule"] for rule, _, _ in CASES}
    assert set(RULES) - codes == {"lung-mask-implausible", "implausible-value"}


def test_rule_codes_are_kebab_case_and_explained() -> None:
    for code, meaning in RULES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert meaning.endswith(".")


def test_refusals_come_in_the_order_of_the_gates_and_only_for_what_they_cover() -> None:
    gates = [
        GATE.validate_python({"rule": "kvp", "min": 100, "applies_to": ["laa-950"]}),
        GATE.validate_python({"rule": "coverage", "min": 1000}),
    ]
    bad = with_header(kvp=80.0)
    assert [r.rule for r in evaluate(gates, bad, "laa-950")] == ["kvp", "coverage"]
    assert [r.rule for r in evaluate(gates, bad, "lung-volume")] == ["coverage"]
    assert [r.rule for r in evaluate(gates, bad)] == ["kvp", "coverage"]


def test_refusal_names_what_was_seen_and_what_is_needed() -> None:
    thickness = GATE.validate_python({"rule": "slice-thickness", "max": 5.0})
    (refusal,) = evaluate([thickness], with_header(slice_thickness_mm=8.0))
    assert (refusal.seen, refusal.needed) == ("8 mm", "at most 5 mm")
    (refusal,) = evaluate([thickness], with_header(slice_thickness_mm=None))
    assert refusal.seen == "not stated"


def test_refusal_does_not_repeat_age_or_agent() -> None:
    age = GATE.validate_python({"rule": "patient-age", "max": 80})
    (refusal,) = evaluate([age], with_header(patient_age_years=97.0))
    assert "97" not in refusal.seen
    agent = GATE.validate_python({"rule": "contrast-agent"})
    (refusal,) = evaluate([agent], with_header(contrast_agent="given by J. Doe"))
    assert "Doe" not in refusal.seen


def test_header_text_is_cut_and_cleaned() -> None:
    gate = GATE.validate_python(KERNELS)
    (refusal,) = evaluate([gate], with_header(convolution_kernel="X\n\x00" + "Y" * 500))
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
