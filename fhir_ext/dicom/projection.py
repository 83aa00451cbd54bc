"""What mammograms and radiographs have in common: one X-ray image of one frame.

Nothing is decided here: values that contradict each other are handed on as they stand, for a
gate to refuse. Pixels are decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.sr.coding import Code

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

FOR_PRESENTATION: Final = "FOR PRESENTATION"
FOR_PROCESSING: Final = "FOR PROCESSING"
#: A code that the table of its context group does not hold.
UNKNOWN: Final = "unknown"
#: Other designators of SNOMED RT (PS3.16 8.1).
_RT_NAMES: Final = frozenset({"SNM3", "99SDM"})


@dataclass(frozen=True, slots=True)
class Spacing:
    """Size of a pixel of a projection image, in mm (PS3.3 10.7.1.3).

    Attributes:
        rows, columns: distance between (rows, columns).
        kind: where it holds. `detector`: Imager Pixel Spacing (0018,1164), or a Pixel Spacing
            (0028,0030) that repeats it: in the plane of the detector, and larger than what it
            shows by the magnification. `geometry`, `fiducial`: Pixel Spacing that was corrected
            for the magnification so (Pixel Spacing Calibration Type 0028,0A02). `unstated`:
            Pixel Spacing without a word of where it holds.
    """

    rows: float
    columns: float
    kind: str

    @property
    def calibrated(self) -> bool:
        """Whether a length in the patient may be told from it, in one plane at best."""
        return self.kind in ("geometry", "fiducial")


@dataclass(frozen=True, slots=True)
class ProjectionImage:
    """One image of one frame.

    Attributes:
        sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid: identity.
        intent: Presentation Intent Type (0008,0068), else as the SOP class says; empty when
            neither does.
        lateralities: distinct values of Image Laterality (0020,0062) and Laterality
            (0020,0060), upper case: `L`, `R`, `B` or nonsense.
        views: distinct views that View Code Sequence (0054,0220) and View Position (0018,5101)
            name, as View Position writes them; `unknown` for a code that is not known.
        inverted: MONOCHROME1: small stored values are bright.
        spacing: size of a pixel; None when none is stated.
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
    inverted: bool
    spacing: Spacing | None
    details: Acquisition
    format: PixelFormat = field(repr=False)
    pixels: memoryview = field(repr=False)
    evidence: Dataset = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """One readable instance before it is interpreted."""

    raw: RawInstance
    header: Dataset
    pixels: memoryview
    format: PixelFormat
    sop_class_uid: str


def open_projection(
    part: memoryview,
    limits: LimitSettings,
    *,
    sop_classes: Collection[str],
    modalities: Collection[str],
    what: str,
) -> Opened:
    """Check one PS3.10 instance and read its header; the result refers to `part`.

    Args:
        sop_classes, modalities: accepted ones.
        what: the images in words, for the error.

    Raises:
        RefusedInput: `not-dicom`, `truncated`, `too-large`, `not-an-image`, `modality`,
            `photometric-interpretation` or `unsupported-pixels`.
    """
    raw = take_apart(part, limits.instance_bytes)
    sop_class = text(raw.values.get("SOPClassUID"))
    if sop_class not in sop_classes or text(raw.values.get("Modality")) not in modalities:
        raise RefusedInput(f"an instance is no {what}", code="modality")
    if raw.pixels is None:
        raise RefusedInput("an instance has no pixels", code="not-an-image")
    if raw.pixels_missing:
        raise RefusedInput("an instance ends inside its pixels", code="truncated")
    pixel_format = read_format(raw, limits)
    if pixel_format.frames != 1:
        raise RefusedInput(f"a {what} has one frame", code="unsupported-pixels")
    try:
        header = read_dataset(BytesIO(raw.dataset), raw.implicit, True)
    except PARSE_ERRORS as error:
        raise RefusedInput("a header is corrupt", code="not-dicom") from error
    return Opened(raw, header, raw.pixels, pixel_format, sop_class)


