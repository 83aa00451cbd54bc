"""Real CT series, pixel by pixel against pydicom."""

from __future__ import annotations

import random
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import PADDING_HU, CTVolume, SeriesVolumes
from fhir_ext.settings import LimitSettings

LIMITS = LimitSettings()


def assemble(paths: list[Path]) -> SeriesVolumes:
    with VolumeAssembler(len(paths), LIMITS) as assembler:
        for path in paths:
            assembler.add(path.read_bytes())
        return assembler.finish()


def check_against_pydicom(volume: CTVolume, paths: list[Path]) -> None:
    """Every slice holds the pixels of its instance, and lies where its header says."""
    instances = {str(item.SOPInstanceUID): item for item in map(pydicom.dcmread, paths)}
    geometry = volume.geometry
    for index, uid in enumerate(volume.sop_instance_uids):
        instance = instances[uid]
        stored = instance.pixel_array.astype(float)
        wanted = stored * float(instance.RescaleSlope) + float(instance.RescaleIntercept)
        if "PixelPaddingValue" in instance:
            wanted[stored == instance.PixelPaddingValue] = PADDING_HU
        assert (volume.voxels[index] == wanted).all()
        place = np.add(geometry.origin, np.multiply(index, geometry.slice_step))
        assert np.abs(place - instance.ImagePositionPatient).max() < 0.02
    assert geometry.spacing_mm[1:] == pytest.approx(tuple(instance.PixelSpacing))


@pytest.fixture(scope="module")
def lung_pet_ct(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Files of the two series, by kernel."""
    folder = tmp_path_factory.mktemp("lung-pet-ct")
    with zipfile.ZipFile(real_data / "ct_lung_pet_ct_dx" / "A0001_L_and_B_kernels.zip") as archive:
        archive.extractall(folder)
    series = defaultdict(list)
    for path in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        series[str(header.ConvolutionKernel)].append(path)
    return series


@pytest.mark.parametrize("kernel", ["L", "B"])
def test_chest_ct_of_one_kernel(lung_pet_ct: dict[str, list[Path]], kernel: str) -> None:
    paths = lung_pet_ct[kernel].copy()
    random.Random(kernel).shuffle(paths)
    found = assemble(paths)
    (volume,) = found.volumes
    assert found.rejected == ()
    assert volume.issues == ()
    assert volume.voxels.shape == (64, 512, 512)
    assert volume.acquisition.convolution_kernel == kernel
    assert volume.acquisition.patient_age_years == 58
    assert volume.geometry.slice_step == pytest.approx((0, 0, 5))
    check_against_pydicom(volume, paths)


def test_both_kernels_thrown_together_come_apart(lung_pet_ct: dict[str, list[Path]]) -> None:
    paths = [*lung_pet_ct["L"], *lung_pet_ct["B"]]
    random.Random(1).shuffle(paths)
    found = assemble(paths)
    assert sorted(str(v.acquisition.convolution_kernel) for v in found.volumes) == ["B", "L"]
    for volume in found.volumes:
        assert len(volume.voxels) == 64
        check_against_pydicom(volume, paths)


def test_two_slices_of_another_scanner(real_data: Path) -> None:
    paths = sorted((real_data / "ct_cip_slices").rglob("*.dcm"))
    (volume,) = assemble(paths).volumes
    assert volume.voxels.shape == (2, 512, 512)
    assert volume.issues == ()
    assert volume.geometry.spacing_mm[0] == pytest.approx(0.625)
    check_against_pydicom(volume, paths)


def test_slices_that_other_tools_segmented(real_data: Path) -> None:
    paths = sorted((real_data / "sr_seg_examples" / "segmentations" / "ct-3slice").glob("*.dcm"))
    (volume,) = assemble(paths).volumes
    assert volume.voxels.shape == (3, 512, 512)
    assert volume.geometry.spacing_mm[0] == pytest.approx(1.0)
    check_against_pydicom(volume, paths)


def test_reports_and_segmentations_are_rejected_with_a_reason(real_data: Path) -> None:
    folder = real_data / "sr_seg_examples"
    expected = {
        "highdicom/sr_document.dcm": "not-an-image",
        "sr-example/sr.dcm": "not-an-image",
        "sr-example/rwvm.dcm": "not-an-image",
        "highdicom/seg_image_ct_binary.dcm": "unsupported-pixels",
        "segmentations/liver.dcm": "unsupported-pixels",
        "highdicom/dx_image.dcm": "missing-geometry",
    }
    for name, code in expected.items():
        found = assemble([folder / name])
        assert found.volumes == ()
        assert [item.code for item in found.rejected] == [code], name
        assert found.rejected[0].sop_instance_uid
