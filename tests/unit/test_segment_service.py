"""The whole service on a torso of countable truth: numbers, gates, guards, notes, issues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analytic import Mask, arch, ball, geometry_of, places, structure, tube, volume_of
from said_samples import assert_words, with_words
from seg_samples import SPLEEN, seg, segment

from fhir_ext.dicom.volume import CTVolume, GeometryIssue
from fhir_ext.results import Measurement, Refusal, Region
from models.registry import Registry
from models.runtime.host import Host
from models.segment_measurements.service import SegmentMeasurements, create
from models.segment_measurements.tissue import core, mean_hu
from models.segmentation.structures import Structures
from models.service import ModelInput, ServiceOutput

MANIFEST = Registry().manifest("segment-measurements")
SERVICE = SegmentMeasurements(MANIFEST)
SHAPE = (60, 110, 150)
SPACING = (2.5, 0.8, 0.8)
GRID = geometry_of(SHAPE, SPACING)
WHERE = places(GRID, SHAPE)
RIM = MANIFEST.settings["vertebra_rim_mm"]


def _drawn() -> dict[str, Mask]:
    vertebra = tube(WHERE, (-35, 25, -15), (-35, 25, 13), 15.0)
    behind = tube(WHERE, (-35, 38, -8), (-35, 43, -8), 5.0)
    bend = np.array([-48.0, 0.0, 30.0])[:, None, None, None]
    return {
        "aorta": arch(WHERE - bend, 11.0, 22.0, (60.0, 85.0)),
        "pulmonary-trunk": tube(WHERE, (-20, -30, -30), (-5, -12, 22), 12.0),
        "liver": ball(WHERE, (30, -5, -35), 27.0),
        "spleen": ball(WHERE, (30, 22, 30), 18.0),
        "left-kidney": ball(WHERE, (20, -25, 35), 17.0),
        "vertebra-l1": vertebra | behind,
        "pericardium": ball(WHERE, (0, -20, 40), 16.0),
        "coronary-arteries": ball(WHERE, (-5, 22, -50), 18.0),
    }


DRAWN = _drawn()
VALUES = {"aorta": 45, "pulmonary-trunk": 44, "liver": 38, "spleen": 52, "left-kidney": 30,
          "pericardium": 40, "coronary-arteries": 20}  # fmt: skip
PLAQUE = (slice(9, 12), slice(78, 82), slice(66, 71))
FAT = ball(WHERE, (0, -20, 40), 11.0)


def _hu() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    for name, value in VALUES.items():
        hu[DRAWN[name]] = value
    hu[DRAWN["vertebra-l1"]] = 700
    deep = tube(WHERE, (-35, 25, -12), (-35, 25, 10), 12.0)
    hu[deep] = 100
    hu[FAT] = -90
    hu[PLAQUE] = 320
    return hu


HU = _hu()


def torso(hu: Any = HU, **acquisition: Any) -> CTVolume:
    return volume_of(hu, GRID, **acquisition)


def structures(without: tuple[str, ...] = (), **changed: Mask) -> Structures:
    return Structures(
        {
            name: structure(name, mask)
            for name, mask in {**DRAWN, **changed}.items()
            if name not in without
        }
    )


def only(*names: str) -> Structures:
    return structures(without=tuple(name for name in DRAWN if name not in names))


def by_key(output: ServiceOutput) -> dict[tuple[str, Region], Measurement]:
    return {(m.name, m.region): m for m in output.measurements}


def value(output: ServiceOutput, name: str, region: Region) -> float:
    found = by_key(output)[name, region]
    assert found.value is not None, found.refusal
    return found.value


def refusal(output: ServiceOutput, name: str, region: Region) -> Refusal:
    found = by_key(output)[name, region].refusal
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole() -> ServiceOutput:
    return SERVICE.measure(torso(), structures())


def test_every_output_is_there_in_order(whole: ServiceOutput) -> None:
    assert [(m.name, m.region, m.unit) for m in whole.measurements] == [
        (o.name, o.region, o.unit) for o in MANIFEST.measurements
    ]


def test_calcium_is_exact(whole: ServiceOutput) -> None:
    """Three slices of 4 x 5 pixels of 0.64 mm2 with 320 HU: weight 3."""
    area = 20 * 0.64
    score = value(whole, "agatston-score", Region.CORONARY_ARTERIES)
    assert score == pytest.approx(3 * area * 3 * 2.5 / 3, abs=5e-4)
    volume = value(whole, "calcium-volume", Region.CORONARY_ARTERIES)
    assert volume == pytest.approx(3 * area * 2.5, abs=0.05)


def test_attenuation_is_that_of_the_core(whole: ServiceOutput) -> None:
    # Where the arch of the vertebra begins, a little cortex lies deep.
    assert abs(value(whole, "trabecular-attenuation", Region.VERTEBRA_L1) - 100.0) < 0.5
    assert value(whole, "organ-attenuation", Region.LIVER) == 38.0
    assert value(whole, "organ-attenuation", Region.SPLEEN) == 52.0
    assert value(whole, "liver-spleen-difference", Region.LIVER) == -14.0


def test_diameters_and_their_ratio(whole: ServiceOutput) -> None:
    widths = {
        region: value(whole, "vessel-diameter", region)
        for region in (Region.ASCENDING_AORTA, Region.DESCENDING_AORTA, Region.PULMONARY_TRUNK)
    }
    truth = {Region.ASCENDING_AORTA: 22, Region.DESCENDING_AORTA: 22, Region.PULMONARY_TRUNK: 24}
    for region, width in widths.items():
        assert abs(width - truth[region]) < 0.8, region
    ratio = value(whole, "pa-aorta-ratio", Region.PULMONARY_TRUNK)
    assert ratio == pytest.approx(24 / 22, abs=0.05)


def test_volumes_are_counted(whole: ServiceOutput) -> None:
    # The liver of this torso is too small to be one.
    assert refusal(whole, "organ-volume", Region.LIVER).rule == "implausible-value"
    for region, radius in ((Region.SPLEEN, 18.0), (Region.LEFT_KIDNEY, 17.0)):
        counted = DRAWN[region].sum() * GRID.voxel_volume_ml
        assert value(whole, "organ-volume", region) == pytest.approx(counted, abs=0.05)
        assert counted == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)
    fat = (FAT & DRAWN["pericardium"]).sum() * GRID.voxel_volume_ml
    assert value(whole, "epicardial-fat-volume", Region.PERICARDIUM) == pytest.approx(fat, abs=0.05)


def test_issues(whole: ServiceOutput) -> None:
    assert whole.risks == ()
    details = {issue.code: issue.detail for issue in whole.issues}
    assert details.keys() == {
        "coronary-calcium", "pulmonary-trunk-dilated", "low-vertebral-attenuation",
    }  # fmt: skip
    assert details["coronary-calcium"] == "Agatston score 96.0, CAC-DRS A1."
    again = Registry().derive(MANIFEST.identity(), whole.measurements)
    assert again == (whole.risks, whole.issues)


def test_missing_structures_are_named(whole: ServiceOutput) -> None:
    found = refusal(whole, "organ-volume", Region.PANCREAS)
    assert found == Refusal("segment-missing", "none", "a segment of pancreas")
    assert refusal(whole, "agatston-score", Region.LEFT_MAIN).rule == "segment-missing"
    empty = SERVICE.run(ModelInput(torso()))
    assert {m.refusal.rule for m in empty.measurements if m.refusal} == {
        "segment-missing", "blood-pool-unknown",
    }  # fmt: skip
    assert empty.issues == ()


ATTENUATIONS = {
    "agatston-score", "calcium-volume", "trabecular-attenuation", "organ-attenuation",
    "liver-spleen-difference", "epicardial-fat-volume",
}  # fmt: skip


@pytest.mark.parametrize(
    ("acquisition", "rule", "withheld"),
    [
        ({"kvp": 100.0}, "kvp", ATTENUATIONS),
        ({"kvp": None}, "kvp", ATTENUATIONS),
        ({"contrast_agent": "x"}, "contrast-agent", ATTENUATIONS),
        ({"convolution_kernel": "B70f"}, "kernel",
         {"agatston-score", "calcium-volume", "epicardial-fat-volume"}),
        ({"slice_thickness_mm": 5.0}, "slice-thickness", {"agatston-score", "calcium-volume"}),
        ({"patient_age_years": 12.0}, "patient-age", None),
        ({"image_type": ("DERIVED", "SECONDARY", "MIP")}, "image-type", None),
        ({"modality": "MR"}, "modality", None),
    ],
)  # fmt: skip
def test_gates(acquisition: dict[str, Any], rule: str, withheld: set[str] | None) -> None:
    refused = MANIFEST.refusals(torso(**acquisition))
    assert set(refused) == (withheld or {output.name for output in MANIFEST.outputs})
    assert {found.rule for found in refused.values()} == {rule}
    output = SERVICE.measure(torso(**acquisition), only("liver", "spleen"))
    for found in output.measurements:
        if found.name in refused:
            assert found.refusal == refused[found.name]


@pytest.mark.parametrize("issue", ["gap", "irregular-spacing", "duplicate-slices"])
def test_odd_stacks(issue: str) -> None:
    volume = replace(torso(), issues=(GeometryIssue(issue, "1"),))
    output = SERVICE.measure(volume, only("liver"))
    assert {m.refusal.rule for m in output.measurements if m.refusal} == {issue}
    assert len([m for m in output.measurements if m.refusal]) == len(output.measurements)


def test_enhanced_blood_withholds_what_contrast_changes() -> None:
    hu = HU.copy()
    hu[DRAWN["aorta"]] = 180
    output = SERVICE.measure(torso(hu), structures())
    names = {m.name for m in output.measurements if m.refusal == Refusal(
        "blood-pool-enhanced", "180 HU", "at most 100 HU")}  # fmt: skip
    assert names == ATTENUATIONS
    assert value(output, "organ-volume", Region.SPLEEN) > 0
    assert value(output, "vessel-diameter", Region.ASCENDING_AORTA) > 0


def test_calcium_needs_blood_to_look_at() -> None:
    output = SERVICE.measure(torso(), only("liver", "coronary-arteries"))
    found = refusal(output, "agatston-score", Region.CORONARY_ARTERIES)
    assert found.rule == "blood-pool-unknown"
    assert value(output, "organ-attenuation", Region.LIVER) == 38.0


def test_four_arteries_make_the_whole_and_three_do_not() -> None:
    z, y, x = PLAQUE
    parts = {}
    for i, name in enumerate(
        ["left-main-coronary-artery", "left-anterior-descending-artery", "circumflex-artery",
         "right-coronary-artery"]
    ):  # fmt: skip
        parts[name] = np.zeros(SHAPE, dtype=np.bool_)
        parts[name][z, y.start + i, x] = True
        parts[name][z, 60 + i, x] = True
    others = tuple(name for name in DRAWN if name != "aorta")
    four = structures(without=others, **parts)
    output = SERVICE.measure(torso(), four)
    total = value(output, "agatston-score", Region.CORONARY_ARTERIES)
    single = [value(output, "agatston-score", Region(name)) for name in parts]
    assert total == pytest.approx(96.0, abs=1e-3)
    assert sum(single) == pytest.approx(total, abs=2e-3)
    (calcium,) = (issue for issue in output.issues if issue.code == "coronary-calcium")
    assert calcium.detail == "Agatston score 96.0, CAC-DRS A1/N4."
    three = structures(without=(*others, "circumflex-artery"), **parts)
    found = refusal(SERVICE.measure(torso(), three), "agatston-score", Region.CORONARY_ARTERIES)
    assert found == Refusal("segment-missing", "none", "a segment of circumflex artery")


def test_a_cut_organ_has_no_volume() -> None:
    low = ball(WHERE, (30, -5, -70), 27.0)
    output = SERVICE.measure(torso(), structures(without=("aorta",), liver=low))
    found = refusal(output, "organ-volume", Region.LIVER)
    assert found.rule == "coverage"
    assert "widest cut" in found.seen
    assert by_key(output)["organ-attenuation", Region.LIVER].refusal is not None


def test_a_segment_that_reaches_out_of_the_images() -> None:
    outside = {"liver": replace(structure("liver", DRAWN["liver"]), outside=0.2)}
    found = refusal(SERVICE.measure(torso(), Structures(outside)), "organ-volume", Region.LIVER)
    assert (found.rule, found.seen) == ("coverage", "20.0 % of the segment outside")


def test_too_little_to_measure() -> None:
    small = ball(WHERE, (-35, 25, 0), 6.0)
    output = SERVICE.measure(torso(), structures(without=("aorta",), **{"vertebra-l1": small}))
    found = refusal(output, "trabecular-attenuation", Region.VERTEBRA_L1)
    assert found.rule == "core-too-small"


def test_implausible_numbers_are_withheld() -> None:
    hu = HU.copy()
    hu[DRAWN["liver"]] = 250
    output = SERVICE.measure(torso(hu), only("liver"))
    found = refusal(output, "organ-attenuation", Region.LIVER)
    assert found == Refusal("implausible-value", "250", "-60 to 130")


def test_what_the_manifest_says_of_a_number_is_said() -> None:
    assert_words(SegmentMeasurements(with_words(MANIFEST)).measure(torso(), structures()))


def test_the_core_is_deep() -> None:
    """A cylinder of 15 mm: its core of 5 mm lies within 10 mm of its axis."""
    mask = tube(WHERE, (-35, 25, -15), (-35, 25, 13), 15.0)
    inner = core(mask, float(RIM), SPACING)
    x, y, z = WHERE
    assert np.hypot(x + 35, y - 25)[inner].max() <= 10.0 + 0.4
    assert (np.abs(z[inner] + 1.0) <= 14.0 - 5.0 + 1.25).all()
    counted = inner.sum() * GRID.voxel_volume_ml
    assert counted == pytest.approx(np.pi * 10.0**2 * 18.0 / 1000, rel=0.15)
    assert mean_hu(HU, inner) == 100.0


@pytest.mark.parametrize(
    ("gated", "said"),
    [(True, "was ECG-gated"), (False, "was not ECG-gated"), (None, "does not say")],
)
def test_gating_is_said(gated: bool | None, said: str) -> None:
    output = SERVICE.measure(torso(ecg_gated=gated), only("aorta", "coronary-arteries"))
    assert any(name == "agatston-score" and said in text for name, text in output.notes)


def test_array_and_geometry_turned_together_change_nothing(whole: ServiceOutput) -> None:
    def turned(array: Any) -> Any:
        return np.ascontiguousarray(array[::-1, ::-1, ::-1])

    grid = replace(
        GRID,
        origin=tuple(-value for value in GRID.origin),
        column_step=(-0.8, 0.0, 0.0),
        row_step=(0.0, -0.8, 0.0),
        slice_step=(0.0, 0.0, -2.5),
    )
    volume = volume_of(turned(HU), grid)
    output = SERVICE.measure(
        volume, Structures({n: structure(n, turned(m)) for n, m in DRAWN.items()})
    )
    for one, two in zip(whole.measurements, output.measurements, strict=True):
        assert (one.refusal is None) is (two.refusal is None)
        if one.value is not None and two.value is not None:
            loose = one.name in ("vessel-diameter", "pa-aorta-ratio")
            assert one.value == pytest.approx(two.value, abs=0.15 if loose else 1e-9), one.name


def test_from_a_segmentation_object() -> None:
    """The way of a study: SEG of another program; two runs are alike, the images stay."""
    vertebra = ("SCT", "66794005", "L1 vertebra")
    pixels = np.stack([DRAWN["spleen"], DRAWN["vertebra-l1"]], axis=-1)
    made = seg(GRID, pixels, segment(1, SPLEEN), segment(2, vertebra, label="L1"))
    before = HU.copy()
    output = SERVICE.run(ModelInput(torso(), (made,)))
    assert value(output, "organ-volume", Region.SPLEEN) == pytest.approx(
        DRAWN["spleen"].sum() * GRID.voxel_volume_ml, abs=0.05
    )
    (source,) = output.further
    assert source.sop_instance_uids == (made.sop_instance_uid,)
    assert ("organ-volume", "Measured in a segment that a program drew.") in output.notes
    assert SERVICE.run(ModelInput(torso(), (made,))) == output
    np.testing.assert_array_equal(before, HU)
    away = replace(torso(), geometry=replace(GRID, frame_of_reference_uid="1.2.3"))
    rules = {
        m.refusal.rule for m in SERVICE.run(ModelInput(away, (made,))).measurements if m.refusal
    }
    assert rules == {"seg-frame-of-reference", "blood-pool-unknown"}


def test_the_registry_makes_it() -> None:
    assert isinstance(create(MANIFEST, Path(), Host()), SegmentMeasurements)
    loaded = Registry().load("segment-measurements")
    assert all(m.refusal is not None for m in loaded.run(ModelInput(torso())).measurements)
