"""Radiographs as small or as large as a test wants them, with any header."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)
from synthetic_ct import encoded

from fhir_ext.dicom.radiograph import VIEWS, Radiograph, read_radiograph
from fhir_ext.settings import LimitSettings

STUDY = "1.2.826.0.1.3680043.8.498.30"
CODE_OF_VIEW = {view: code for code, view in VIEWS.items()}

Pixels = npt.NDArray[Any]


def radiograph(
    view: str = "PA", pixels: Pixels | None = None, *, number: int = 1, **changes: Any
) -> Dataset:
    """A DX image for presentation of an adult; `changes` replace attributes, None deletes one."""
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) if pixels is None else pixels
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = DigitalXRayImageStorageForPresentation
    made.StudyInstanceUID = STUDY
    made.SeriesInstanceUID = f"{STUDY}.{number}"
    made.SOPInstanceUID = f"{STUDY}.{number}.1"
    made.PatientID = "R1"
    made.PatientName = "Doe^John"
    made.PatientBirthDate = "19650203"
    made.PatientSex = "M"
    made.StudyDate = "20250301"
    made.StudyTime = "101500"
    made.StudyID = "7"
    made.AccessionNumber = "DX7"
    made.ReferringPhysicianName = ""
    made.Modality = "DX"
    made.PresentationIntentType = "FOR PRESENTATION"
    made.Manufacturer = "ACME"
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.BodyPartExamined = "CHEST"
    made.SeriesNumber = number
    made.InstanceNumber = 1
    made.ViewPosition = view
    made.ViewCodeSequence = view_code(view)
    made.PatientOrientation = ["L", "F"]
    made.ImagerPixelSpacing = ["0.14", "0.14"]
    made.BurnedInAnnotation = "NO"
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = 8 if pixels.dtype.itemsize == 1 else 12
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = 0
    made.PixelData = np.ascontiguousarray(pixels).tobytes()
    made["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def computed(view: str = "PA", pixels: Pixels | None = None, **changes: Any) -> Dataset:
    """The same as CR, which names neither an intent nor a view code."""
    told = {"ViewCodeSequence": None, "PresentationIntentType": None, "Modality": "CR"}
    return radiograph(
        view, pixels, **{**told, "SOPClassUID": ComputedRadiographyImageStorage, **changes}
    )


def view_code(view: str) -> DicomSequence:
    """ViewCodeSequence of a view, named as `fhir_ext.dicom.radiograph` does."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = CODE_OF_VIEW[view], "SCT"
    item.CodeMeaning = view
    return DicomSequence([item])


def parts(*images: Dataset, syntax: str = ExplicitVRLittleEndian) -> list[bytes]:
    """PS3.10 files."""
    return [encoded(image, syntax) for image in images]


def read(*images: Dataset) -> list[Radiograph]:
    """The images as a service gets them."""
    limits = LimitSettings()
    return [read_radiograph(memoryview(part), limits) for part in parts(*images)]
