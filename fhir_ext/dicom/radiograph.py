"""Radiographs: Computed Radiography (PS3.3 A.2) and Digital X-Ray (PS3.3 A.26).

What an instance says of its projection and its pixels, for gates to judge. Laterals and
frontal images, raw and processed ones are all read; mammograms are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

from fhir_ext.dicom.headers import PARSE_ERRORS
from fhir_ext.dicom.projection import (
    GreyValues,
    ProjectionImage,
    describe,
    grey_values,
    open_projection,
    string,
)
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

__all__ = ["VIEWS", "GreyValues", "Radiograph", "grey_values", "read_radiograph"]

_INTENTS: Final = {
    str(DigitalXRayImageStorageForPresentation): True,
    str(DigitalXRayImageStorageForProcessing): False,
    # CR has no such class for raw images: only Presentation Intent Type could tell.
    str(ComputedRadiographyImageStorage): None,
}

#: View Code Sequence (0054,0220), CID 4010, to View Position (0018,5101), PS3.3 C.8.7.1.1.
VIEWS: Final = {
    "272479007": "PA",
    "399348003": "AP",
    "399173006": "LL",
    "399198007": "RL",
    # Not in View Position: neither says from which side.
    "399067008": "lateral",
    "399033003": "frontal",
}


@dataclass(frozen=True, slots=True)
class Radiograph(ProjectionImage):
    """One radiograph.

    Attributes:
        orientation: Patient Orientation (0020,0020): the sides of the patient that a row and a
            column of pixels lead to, such as `("L", "F")`; empty when it is not stated.
    """

    orientation: tuple[str, ...]

    @property
    def towards_left(self) -> bool | None:
        """Whether columns count towards the patient's left, as a frontal image is read."""
        return {"L": True, "R": False}.get(self.orientation[0][:1]) if self.orientation else None


def read_radiograph(part: memoryview, limits: LimitSettings) -> Radiograph:
    """Read one PS3.10 instance; the result refers to `part`, which must outlive it.

    Raises:
        RefusedInput: `not-dicom`, `truncated`, `too-large`, `not-an-image`, `modality` (no
            radiograph), `photometric-interpretation`, `unsupported-pixels`,
            `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    opened = open_projection(
        part, limits, sop_classes=_INTENTS, modalities=("CR", "DX"), what="radiograph"
    )
    try:
        directions = string(opened.header, "PatientOrientation").upper().split("\\")
        return Radiograph(
            **describe(opened, VIEWS, _INTENTS.get),
            orientation=tuple(directions) if len(directions) == 2 else (),
        )
    except PARSE_ERRORS as error:
        raise RefusedInput("a header is corrupt", code="not-dicom") from error
