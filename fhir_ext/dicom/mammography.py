"""Digital mammograms (PS3.3 A.27): what an instance says of its view, and its grey values.

Nothing is decided here: values that contradict each other are handed on as they stand, for a
service to refuse. Pixels are decoded when they are asked for; a study may hold many images of
which a service needs four.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
)

from fhir_ext.dicom.decode import (
    NATIVE,
    check_pixels,
    decode_frame,
    encapsulated_frames,
    native_frame,
)
from fhir_ext.dicom.headers import (
    EVIDENCE_TAGS,
    PARSE_ERRORS,
    RawInstance,
    number,
    take_apart,
    text,
)
from fhir_ext.dicom.instances import PixelFormat, evidence_dataset, read_details, read_format
from fhir_ext.dicom.volume import Acquisition
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

GreyValues = npt.NDArray[np.int32]

#: Digital Mammography X-Ray Image Storage; tomosynthesis has SOP classes of its own.
SOP_CLASSES: Final = frozenset(
    {
        str(DigitalMammographyXRayImageStorageForPresentation),
        str(DigitalMammographyXRayImageStorageForProcessing),
    }
)
FOR_PRESENTATION: Final = "FOR PRESENTATION"
FOR_PROCESSING: Final = "FOR PROCESSING"

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
#: Other designators of SNOMED RT (PS3.16 8.1).
_RT_NAMES: Final = frozenset({"SNM3", "99SDM"})
IMPLANT_DISPLACED: Final = "implant displaced"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Mammogram:
    """One 2D mammogram.

    Attributes:
        sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid: identity.
        intent: Presentation Intent Type (0008,0068), else as the SOP class says.
        lateralities: distinct values of Image Laterality (0020,0062) and Laterality
            (0020,0060), upper case: `L`, `R`, `B` or nonsense.
        views: distinct views that View Code Sequence and View Position name, as View
            Position writes them; `unknown` for a code that is not in CID 4014.
        modifiers: view modifiers as `MODIFIERS` names them, `unknown` for others.
        magnification: Estimated Radiographic Magnification Factor (0018,1114).
        paddle: Paddle Description (0018,11A4), upper case, empty when absent.
        implant: Breast Implant Present (0028,1300) is YES.
        anterior: direction of a row of pixels by Patient Orientation (0020,0020): True when
            columns count towards the nipple, False when towards the chest wall, else None.
        inverted: MONOCHROME1: small stored values are bright.
        details: header values for the gates.
        format, pixels: how the samples are stored, and where.
        evidence: patient, study, series and SOP common attributes for an SR.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    intent: str
    lateralities: tuple[str, ...]
    views: tuple[str, ...]
    modifiers: tuple[str, ...]
    magnification: float | None
    paddle: str
    implant: bool
    anterior: bool | None
    inverted: bool
    details: Acquisition
    format: PixelFormat = field(repr=False)
    pixels: memoryview = field(repr=False)
    evidence: Dataset = field(repr=False)


