"""Lung density against an independent implementation, on a phantom and on a real chest CT.

The other implementation shares nothing with the service: it works on all voxels at full
resolution with scipy only, finds the airway by smoothing and thresholding instead of
following it plane by plane, and closes by Euclidean distance.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import Acquisition, CTVolume
from fhir_ext.phantom import PhantomSpec, build, orient
from fhir_ext.results import Region
from fhir_ext.settings import LimitSettings
from models.registry import Registry
from models.service import ModelInput, ServiceOutput

Mask = npt.NDArray[np.bool_]
ARCHIVE = Path("ct_lung_pet_ct_dx") / "A0001_L_and_B_kernels.zip"


@dataclass(frozen=True)
class Numbers:
    volume_ml: float
    mean_hu: float
    laa_950_percent: float
    perc15_hu: float


def within(mask: Mask, distance_mm: float, spacing: tuple[float, ...]) -> Mask:
    """Voxels at most so far from the mask."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance_mm)


def independent(volume: CTVolume) -> dict[Region, Numbers]:
    """Slices from feet to head, rows to the back, columns to the left are assumed."""
    hu, spacing = volume.voxels, volume.geometry.spacing_mm
    labels, _ = ndimage.label(hu < -400)
    edge = np.concatenate([labels[:, (0, -1)].ravel(), labels[:, :, (0, -1)].ravel()])
    inside = (labels > 0) & ~np.isin(labels, np.unique(edge))
    ((_, rows, columns),) = ndimage.find_objects(inside.astype(np.uint8))
    box = (slice(None), *(slice(max(0, s.start - 12), s.stop + 12) for s in (rows, columns)))
    hu, inside = hu[box], inside[box]

    smooth = ndimage.gaussian_filter(hu.astype(np.float32), [0.8 / step for step in spacing])
    dark, _ = ndimage.label((smooth < -930) & inside)
    top = inside.any((1, 2)).nonzero()[0][-1]
    reach = np.unique(dark[top - 5 : top + 1])
    airway = within(np.isin(dark, reach[reach > 0]), 2.5, spacing)

    values = {}
    sides = (Region.RIGHT_LUNG, Region.LEFT_LUNG)
    for region, lung in zip(sides, right_and_left(inside & ~airway, spacing), strict=True):
        closed = ~within(~within(lung, 4.0, spacing), 4.0, spacing) | lung
        values[region] = hu[closed & ~airway]
    values[Region.LUNGS] = np.concatenate(list(values.values()))
    return {region: numbers(hu, volume) for region, hu in values.items()}


def right_and_left(lungs: Mask, spacing: tuple[float, ...]) -> list[Mask]:
    """Two seeds, from the first depth below the surface at which the lungs are apart;
    every voxel then belongs to the nearest seed."""
    depth = ndimage.distance_transform_edt(lungs, sampling=spacing)
    for least in range(12):
        labels, count = ndimage.label(depth > least)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        pair = sizes.argsort()[-2:]
        if sizes[pair[0]] > 0.3 * sizes[pair[1]]:
            break
    seeds = np.where(np.isin(labels, pair), labels, 0)
    nearest = ndimage.distance_transform_edt(
        seeds == 0, sampling=spacing, return_distances=False, return_indices=True
    )
    owner = seeds[tuple(nearest)]
    # Air that belongs to neither lung, such as gas in the bowel, reaches no seed.
    labels, _ = ndimage.label(lungs)
    lungs = np.isin(labels, np.unique(labels[seeds > 0]))
    masks = [lungs & (owner == i) for i in pair]
    return sorted(masks, key=lambda mask: float(ndimage.center_of_mass(mask)[2]))


def numbers(hu: npt.NDArray[np.int16], volume: CTVolume) -> Numbers:
    return Numbers(
        volume_ml=hu.size * float(np.prod(volume.geometry.spacing_mm)) / 1000,
        mean_hu=float(hu.mean()),
        laa_950_percent=float(100 * (hu <= -950).mean()),
        perc15_hu=float(np.percentile(hu, 15)),
    )


