"""Radiographs as small or as large as a test wants them, with any header."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
)
from synthetic_projection import Pixels, parts, projection_image

from fhir_ext.dicom.radiograph import VIEWS, Radiograph, read_radiograph
from fhir_ext.settings import LimitSettings

STUDY = "1.2.826.0.1.3680043.8.498.30"
CODE_OF_VIEW = {view: code for code, view in VIEWS.items()}


def radiograph(
    view: str = "PA", pixels: Pixels | None = None, *, number: int = 1, **changes: Any
) -> Dataset:
    """A DX image for presentation of an adult; `changes` replace attributes, None deletes one."""
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) if pixels is None else pixels
    own = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "PatientID": "R1",
        "PatientName": "Doe^John",
        "PatientSex": "M",
        "AccessionNumber": "DX7",
        "Modality": "DX",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "ViewCodeSequence": view_code(view),
        "PatientOrientation": ["L", "F"],
        "ImagerPixelSpacing": ["0.14", "0.14"],
    }
    return projection_image(STUDY, number, pixels, own, changes)


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


def read(*images: Dataset) -> list[Radiograph]:
    """The images as a service gets them."""
    limits = LimitSettings()
    return [read_radiograph(memoryview(part), limits) for part in parts(*images)]
