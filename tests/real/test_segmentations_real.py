"""SEG objects of other programs, and the IBSI digital phantom with its reference values."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from analytic import geometry_of, structure, volume_of

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.seg import CodedEntry, Segmentation, read_segmentation
from fhir_ext.dicom.seg_place import place
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings
from models.lung_density.operators import HISTOGRAM_HIGH, HISTOGRAM_LOW
from models.lung_density.postprocess import percentile
from models.registry import Registry
from models.segment_measurements.tissue import core, fat_ml, mean_hu, volume_ml
from models.segmentation.structures import collect, structure_table
from models.service import ModelInput

LIMITS = LimitSettings()


@pytest.fixture
def folder(real_data: Path) -> Path:
    return real_data / "sr_seg_examples"


def read(path: Path) -> Segmentation:
    return read_segmentation(path.read_bytes(), LIMITS)


def volume(paths: list[Path]) -> CTVolume:
    with VolumeAssembler(len(paths), LIMITS) as assembler:
        for path in paths:
            assembler.add(memoryview(path.read_bytes()))
        return assembler.finish().volumes[0]


def stored_frames(path: Path) -> npt.NDArray[np.uint8]:
    """What pydicom reads: (frames, rows, columns)."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array
    return frames[None] if frames.ndim == 2 else frames


SEGS = {
    "highdicom/seg_image_ct_binary.dcm": "BINARY",
    "highdicom/seg_image_ct_binary_overlap.dcm": "BINARY",
    "highdicom/seg_image_ct_binary_single_frame.dcm": "BINARY",
    "highdicom/seg_image_ct_binary_fractional.dcm": "FRACTIONAL",
    "highdicom/seg_image_ct_true_fractional.dcm": "FRACTIONAL",
    "segmentations/liver.dcm": "BINARY",
    "sr-example/seg.dcm": "BINARY",
}


@pytest.mark.parametrize("name", SEGS)
def test_pixels_are_those_that_pydicom_reads(folder: Path, name: str) -> None:
    found = read(folder / name)
    frames = stored_frames(folder / name)
    assert found.kind == SEGS[name]
    assert len(found.frames) == len(frames)
    half = found.frames.maximum / 2 if found.kind == "FRACTIONAL" else 1
    seen = 0
    for identity in found.segments:
        for index in found.frames_of(identity.number).tolist():
            np.testing.assert_array_equal(found.mask(index, identity.number), frames[index] >= half)
            seen += 1
    assert seen == len(frames)


def test_all_segs_of_the_folder_are_in_the_list(folder: Path) -> None:
    read_here, refused = set(), set()
    for path in sorted(folder.rglob("*.dcm")):
        try:
            read(path)
            read_here.add(str(path.relative_to(folder)))
        except RefusedInput as error:
            assert error.code == "not-a-segmentation"
            refused.add(path.name)
    assert read_here == set(SEGS)
    assert {"ct_image.dcm", "dx_image.dcm", "sr_document.dcm", "rwvm.dcm", "sr.dcm"} <= refused


@pytest.mark.parametrize("name", sorted(SEGS))
def test_planes_are_those_that_highdicom_finds(folder: Path, name: str) -> None:
    from highdicom.seg import segread

    found = read(folder / name)
    theirs = segread(folder / name).get_volume_geometry()
    if theirs is None:
        pytest.fail("highdicom finds no regular volume")
    heights = np.unique(np.round(found.grid.origins @ found.grid.normal, 2))
    assert found.grid.plane_step == pytest.approx(theirs.spacing[0], abs=0.02)
    assert found.grid.spacing == pytest.approx(theirs.spacing[1:])
    assert np.ptp(heights) <= theirs.spacing[0] * (theirs.spatial_shape[0] - 1) + 0.02


def test_what_they_call_their_segments(folder: Path) -> None:
    table = structure_table()

    def names(name: str) -> list[str | None]:
        return [table.identify(identity) for identity in read(folder / name).segments]

    assert names("segmentations/liver.dcm") == ["liver"]
    # A neoplasm of the tonsil, bone and spine are nothing that is measured.
    assert names("sr-example/seg.dcm") == [None]
    assert names("highdicom/seg_image_ct_binary_overlap.dcm") == [None, None]


def test_a_liver_of_dcmqi_on_its_ct(folder: Path) -> None:
    """SNOMED-RT codes; the origin of the SEG is rounded otherwise than that of the CT."""
    path = folder / "segmentations" / "liver.dcm"
    images = volume(sorted((folder / "segmentations" / "ct-3slice").glob("*.dcm")))
    found = read(path)
    z, y, x = images.voxels.shape
    placed = place(found, found.segments[0], images.geometry, (z, y, x))
    order = np.argsort(found.grid.origins[:, 2])
    drawn = stored_frames(path)[order] > 0
    np.testing.assert_array_equal(placed.full((z, y, x)), drawn)
    assert placed.outside == 0.0
    attenuation = mean_hu(images.voxels, drawn)
    # Liver without contrast, drawn to its rim.
    assert 20 < attenuation < 70
    output = Registry().load("segment-measurements").run(ModelInput(images, (found,)))
    refusals = {(m.name, str(m.region)): m.refusal for m in output.measurements}
    volume_refusal = refusals["organ-volume", "liver"]
    assert volume_refusal is not None and volume_refusal.rule == "coverage"


