"""Digital mammograms (PS3.3 A.27): what an instance says of its view, and its grey values.

Nothing is decided here: values that contradict each other are handed on as they stand, for a
gate to refuse. Pixels are decoded when they are asked for; a study may hold many images of
which a service needs four.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
)

from fhir_ext.dicom.headers import PARSE_ERRORS, number
from fhir_ext.dicom.projection import (
    FOR_PRESENTATION,
    FOR_PROCESSING,
    UNKNOWN,
    GreyValues,
    ProjectionImage,
    describe,
    distinct,
    grey_values,
    open_projection,
    snomed,
    string,
    upper,
)
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

__all__ = [
    "FOR_PRESENTATION",
    "FOR_PROCESSING",
    "IMPLANT_DISPLACED",
    "MODIFIERS",
    "UNKNOWN",
    "VIEWS",
    "GreyValues",
    "Mammogram",
    "grey_values",
    "read_mammogram",
]

#: Digital Mammography X-Ray Image Storage; tomosynthesis has SOP classes of its own.
_SOP_CLASSES: Final = frozenset(
    {
        str(DigitalMammographyXRayImageStorageForPresentation),
        str(DigitalMammographyXRayImageStorageForProcessing),
    }
)

#: View Code Sequence (0054,0220), CID 4014, to View Position (0018,5101), PS3.3 C.8.11.7.1.
VIEWS: Final = {
    "399162004": "CC",
    "399368009": "MLO",
    "399260004": "ML",
    "399352003": "LM",
    "399099002": "LMO",
    "399196006": "FB",
    "399188001": "SIO",
    "441555000": "ISO",
    "399192008": "XCCL",
    "399101009": "XCCM",
}
#: View Modifier Code Sequence (0054,0222), CID 4015.
MODIFIERS: Final = {
    "399161006": "cleavage",
    "399011000": "axillary tail",
    "399197002": "rolled lateral",
    "399226006": "rolled medial",
    "414493004": "rolled inferior",
    "415670009": "rolled superior",
    "399209000": "implant displaced",
    "399163009": "magnification",
    "399055006": "spot compression",
    "399110001": "tangential",
    "442581004": "nipple in profile",
    "441752004": "anterior compression",
    "442593008": "infra-mammary fold",
    "442580003": "axillary tissue",
}
IMPLANT_DISPLACED: Final = "implant displaced"


@dataclass(frozen=True, slots=True)
class Mammogram(ProjectionImage):
    """One 2D mammogram.

    Attributes:
        modifiers: view modifiers as `MODIFIERS` names them, `unknown` for others.
        magnification: Estimated Radiographic Magnification Factor (0018,1114).
        paddle: Paddle Description (0018,11A4), upper case, empty when absent.
        implant: Breast Implant Present (0028,1300) is YES.
        anterior: direction of a row of pixels by Patient Orientation (0020,0020): True when
            columns count towards the nipple, False when towards the chest wall, else None.
    """

    modifiers: tuple[str, ...]
    magnification: float | None
    paddle: str
    implant: bool
    anterior: bool | None


def read_mammogram(part: memoryview, limits: LimitSettings) -> Mammogram:
    """Read one PS3.10 instance; the result refers to `part`, which must outlive it.

    Raises:
        RefusedInput: `not-dicom`, `truncated`, `too-large`, `not-an-image`, `modality` (no
            2D mammogram), `photometric-interpretation`, `unsupported-pixels`,
            `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    opened = open_projection(
        part, limits, sop_classes=_SOP_CLASSES, modalities=("MG",), what="2D mammogram"
    )
    header = opened.header
    try:
        return Mammogram(
            **describe(opened, VIEWS, _presented),
            modifiers=distinct(_modifiers(header)),
            magnification=number(
                string(header, "EstimatedRadiographicMagnificationFactor").encode("latin-1")
            ),
            paddle=upper(header, "PaddleDescription"),
            implant=upper(header, "BreastImplantPresent") == "YES",
            anterior=_anterior(header),
        )
    except PARSE_ERRORS as error:
        raise RefusedInput("a header is corrupt", code="not-dicom") from error


def _presented(sop_class_uid: str) -> bool:
    return sop_class_uid == str(DigitalMammographyXRayImageStorageForPresentation)


def _modifiers(header: Dataset) -> Iterator[str]:
    for item in header.get("ViewCodeSequence") or ():
        for modifier in item.get("ViewModifierCodeSequence") or ():
            yield MODIFIERS.get(snomed(modifier, MODIFIERS), UNKNOWN)


def _anterior(header: Dataset) -> bool | None:
    """Where a row of pixels leads: Patient Orientation begins with A, P or neither."""
    along_row, separator, _ = string(header, "PatientOrientation").partition("\\")
    return {"A": True, "P": False}.get(along_row[:1].upper()) if separator else None
