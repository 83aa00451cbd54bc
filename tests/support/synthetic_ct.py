"""CT instances as small as a test wants them, with any header."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom import Sequence as DicomSequence
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.826.1", "1.2.826.1.1", "1.2.826.1.9"


def texture(index: int, shape: tuple[int, int] = (6, 8)) -> npt.NDArray[np.uint16]:
    """12 bit samples (rows, columns) that differ for each index."""
    generator = np.random.default_rng(index)
    return generator.integers(0, 4096, shape, dtype=np.uint16)


def ct_slice(index: int, pixels: npt.NDArray[Any] | None = None, **changes: Any) -> Dataset:
    """A classic CT slice at z = 2 * index mm; `changes` replace attributes, None deletes one."""
    pixels = texture(index) if pixels is None else pixels
    instance = _common(f"{SERIES}.{index + 1}", CTImageStorage, pixels.shape[0], pixels.shape[1])
    instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    instance.Manufacturer = "ACME"
    instance.ConvolutionKernel = "B30f"
    instance.KVP = "120"
    instance.SliceThickness = "2.0"
    instance.InstanceNumber = index + 1
    instance.AcquisitionNumber = 1
    instance.ImagePositionPatient = [-10.0, -20.0, 2.0 * index]
    instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    instance.PixelSpacing = [0.8, 0.7]
    instance.RescaleSlope = "1"
    instance.RescaleIntercept = "-1024"
    instance.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(instance, keyword)
        else:
            setattr(instance, keyword, value)
    return instance


def enhanced_ct(
    frames: Sequence[npt.NDArray[np.uint16]], heights: Sequence[float], **changes: Any
) -> Dataset:
    """An Enhanced CT (PS3.3 A.38) with its frames at the given z in mm.

    Orientation, spacing and kernel are shared groups, place and rescale those of the frame:
    frame i has the intercept -1024 + i.
    """
    rows, columns = frames[0].shape
    instance = _common(f"{SERIES}.7000", EnhancedCTImageStorage, rows, columns)
    instance.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    instance.Manufacturer = "ACME"
    instance.NumberOfFrames = len(frames)
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=[0.8, 0.7], SliceThickness=2.0)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.CTReconstructionSequence = _item(ConvolutionKernel="B30f")
    shared.CTXRayDetailsSequence = _item(KVP=120)
    instance.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for index, height in enumerate(heights):
        group = Dataset()
        group.FrameContentSequence = _item(FrameAcquisitionNumber=1)
        group.PlanePositionSequence = _item(ImagePositionPatient=[-10.0, -20.0, height])
        group.PixelValueTransformationSequence = _item(
            RescaleSlope=1, RescaleIntercept=-1024 + index, RescaleType="HU"
        )
        groups.append(group)
    instance.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    instance.PixelData = np.stack(frames).astype("<u2").tobytes()
    for keyword, value in changes.items():
        setattr(instance, keyword, value)
    return instance


def _common(sop_instance_uid: str, sop_class: str, rows: int, columns: int) -> Dataset:
    instance = Dataset()
    instance.SpecificCharacterSet = "ISO_IR 192"
    instance.SOPClassUID = sop_class
    instance.SOPInstanceUID = sop_instance_uid
    instance.StudyInstanceUID = STUDY
    instance.SeriesInstanceUID = SERIES
    instance.FrameOfReferenceUID = FRAME_OF_REFERENCE
    instance.PatientID = "P1"
    instance.PatientName = "Müller^Ärgön"
    instance.PatientBirthDate = "19600101"
    instance.PatientSex = "F"
    instance.StudyDate = "20250101"
    instance.StudyTime = "120000"
    instance.StudyID = "1"
    instance.AccessionNumber = "A1"
    instance.ReferringPhysicianName = ""
    instance.Modality = "CT"
    instance.SeriesNumber = 1
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.Rows, instance.Columns = rows, columns
    instance.BitsAllocated = 16
    instance.BitsStored = 12
    instance.HighBit = 11
    instance.PixelRepresentation = 0
    return instance


def _item(**values: Any) -> DicomSequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def encoded(
    instance: Dataset, syntax: str = ExplicitVRLittleEndian, frames: Sequence[bytes] = ()
) -> bytes:
    """A PS3.10 file in the given transfer syntax; `frames` are compressed already."""
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = syntax
    if frames:
        instance.PixelData = encapsulate(list(frames))
        instance["PixelData"].VR = "OB"
        instance["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian and instance.BitsAllocated == 16:
        instance.PixelData = np.frombuffer(instance.PixelData, "<u2").astype(">u2").tobytes()
    output = BytesIO()
    dcmwrite(
        output,
        instance,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return output.getvalue()