def test_a_single_slice_of_highdicom_on_its_ct(folder: Path) -> None:
    images = volume([folder / "highdicom" / "ct_image.dcm"])
    path = folder / "highdicom" / "seg_image_ct_binary_single_frame.dcm"
    found = read(path)
    placed = place(found, found.segments[0], images.geometry, (1, 128, 128))
    np.testing.assert_array_equal(placed.full((1, 128, 128))[0], stored_frames(path)[0] > 0)
    bone = collect(images, [found], ["liver"])
    assert bone.unknown == (CodedEntry("SCT", "272673000", "Bone"),)
    other = read(folder / "segmentations" / "liver.dcm")
    unusable = collect(images, [other], ["liver"]).unusable
    assert unusable is not None and unusable.rule == "seg-frame-of-reference"


# IBSI digital phantom (theibsi/ibsi-doc, chapter 3): reference value and tolerance


def nifti(data: bytes) -> tuple[npt.NDArray[np.int16], tuple[float, float, float]]:
    """A small NIfTI-1 image of int16 as (z, y, x), and its voxel size (z, y, x) in mm."""
    raw = gzip.decompress(data)
    dimensions = struct.unpack("<8h", raw[40:56])
    (datatype,) = struct.unpack("<h", raw[70:72])
    sizes = struct.unpack("<8f", raw[76:108])
    (offset,) = struct.unpack("<f", raw[108:112])
    assert (dimensions[0], datatype) == (3, 4)
    nx, ny, nz = dimensions[1:4]
    values = np.frombuffer(raw, "<i2", nx * ny * nz, int(offset)).reshape(nz, ny, nx)
    return values.astype(np.int16), (sizes[3], sizes[2], sizes[1])


@pytest.fixture
def phantom(real_data: Path) -> tuple[CTVolume, npt.NDArray[np.bool_]]:
    path = real_data / "ibsi_digital_phantom" / "ibsi1_digital_phantom.zip"
    with zipfile.ZipFile(path) as archive:
        base = "ibsi_1_digital_phantom/nifti"
        image, spacing = nifti(archive.read(f"{base}/image/phantom.nii.gz"))
        mask, _ = nifti(archive.read(f"{base}/mask/mask.nii.gz"))
    z, y, x = image.shape
    return volume_of(image, geometry_of((z, y, x), spacing)), mask > 0


def test_ibsi_volume_by_counting_voxels(
    phantom: tuple[CTVolume, npt.NDArray[np.bool_]],
) -> None:
    """Volume (voxel counting): 592 mm3, tolerance 4, very strong consensus."""
    images, mask = phantom
    found = volume_ml(mask, images.geometry.voxel_volume_ml)
    assert 1000 * found == pytest.approx(592, abs=4)
    assert 1000 * found == pytest.approx(592, abs=1e-6)


def test_ibsi_mean_intensity(phantom: tuple[CTVolume, npt.NDArray[np.bool_]]) -> None:
    """Mean intensity: 2.15, very strong consensus; through the box of a structure as well."""
    images, mask = phantom
    assert mean_hu(images.voxels, mask) == pytest.approx(2.15, abs=0.005)
    boxed = structure("x", mask)
    assert mean_hu(boxed.voxels(images), boxed.mask) == mean_hu(images.voxels, mask)


def test_ibsi_extremes_and_percentiles(
    phantom: tuple[CTVolume, npt.NDArray[np.bool_]],
) -> None:
    """Minimum 1, maximum 6; 10th percentile 1, median 1, 90th percentile 4.

    IBSI takes a value that occurs. Ours is interpolated inside the bin of 1 HU around it, and
    may therefore differ by half a HU, and no more.
    """
    images, mask = phantom
    ml = images.geometry.voxel_volume_ml
    voxels = images.voxels[mask]
    assert fat_ml(images.voxels, mask, (1, 6), ml) == volume_ml(mask, ml)
    assert fat_ml(images.voxels, mask, (2, 5), ml) < volume_ml(mask, ml)
    assert (voxels.min(), voxels.max()) == (1, 6)
    histogram = np.bincount(voxels - HISTOGRAM_LOW, minlength=HISTOGRAM_HIGH - HISTOGRAM_LOW + 1)
    for percent, reference in ((10, 1), (50, 1), (90, 4)):
        assert abs(percentile(histogram, percent) - reference) <= 0.5


def test_ibsi_core(phantom: tuple[CTVolume, npt.NDArray[np.bool_]]) -> None:
    """A rim thinner than a voxel takes nothing away; one of a voxel takes what touches it."""
    images, mask = phantom
    spacing = images.geometry.spacing_mm
    np.testing.assert_array_equal(core(mask, 1.9, spacing), mask)
    inner = core(mask, 2.0, spacing)
    assert 0 < inner.sum() < mask.sum()
    assert not (inner & ~mask).any()