def read_mammogram(part: memoryview, limits: LimitSettings) -> Mammogram:
    """Read one PS3.10 instance; the result refers to `part`, which must outlive it.

    Raises:
        RefusedInput: `not-dicom`, `truncated`, `too-large`, `not-an-image`, `modality` (no
            2D mammogram), `photometric-interpretation`, `unsupported-pixels`,
            `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    raw = take_apart(part, limits.instance_bytes)
    sop_class = text(raw.values.get("SOPClassUID"))
    if sop_class not in SOP_CLASSES or text(raw.values.get("Modality")) != "MG":
        raise RefusedInput("an instance is no 2D mammogram", code="modality")
    if raw.pixels is None:
        raise RefusedInput("an instance has no pixels", code="not-an-image")
    if raw.pixels_missing:
        raise RefusedInput("an instance ends inside its pixels", code="truncated")
    pixel_format = read_format(raw, limits)
    if pixel_format.frames != 1:
        raise RefusedInput("a mammogram has one frame", code="unsupported-pixels")
    try:
        return _described(raw, raw.pixels, pixel_format, sop_class)
    except PARSE_ERRORS as error:
        raise RefusedInput("a header is corrupt", code="not-dicom") from error


def grey_values(mammogram: Mammogram) -> GreyValues:
    """The stored values, bright where the breast is dense.

    MONOCHROME1 is turned over inside the range of BitsStored. Neither a VOI window nor a VOI
    LUT is applied, and padding stays what it is: both are for display (PS3.3 C.11.2).

    Returns:
        int32 (rows, columns), as the image lies in the file.

    Raises:
        RefusedInput: `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    stored = mammogram.format
    check_pixels(mammogram)
    if stored.transfer_syntax_uid in NATIVE:
        samples = native_frame(mammogram.pixels, stored, 0)
    else:
        (frame,) = encapsulated_frames(mammogram.pixels, stored)
        samples = decode_frame(frame, stored)
    values = _stored_values(samples, stored)
    if mammogram.inverted:
        lowest = -(1 << stored.bits_stored - 1) if stored.signed else 0
        np.subtract(2 * lowest + (1 << stored.bits_stored) - 1, values, out=values)
    return values


def _stored_values(samples: npt.NDArray[Any], stored: PixelFormat) -> GreyValues:
    """Samples without the bits beside BitsStored, with their sign."""
    cells = samples if samples.dtype.itemsize == 1 else samples.view(np.uint16)
    values = cells.astype(np.int32)
    values >>= stored.high_bit + 1 - stored.bits_stored
    values &= (1 << stored.bits_stored) - 1
    if stored.signed:
        half = 1 << stored.bits_stored - 1
        values ^= half
        values -= half
    return values


def _described(
    raw: RawInstance, pixels: memoryview, pixel_format: PixelFormat, sop_class: str
) -> Mammogram:
    header = read_dataset(BytesIO(raw.dataset), raw.implicit, True)
    intent = _upper(header, "PresentationIntentType")
    if not intent:
        presented = sop_class == str(DigitalMammographyXRayImageStorageForPresentation)
        intent = FOR_PRESENTATION if presented else FOR_PROCESSING
    return Mammogram(
        sop_class_uid=sop_class,
        sop_instance_uid=text(raw.values.get("SOPInstanceUID")),
        study_instance_uid=text(raw.values.get("StudyInstanceUID")),
        series_instance_uid=text(raw.values.get("SeriesInstanceUID")),
        intent=intent,
        lateralities=_distinct(
            _upper(header, keyword) for keyword in ("ImageLaterality", "Laterality")
        ),
        views=_distinct((*_view_codes(header), _upper(header, "ViewPosition"))),
        modifiers=_distinct(_modifiers(header)),
        magnification=number(
            _text(header, "EstimatedRadiographicMagnificationFactor").encode("latin-1")
        ),
        paddle=_upper(header, "PaddleDescription"),
        implant=_upper(header, "BreastImplantPresent") == "YES",
        anterior=_anterior(header),
        inverted=_upper(header, "PhotometricInterpretation") == "MONOCHROME1",
        details=read_details(raw.values),
        format=pixel_format,
        pixels=pixels,
        evidence=evidence_dataset(
            {key: raw.values[key] for key in EVIDENCE_TAGS if key in raw.values}, raw.implicit, {}
        ),
    )


def _view_codes(header: Dataset) -> Iterator[str]:
    for item in header.get("ViewCodeSequence") or ():
        yield VIEWS.get(_snomed(item), UNKNOWN)


def _modifiers(header: Dataset) -> Iterator[str]:
    for item in header.get("ViewCodeSequence") or ():
        for modifier in item.get("ViewModifierCodeSequence") or ():
            yield MODIFIERS.get(_snomed(modifier), UNKNOWN)


def _snomed(item: Dataset) -> str:
    """SNOMED CT concept of a code item; older objects hold its SNOMED RT identifier."""
    scheme = _text(item, "CodingSchemeDesignator")
    code = Code(_text(item, "CodeValue"), "SRT" if scheme in _RT_NAMES else scheme, "")
    for known in (*VIEWS, *MODIFIERS):
        if code == Code(known, "SCT", ""):
            return known
    return ""


def _anterior(header: Dataset) -> bool | None:
    """Where a row of pixels leads: Patient Orientation begins with A, P or neither."""
    along_row, separator, _ = _text(header, "PatientOrientation").partition("\\")
    return {"A": True, "P": False}.get(along_row[:1].upper()) if separator else None


def _text(header: Dataset, keyword: str) -> str:
    """The text of an element as it stands; pydicom would warn of odd values and quote them."""
    element = header.get_item(keyword)
    value = None if element is None else element.value
    return text(value) if isinstance(value, bytes) else ""


def _upper(header: Dataset, keyword: str) -> str:
    return _text(header, keyword).upper()


def _distinct(values: Iterator[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
