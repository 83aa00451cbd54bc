"""Mammograms as small or as large as a test wants them, with any header."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
)
from synthetic_ct import encoded

from fhir_ext.dicom.mammography import MODIFIERS, VIEWS, Mammogram, read_mammogram
from fhir_ext.settings import LimitSettings

STUDY = "1.2.826.0.1.3680043.8.498.20"
CODE_OF_VIEW = {view: code for code, view in VIEWS.items()}
CODE_OF_MODIFIER = {name: code for code, name in MODIFIERS.items()}
STANDARD = ("L-CC", "R-CC", "L-MLO", "R-MLO")

Pixels = npt.NDArray[Any]


def mammogram(view: str, pixels: Pixels | None = None, **changes: Any) -> Dataset:
    """A For Presentation mammogram such as `L-CC`; `changes` replace attributes, None deletes one.

    Each view is a series of its own. Right breasts lie with the chest wall at the right edge.
    """
    side, _, projection = view.partition("-")
    pixels = np.zeros((4, 6), np.uint16) if pixels is None else pixels
    number = (*STANDARD, view).index(view) + 1
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    made.StudyInstanceUID = STUDY
    made.SeriesInstanceUID = f"{STUDY}.{number}"
    made.SOPInstanceUID = f"{STUDY}.{number}.1"
    made.PatientID = "M1"
    made.PatientName = "Doe^Jane"
    made.PatientBirthDate = "19650203"
    made.PatientSex = "F"
    made.StudyDate = "20250301"
    made.StudyTime = "101500"
    made.StudyID = "7"
    made.AccessionNumber = "MG7"
    made.ReferringPhysicianName = ""
    made.Modality = "MG"
    made.PresentationIntentType = "FOR PRESENTATION"
    made.Manufacturer = "ACME"
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.SeriesNumber = number
    made.InstanceNumber = 1
    made.ImageLaterality = side
    made.ViewPosition = projection
    made.ViewCodeSequence = view_code(projection)
    made.PatientOrientation = ["A", "R"] if side == "L" else ["P", "L"]
    made.BreastImplantPresent = "NO"
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


def raw_twin(image: Dataset) -> Dataset:
    """The For Processing image that a modality sends beside one."""
    twin = copy.deepcopy(image)
    twin.SOPClassUID = DigitalMammographyXRayImageStorageForProcessing
    twin.SOPInstanceUID = f"{image.SOPInstanceUID}.9"
    twin.PresentationIntentType = "FOR PROCESSING"
    return twin


def view_code(view: str, *modifiers: str, scheme: str = "SCT") -> DicomSequence:
    """ViewCodeSequence of a view with modifiers, named as `fhir_ext.dicom.mammography` does."""
    item = _code(CODE_OF_VIEW[view], view, scheme)
    item.ViewModifierCodeSequence = DicomSequence(
        [_code(CODE_OF_MODIFIER[name], name, "SCT") for name in modifiers]
    )
    return DicomSequence([item])


def _code(value: str, meaning: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def study(pixels: Mapping[str, Pixels] | None = None, **changes: Any) -> dict[str, Dataset]:
    """The four standard views, with the same `changes` in each."""
    return {view: mammogram(view, (pixels or {}).get(view), **changes) for view in STANDARD}


def parts(*images: Dataset, syntax: str = ExplicitVRLittleEndian) -> list[bytes]:
    """PS3.10 files."""
    return [encoded(image, syntax) for image in images]


def read(*images: Dataset) -> list[Mammogram]:
    """The images as the service gets them."""
    limits = LimitSettings()
    return [read_mammogram(memoryview(part), limits) for part in parts(*images)]


def acquired(image: npt.NDArray[np.uint8], view: str, rows: int = 3328, columns: int = 2560) -> Any:
    """A 12 bit image of a detector around an 8 bit one of 2600 x 2000 with its left edge at the
    chest wall: turned over for a right breast, darkness around it.
    """
    whole = np.zeros((rows, columns), np.uint16)
    top = (rows - image.shape[0]) // 2
    whole[top : top + image.shape[0], : image.shape[1]] = image.astype(np.uint16) * 16
    return whole if view.startswith("L") else np.ascontiguousarray(whole[:, ::-1])