def values(output: ServiceOutput, region: Region) -> dict[str, float | None]:
    return {m.name: m.value for m in output.measurements if m.region is region}


def run(volume: CTVolume) -> ServiceOutput:
    return Registry().load("lung-density").run(ModelInput(volume))


@pytest.fixture(scope="module")
def series(real_data: Path) -> dict[str, CTVolume]:
    """Convolution kernel to volume: the same scan, reconstructed twice."""
    found = {}
    with zipfile.ZipFile(real_data / ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dcm")]
        for folder in {name.rpartition("/")[0] for name in names}:
            files = [name for name in names if name.rpartition("/")[0] == folder]
            with VolumeAssembler(len(files), LimitSettings()) as assembler:
                for name in files:
                    assembler.add(archive.read(name))
                (volume,) = assembler.finish().volumes
            found[volume.acquisition.convolution_kernel or ""] = volume
    return found


def assert_agree(output: ServiceOutput, other: dict[Region, Numbers]) -> None:
    """Tolerances: 1 % of volume, 5 HU of the mean, 0.1 points of LAA-950, 1.5 HU of Perc15."""
    for region in (Region.LUNGS, Region.LEFT_LUNG, Region.RIGHT_LUNG):
        ours, theirs = values(output, region), other[region]
        assert ours["lung-volume"] == pytest.approx(theirs.volume_ml, rel=0.01)
        assert ours["mean-lung-density"] == pytest.approx(theirs.mean_hu, abs=5)
        assert ours["laa-950"] == pytest.approx(theirs.laa_950_percent, abs=0.1)
        assert ours["perc15"] == pytest.approx(theirs.perc15_hu, abs=1.5)


def test_agrees_with_an_independent_implementation_on_the_phantom() -> None:
    spec = PhantomSpec()
    voxels, geometry = orient(build(spec).render("soft"), spec.spacing_mm, "HFS")
    acquisition = Acquisition("CT", "SIEMENS", "B30f", 2.5, 120.0, patient_age_years=61.0)
    volume = CTVolume(voxels, geometry, acquisition, "1.2", "1.3", ("1.4",) * spec.shape[0])
    assert_agree(run(volume), independent(volume))


def test_agrees_with_an_independent_implementation_on_a_real_scan(
    series: dict[str, CTVolume],
) -> None:
    assert_agree(run(series["B"]), independent(series["B"]))


def test_soft_kernel_gives_every_number(series: dict[str, CTVolume]) -> None:
    output = run(series["B"])
    assert all(m.refusal is None for m in output.measurements)
    whole = values(output, Region.LUNGS)
    # A man of 58 with a tumour and without emphysema, breathing in.
    assert 4500 < (whole["lung-volume"] or 0) < 6500
    assert (whole["laa-950"] or 0) < 1
    assert (output.risks, output.issues) == ((), ())


def test_sharp_kernel_is_refused_with_a_code_and_keeps_the_volume(
    series: dict[str, CTVolume],
) -> None:
    output = run(series["L"])
    for m in output.measurements:
        if m.name == "lung-volume":
            assert m.refusal is None
            soft = values(run(series["B"]), m.region)["lung-volume"]
            assert m.value == pytest.approx(soft, rel=0.01)
        else:
            assert m.refusal is not None
            assert (m.refusal.rule, m.refusal.seen) == ("kernel", "L")
    assert (output.risks, output.issues) == ((), ())


def test_the_gate_has_a_reason(series: dict[str, CTVolume]) -> None:
    """Without the gate the sharp kernel would state emphysema that the soft one denies."""
    found = {kernel: independent(volume)[Region.LUNGS] for kernel, volume in series.items()}
    assert found["B"].laa_950_percent < 1
    assert found["L"].laa_950_percent > 10