def describe(
    opened: Opened, views: Mapping[str, str], for_presentation: Callable[[str], bool | None]
) -> dict[str, Any]:
    """Values of the attributes of `ProjectionImage`.

    Args:
        opened: from `open_projection`.
        views: SNOMED CT codes of View Code Sequence to View Position.
        for_presentation: what a SOP class says of the intent; None: nothing.
    """
    raw, header = opened.raw, opened.header
    intent = upper(header, "PresentationIntentType")
    if not intent:
        presented = for_presentation(opened.sop_class_uid)
        intent = {True: FOR_PRESENTATION, False: FOR_PROCESSING, None: ""}[presented]
    sides = (upper(header, keyword) for keyword in ("ImageLaterality", "Laterality"))
    return {
        "sop_class_uid": opened.sop_class_uid,
        "sop_instance_uid": text(raw.values.get("SOPInstanceUID")),
        "study_instance_uid": text(raw.values.get("StudyInstanceUID")),
        "series_instance_uid": text(raw.values.get("SeriesInstanceUID")),
        "intent": intent,
        "lateralities": distinct(sides),
        "views": distinct((*_view_codes(header, views), upper(header, "ViewPosition"))),
        "inverted": upper(header, "PhotometricInterpretation") == "MONOCHROME1",
        "spacing": _spacing(header),
        "details": read_details(raw.values),
        "format": opened.format,
        "pixels": opened.pixels,
        "evidence": evidence_dataset(
            {key: raw.values[key] for key in EVIDENCE_TAGS if key in raw.values}, raw.implicit, {}
        ),
    }


def grey_values(image: ProjectionImage) -> GreyValues:
    """The stored values, bright where the image is bright.

    MONOCHROME1 is turned over inside the range of BitsStored. Neither a VOI window nor a VOI
    LUT is applied, and padding stays what it is: both are for display (PS3.3 C.11.2).

    Returns:
        int32 (rows, columns), as the image lies in the file.

    Raises:
        RefusedInput: `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    stored = image.format
    check_pixels(image)
    if stored.transfer_syntax_uid in NATIVE:
        samples = native_frame(image.pixels, stored, 0)
    else:
        (frame,) = encapsulated_frames(image.pixels, stored)
        samples = decode_frame(frame, stored)
    values = _stored_values(samples, stored)
    if image.inverted:
        low, high = stored_range(stored)
        np.subtract(low + high, values, out=values)
    return values


def stored_range(stored: PixelFormat) -> tuple[int, int]:
    """Lowest and highest value that BitsStored can hold."""
    low = -(1 << stored.bits_stored - 1) if stored.signed else 0
    return low, low + (1 << stored.bits_stored) - 1


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


def _spacing(header: Dataset) -> Spacing | None:
    imager, stated = _pair(header, "ImagerPixelSpacing"), _pair(header, "PixelSpacing")
    if stated is None:
        return None if imager is None else Spacing(*imager, "detector")
    calibration = upper(header, "PixelSpacingCalibrationType")
    if imager is not None and stated == imager:
        return Spacing(*stated, "detector")
    known = {"GEOMETRY": "geometry", "FIDUCIAL": "fiducial"}
    return Spacing(*stated, known.get(calibration, "unstated"))


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    found = [number(part.encode("latin-1")) for part in string(header, keyword).split("\\")]
    if len(found) != 2 or any(value is None or value <= 0 for value in found):
        return None
    first, second = found
    assert first is not None and second is not None
    return first, second


def _view_codes(header: Dataset, views: Mapping[str, str]) -> Iterator[str]:
    for item in header.get("ViewCodeSequence") or ():
        yield views.get(snomed(item, views), UNKNOWN)


def snomed(item: Dataset, known: Iterable[str]) -> str:
    """SNOMED CT concept of a code item; older objects hold its SNOMED RT identifier.

    Returns:
        Empty for a code that is not one of `known`.
    """
    scheme = string(item, "CodingSchemeDesignator")
    code = Code(string(item, "CodeValue"), "SRT" if scheme in _RT_NAMES else scheme, "")
    for concept in known:
        if code == Code(concept, "SCT", ""):
            return concept
    return ""


def string(header: Dataset, keyword: str) -> str:
    """The text of an element as it stands; pydicom would warn of odd values and quote them."""
    element = header.get_item(keyword)
    value = None if element is None else element.value
    return text(value) if isinstance(value, bytes) else ""


def upper(header: Dataset, keyword: str) -> str:
    """`string` in upper case."""
    return string(header, keyword).upper()


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in order, without empty ones."""
    return tuple(dict.fromkeys(value for value in values if value))
