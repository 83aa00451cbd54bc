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
)
from synthetic_projection import Pixels, parts, projection_image

from fhir_ext.dicom.mammography import MODIFIERS, VIEWS, Mammogram, read_mammogram
from fhir_ext.settings import LimitSettings

STUDY = "1.2.826.0.1.3680043.8.498.20"
CODE_OF_VIEW = {view: code for code, view in VIEWS.items()}
CODE_OF_MODIFIER = {name: code for code, name in MODIFIERS.items()}
STANDARD = ("L-CC", "R-CC", "L-MLO", "R-MLO")


def mammogram(view: str, pixels: Pixels | None = None, **changes: Any) -> Dataset:
    """A For Presentation mammogram such as `L-CC`; `changes` replace attributes, None deletes one.

    Each view is a series of its own. Right breasts lie with the chest wall at the right edge.
    """
    side, _, projection = view.partition("-")
    pixels = np.zeros((4, 6), np.uint16) if pixels is None else pixels
    number = (*STANDARD, view).index(view) + 1
    own = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "PatientID": "M1",
        "PatientName": "Doe^Jane",
        "PatientSex": "F",
        "AccessionNumber": "MG7",
        "Modality": "MG",
        "ImageType": ["DERIVED", "PRIMARY"],
        "ImageLaterality": side,
        "ViewPosition": projection,
        "ViewCodeSequence": view_code(projection),
        "PatientOrientation": ["A", "R"] if side == "L" else ["P", "L"],
        "BreastImplantPresent": "NO",
    }
    return projection_image(STUDY, number, pixels, own, changes)


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
