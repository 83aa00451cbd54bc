"""Compressed images of NEMA WG-04, against decoders that we do not use for them."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.decode import decode_frame, encapsulated_frames
from fhir_ext.dicom.headers import take_apart
from fhir_ext.dicom.instances import read_format
from fhir_ext.dicom.volume import PADDING_HU, CTVolume
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

LIMITS = LimitSettings()
CT_FILES = ["CT1_J2KR", "CT1_JLSL", "CT1_JPLL", "CT1_RLE"]


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "dicom_codecs_nema_wg04"


def volume_of(part: bytes) -> CTVolume:
    with VolumeAssembler(1, LIMITS) as assembler:
        assembler.add(part)
        (volume,) = assembler.finish().volumes
    return volume


def hounsfield(instance: pydicom.Dataset, stored: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    values = stored.astype(int) * int(instance.RescaleSlope) + int(instance.RescaleIntercept)
    return np.where(stored == instance.PixelPaddingValue, PADDING_HU, values)


@pytest.mark.parametrize("name", CT_FILES)
def test_ct_is_bit_exact(folder: Path, name: str) -> None:
    path = folder / f"{name}.dcm"
    instance = pydicom.dcmread(path)
    volume = volume_of(path.read_bytes())
    assert (volume.voxels[0] == hounsfield(instance, instance.pixel_array)).all()
    assert volume.acquisition.convolution_kernel == "STANDARD"
    assert [issue.code for issue in volume.issues] == ["single-slice"]


def test_all_lossless_encodings_of_the_ct_hold_the_same_image(folder: Path) -> None:
    images = [volume_of((folder / f"{name}.dcm").read_bytes()).voxels for name in CT_FILES]
    for image in images[1:]:
        assert (image == images[0]).all()
    # The field of view is a circle: what lies outside was padding of -2000.
    assert images[0].min() == PADDING_HU


def test_htj2k_made_of_the_ct(folder: Path) -> None:
    instance = pydicom.dcmread(folder / "CT1_RLE.dcm")
    stored = instance.pixel_array
    wanted = hounsfield(instance, stored)
    frame = bytes(imagecodecs.htj2k_encode(stored, reversible=True))
    # OpenJPEG reads HTJ2K too, and is not what decodes it for us.
    assert (imagecodecs.jpeg2k_decode(frame) == stored).all()
    instance.PixelData = pydicom.encaps.encapsulate([frame])
    instance.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    encoded = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(encoded, instance)
    assert (volume_of(encoded.getvalue()).voxels[0] == wanted).all()


def test_lossy_jpeg_2000_of_a_radiograph(folder: Path) -> None:
    path = folder / "RG1_J2KI.dcm"
    raw = take_apart(memoryview(path.read_bytes()), LIMITS.instance_bytes)
    assert raw.pixels is not None
    stored = read_format(raw, LIMITS)
    (frame,) = encapsulated_frames(raw.pixels, stored)
    decoded = decode_frame(frame, stored)
    assert (decoded == pydicom.dcmread(path).pixel_array).all()
    # Another implementation may round the irreversible transform otherwise, by one.
    other = imagecodecs.jpeg2k_decode(frame)
    assert np.abs(decoded.astype(int) - other.astype(int)).max() <= 1


def test_radiograph_is_no_slice(folder: Path) -> None:
    with VolumeAssembler(1, LIMITS) as assembler:
        assembler.add((folder / "RG1_J2KI.dcm").read_bytes())
        found = assembler.finish()
    assert [item.code for item in found.rejected] == ["missing-geometry"]


@pytest.mark.parametrize("name", CT_FILES)
def test_ct_cut_short_is_rejected(folder: Path, name: str) -> None:
    whole = (folder / f"{name}.dcm").read_bytes()
    for size in (len(whole) // 2, len(whole) - 3000):
        with VolumeAssembler(1, LIMITS) as assembler:
            assembler.add(whole[:size])
            found = assembler.finish()
        assert found.volumes == ()
        (rejected,) = found.rejected
        assert rejected.code in ("truncated", "corrupt-pixels")


@pytest.mark.parametrize("name", CT_FILES)
def test_frame_with_another_declared_size_is_refused(folder: Path, name: str) -> None:
    raw = take_apart(memoryview((folder / f"{name}.dcm").read_bytes()), LIMITS.instance_bytes)
    assert raw.pixels is not None
    raw.values["Rows"] = raw.values["Columns"] = (8000).to_bytes(2, "little")
    stored = read_format(raw, LIMITS)
    (frame,) = encapsulated_frames(raw.pixels, stored)
    with pytest.raises(RefusedInput) as caught:
        decode_frame(frame, stored)
    assert caught.value.code == "corrupt-pixels"
