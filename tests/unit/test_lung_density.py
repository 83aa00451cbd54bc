"""Lung density against known truth, in every orientation, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import permutations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from said_samples import assert_words, with_words
from scipy import ndimage

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from fhir_ext.phantom import ORIENTATIONS, OrientationName, Phantom, PhantomSpec, build, orient
from fhir_ext.results import Measurement, Region
from models.lung_density import operators
from models.lung_density.conclusions import Thresholds
from models.lung_density.postprocess import check_shares, numbers_of, percentile
from models.lung_density.service import LungDensity, create
from models.manifest import ManifestError
from models.registry import Registry
from models.runtime.host import Host
from models.service import ServiceOutput

Voxels = npt.NDArray[np.int16]
SOFT = Acquisition("CT", "SIEMENS", "B30f", 2.5, 120.0, patient_age_years=61.0)
#: Isotropic, so that any axis may be the slice axis without another spacing.
CUBE = PhantomSpec(shape=(168, 168, 240), spacing_mm=(1.45, 1.45, 1.45))


@cache
def phantom(spec: PhantomSpec) -> tuple[Phantom, Voxels]:
    drawn = build(spec)
    return drawn, drawn.render("soft")


@cache
def service() -> LungDensity:
    return create(Registry().manifest("lung-density"), Path(), Host())


def volume(voxels: Voxels, geometry: Geometry, acquisition: Acquisition = SOFT) -> CTVolume:
    voxels = np.ascontiguousarray(voxels)
    return CTVolume(voxels, geometry, acquisition, "1.2", "1.3", ("1.4",) * voxels.shape[0])


def shown(
    spec: PhantomSpec, orientation: OrientationName = "HFS", acquisition: Acquisition = SOFT
) -> CTVolume:
    return volume(*orient(phantom(spec)[1], spec.spacing_mm, orientation), acquisition)


def values(output: ServiceOutput) -> dict[tuple[str, Region], float | None]:
    return {(m.name, m.region): m.value for m in output.measurements}


def codes(output: ServiceOutput) -> dict[str, str | None]:
    return {m.name: m.refusal.rule if m.refusal else None for m in output.measurements}


def geometry_of(spacing: tuple[float, float, float]) -> Geometry:
    dz, dy, dx = spacing
    return Geometry((0, 0, 0), (dx, 0, 0), (0, dy, 0), (0, 0, dz), "")


@pytest.mark.parametrize(
    "spec",
    [
        PhantomSpec(),
        PhantomSpec(emphysema_fraction=0.0),
        PhantomSpec(emphysema_fraction=0.05, seed=4),
        PhantomSpec(emphysema_fraction=0.45),
        PhantomSpec(emphysema_fraction=0.6),
        PhantomSpec(lungs_touch=True),
        PhantomSpec(prone=True),
        PhantomSpec((60, 256, 256), (5.0, 1.45, 1.45), seed=9),
        PhantomSpec((200, 300, 300), (1.25, 1.2, 1.2), seed=5),
    ],
    ids=str,
)
def test_numbers_are_the_known_truth(spec: PhantomSpec) -> None:
    drawn, rendered = phantom(spec)
    found = values(service().measure(shown(spec)))
    # The truth before noise for what noise does not move; for Perc15, which noise
    # smears, the same voxels counted inside the drawn lungs.
    smeared = drawn.count(rendered)
    for region in (Region.LUNGS, Region.LEFT_LUNG, Region.RIGHT_LUNG):
        truth = drawn.truth.region(region)
        assert found["lung-volume", region] == pytest.approx(truth.volume_ml, rel=0.003)
        assert found["mean-lung-density", region] == pytest.approx(truth.mean_hu, abs=1.0)
        assert found["laa-950", region] == pytest.approx(truth.laa_950_percent, abs=0.1)
        assert found["perc15", region] == pytest.approx(smeared.region(region).perc15_hu, abs=1.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_patient_position_changes_nothing(orientation: OrientationName) -> None:
    spec = PhantomSpec()
    assert service().measure(shown(spec, orientation)) == service().measure(shown(spec))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_orientation_of_the_array_gives_the_same_numbers(order: tuple[int, ...]) -> None:
    straight, geometry = orient(phantom(CUBE)[1], CUBE.spacing_mm, "HFS")
    expected = values(service().measure(volume(straight, geometry)))
    steps = [geometry.slice_step, geometry.row_step, geometry.column_step]
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, 1, -1)):
        turned = straight[:: signs[0], :: signs[1], :: signs[2]].transpose(order)
        z, y, x = (tuple(signs[axis] * step for step in steps[axis]) for axis in order)
        there = Geometry((0, 0, 0), x, y, z, "")  # type: ignore[arg-type]
        assert values(service().measure(volume(turned, there))) == expected


def test_a_mirrored_patient_swaps_the_lungs() -> None:
    spec = PhantomSpec()
    voxels, geometry = orient(phantom(spec)[1], spec.spacing_mm, "HFS")
    straight = values(service().measure(volume(voxels, geometry)))
    mirrored = values(service().measure(volume(voxels[:, :, ::-1], geometry)))
    left, right = ("lung-volume", Region.LEFT_LUNG), ("lung-volume", Region.RIGHT_LUNG)
    assert straight[left] != straight[right]
    assert mirrored[left] == pytest.approx(straight[right], rel=1e-3)
    assert mirrored[right] == pytest.approx(straight[left], rel=1e-3)


def test_oblique_stack_is_read_along_its_nearest_axes() -> None:
    spec = PhantomSpec()
    voxels, geometry = orient(phantom(spec)[1], spec.spacing_mm, "FFP")
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    steps = (geometry.column_step, geometry.row_step, geometry.slice_step)
    x, y, z = (tuple(float(value) for value in turn @ step) for step in steps)
    oblique = Geometry((0, 0, 0), x, y, z, "")  # type: ignore[arg-type]
    assert values(service().measure(volume(voxels, oblique))) == values(
        service().measure(shown(spec))
    )


def test_input_is_not_changed_and_may_be_read_only() -> None:
    spec = PhantomSpec()
    given = shown(spec)
    before = given.voxels.copy()
    given.voxels.flags.writeable = False
    service().measure(given)
    assert np.array_equal(given.voxels, before)


def test_sharp_kernel_keeps_the_volume_and_withholds_densities() -> None:
    spec = PhantomSpec()
    drawn, _ = phantom(spec)
    sharp = replace(SOFT, convolution_kernel="B70f")
    given = volume(*orient(drawn.render("sharp"), spec.spacing_mm, "HFS"), sharp)
    output = service().measure(given)
    assert codes(output) == {
        "lung-volume": None,
        "mean-lung-density": "kernel",
        "laa-950": "kernel",
        "perc15": "kernel",
    }
    found = values(output)["lung-volume", Region.LUNGS]
    assert found == pytest.approx(drawn.truth.lungs.volume_ml, rel=0.003)
    assert (output.risks, output.issues) == ((), ())


def test_contrast_and_thickness_withhold_what_they_spoil() -> None:
    spec = PhantomSpec()
    given = shown(spec, acquisition=replace(SOFT, slice_thickness_mm=7.0))
    assert codes(service().measure(given)) == {
        "lung-volume": None,
        "mean-lung-density": None,
        "laa-950": "slice-thickness",
        "perc15": "slice-thickness",
    }
    given = shown(spec, acquisition=replace(SOFT, contrast_agent="yes"))
    found = codes(service().measure(given))
    assert found["lung-volume"] is None
    assert {found[name] for name in ("mean-lung-density", "laa-950", "perc15")} == {
        "contrast-agent"
    }


def test_child_is_refused_as_a_whole_without_looking() -> None:
    given = shown(PhantomSpec(), acquisition=replace(SOFT, patient_age_years=9.0))
    assert set(codes(service().measure(given)).values()) == {"patient-age"}


@pytest.mark.parametrize(("fraction", "found"), [(0.049, False), (0.051, True)])
def test_emphysema_is_stated_from_five_percent(fraction: float, found: bool) -> None:
    output = service().measure(shown(PhantomSpec(emphysema_fraction=fraction)))
    assert bool(output.risks) is bool(output.issues) is found
    for risk, issue in zip(output.risks, output.issues, strict=True):
        assert (risk.outcome, risk.qualitative, risk.basis) == ("emphysema", "high", ("laa-950",))
        assert "10.2147/COPD.S284477" in risk.rationale
        assert (issue.code, issue.known_condition) == ("emphysema-on-ct", "emphysema")
        assert issue.evidence == ("laa-950",)


def drawn_and_altered(change: str) -> Voxels:
    drawn, rendered = phantom(PhantomSpec())
    voxels = rendered.copy()
    tissue = np.int16(40)
    if change == "one lung is solid":
        voxels[drawn.lungs == 1] = tissue
    elif change == "one lung is mostly solid":
        keep = np.arange(voxels.shape[0])[:, None, None] > 75
        voxels[(drawn.lungs == 1) & ~keep] = tissue
    elif change == "no trachea":
        voxels[:, 100:160, 108:148][voxels[:, 100:160, 108:148] < -500] = tissue
    elif change == "cut below":
        voxels = voxels[25:]
    elif change == "cut above":
        voxels = voxels[:90]
    elif change == "field of view too narrow":
        voxels = voxels[:, :, 36:]
    elif change == "lungs fused":
        voxels[45:75, 70:180, 100:156] = -860
    else:
        fills = {"air": -1024, "water": 0, "lung everywhere": -850}
        voxels[...] = fills[change]
    return voxels


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("one lung is solid", "lung-mask-implausible"),
        ("one lung is mostly solid", "lung-mask-implausible"),
        ("no trachea", "lung-mask-implausible"),
        ("lungs fused", "lung-mask-implausible"),
        ("air", "lung-mask-implausible"),
        ("water", "lung-mask-implausible"),
        ("lung everywhere", "lung-mask-implausible"),
        ("cut below", "coverage"),
        ("cut above", "coverage"),
        ("field of view too narrow", "coverage"),
    ],
)
def test_a_mask_that_cannot_be_believed_gives_no_number(change: str, code: str) -> None:
    given = volume(drawn_and_altered(change), geometry_of(PhantomSpec().spacing_mm))
    output = service().measure(given)
    assert set(codes(output).values()) == {code}
    assert (output.risks, output.issues) == ((), ())


def test_noise_gives_no_number() -> None:
    noise = np.random.default_rng(0).integers(-1024, 1000, (60, 96, 96)).astype(np.int16)
    output = service().measure(volume(noise, geometry_of((5.0, 1.5, 1.5))))
    assert set(codes(output).values()) == {"lung-mask-implausible"}


def test_a_number_outside_its_valid_range_is_withheld() -> None:
    manifest = Registry().manifest("lung-density")
    outputs = tuple(
        output.model_copy(update={"valid": (9000.0, 9001.0)})
        if output.name == "lung-volume"
        else output
        for output in manifest.outputs
    )
    narrow = create(manifest.model_copy(update={"outputs": outputs}), Path(), Host())
    found = codes(narrow.measure(shown(PhantomSpec())))
    assert found["lung-volume"] == "implausible-value"
    assert found["laa-950"] is None


def test_what_the_manifest_says_of_a_number_is_said() -> None:
    manifest = with_words(Registry().manifest("lung-density"))
    assert_words(create(manifest, Path(), Host()).measure(shown(PhantomSpec())))


def test_a_number_that_is_not_measured_is_an_error_when_loaded() -> None:
    manifest = Registry().manifest("lung-density")
    outputs = (*manifest.outputs, manifest.outputs[0].model_copy(update={"region": Region.LIVER}))
    with pytest.raises(ManifestError, match=r"outputs\.12: lung-volume is not measured"):
        create(manifest.model_copy(update={"outputs": outputs}), Path(), Host())


@pytest.mark.parametrize("name", ["block_mm", "closing_mm", "surplus"])
def test_a_wrong_setting_is_an_error_when_loaded(name: str) -> None:
    manifest = Registry().manifest("lung-density")
    settings = dict(manifest.settings)
    if settings.pop(name, None) is None:
        settings[name] = 1.0
    with pytest.raises(ManifestError, match=name):
        create(manifest.model_copy(update={"settings": settings}), Path(), Host())


def test_measurements_are_in_the_order_of_the_manifest() -> None:
    manifest = Registry().manifest("lung-density")
    output = service().measure(shown(PhantomSpec()))

    def key(m: Measurement) -> tuple[str, Region, str]:
        return m.name, m.region, m.unit

    assert [key(m) for m in output.measurements] == [
        (o.name, o.region, o.unit) for o in manifest.outputs
    ]


def test_percentile_interpolates_inside_a_bin() -> None:
    histogram = np.zeros(operators.HISTOGRAM_HIGH - operators.HISTOGRAM_LOW + 1, dtype=np.int64)
    histogram[-900 - operators.HISTOGRAM_LOW] = 10
    histogram[-800 - operators.HISTOGRAM_LOW] = 90
    # 10 of 100 voxels fill the bin at -900; 5 more are 5/90 of the bin at -800.
    assert percentile(histogram, 15) == pytest.approx(-800.5 + 5 / 90)
    assert percentile(histogram, 5) == pytest.approx(-900.0)


def test_numbers_agree_with_numpy_on_random_voxels() -> None:
    hu = np.random.default_rng(1).normal(-860, 60, 50_000).round().astype(int)
    histogram = np.bincount(
        hu - operators.HISTOGRAM_LOW,
        minlength=operators.HISTOGRAM_HIGH - operators.HISTOGRAM_LOW + 1,
    )
    thresholds = Thresholds(low_attenuation_hu=-950, percentile=15, emphysema_laa_950_percent=5)
    found = numbers_of(histogram, 0.001, thresholds)
    assert found["lung-volume"] == pytest.approx(50.0)
    assert found["mean-lung-density"] == pytest.approx(hu.mean(), abs=0.01)
    assert found["laa-950"] == pytest.approx(100 * (hu <= -950).mean(), abs=0.001)
    assert found["perc15"] == pytest.approx(np.percentile(hu, 15), abs=1.0)


def test_unequal_lungs_are_refused() -> None:
    histograms = np.zeros((2, 3), dtype=np.int64)
    histograms[0, 0], histograms[1, 0] = 20, 80
    assert check_shares(histograms, 0.2) is None
    refusal = check_shares(histograms, 0.25)
    assert refusal is not None
    assert (refusal.rule, refusal.seen) == ("lung-mask-implausible", "one lung is 20 % of both")


def test_morphology_agrees_with_scipy() -> None:
    mask = np.random.default_rng(2).random((9, 14, 17)) < 0.06
    given = torch.from_numpy(mask)
    cross, box = (ndimage.generate_binary_structure(3, n) for n in (1, 3))
    assert np.array_equal(operators.grow(given).numpy(), ndimage.binary_dilation(mask, box))
    assert np.array_equal(
        operators.shrink(~given).numpy(), ndimage.binary_erosion(~mask, cross, border_value=1)
    )
    two = operators.dilate(given, 2.0, (1.0, 1.0, 1.0)).numpy()
    expected = ndimage.binary_dilation(ndimage.binary_dilation(mask, cross), box)
    assert np.array_equal(two, expected)


def test_an_axis_coarser_than_the_radius_is_left_alone() -> None:
    mask = torch.zeros((5, 7, 7), dtype=torch.bool)
    mask[2, 3, 3] = True
    grown = operators.dilate(mask, 4.0, (5.0, 4.0, 2.0))
    assert grown.any((1, 2)).nonzero().flatten().tolist() == [2]
    assert grown.any((0, 1)).sum() == 5
    assert grown.any((0, 2)).sum() == 3
    assert torch.equal(operators.dilate(mask, 1.0, (5.0, 4.0, 2.0)), mask)


def test_enclosed_air_is_decided_in_each_plane() -> None:
    hu = np.zeros((2, 5, 5), dtype=np.int16)
    hu[0, 2, 2] = hu[1, 2, :3] = -1000
    enclosed = operators.enclosed_air(hu, -500)
    assert enclosed.sum() == 1
    assert enclosed[0, 2, 2]


@pytest.mark.parametrize("factors", list(product((1, 2), (1, 3), (2,))))
def test_histogram_counts_core_and_fringe(factors: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    voxels = rng.integers(-1300, 1100, (5, 8, 7)).astype(np.int16)
    blocks = tuple(-(-n // f) for n, f in zip(voxels.shape, factors, strict=True))
    regions = rng.integers(0, 5, blocks).astype(np.uint8)
    found = operators.region_histograms(voxels, regions, factors, -400, torch.device("cpu"))
    full = regions
    for axis, factor in enumerate(factors):
        full = full.repeat(factor, axis)
    full = full[:5, :8, :7]
    for region in (0, 1):
        core, fringe = full == 2 * region + 2, full == 2 * region + 1
        chosen = voxels[core | (fringe & (voxels < -400))]
        chosen = np.clip(chosen, operators.HISTOGRAM_LOW, operators.HISTOGRAM_HIGH)
        expected = np.bincount(chosen - operators.HISTOGRAM_LOW, minlength=found.shape[1])
        assert np.array_equal(found[region], expected)


MEMORY_PROGRAM = """
import re
import numpy as np
from fhir_ext.dicom.volume import Acquisition, CTVolume
from fhir_ext.phantom import PhantomSpec, build, orient
from models.registry import Registry

def memory(key):
    status = open("/proc/self/status").read()
    return int(re.search(key + r":\\s+(\\d+)", status).group(1)) / 1024

service = Registry().load("lung-density")
spec = PhantomSpec(shape=(300, 256, 256), spacing_mm=(1.0, 1.4, 1.4))
drawn = build(spec)
truth = drawn.truth.lungs.volume_ml
fine = drawn.render("soft").repeat(2, 1).repeat(2, 2)
voxels, geometry = orient(fine, (1.0, 0.7, 0.7), "HFS")
del drawn, fine
assert voxels.shape == (300, 512, 512)
acquisition = Acquisition("CT", "SIEMENS", "B30f", 1.0, 120.0, patient_age_years=61.0)
volume = CTVolume(voxels, geometry, acquisition, "1.2", "1.3", ("1.4",) * 300)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
found = service.measure(volume).measurements[0].value
assert abs(found / truth - 1) < 0.003, (found, truth)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_above_the_volume_stays_below_100_mib() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100
