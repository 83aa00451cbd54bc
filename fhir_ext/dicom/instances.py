"""What one instance says about its frames: pixel format, place, rescale, acquisition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

from fhir_ext.dicom.headers import (
    EVIDENCE_TAGS,
    RawInstance,
    integer,
    number,
    text,
    texts,
)
from fhir_ext.dicom.volume import Acquisition
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

Vector = tuple[float, float, float]

_DAYS_PER_AGE_UNIT = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
#: Beyond these a number is a mistake, and arithmetic with it could overflow.
_FARTHEST_MM = 100_000.0
_FINEST_PIXEL_MM, _COARSEST_PIXEL_MM = 1e-4, 1000.0
_LARGEST_RESCALE = 1e6
#: RescaleType (0028,1054) under which a CT holds Hounsfield units; US is "unspecified".
_HOUNSFIELD = frozenset({"", "HU", "US"})


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the samples of one instance are stored (PS3.3 C.7.6.3).

    Attributes:
        transfer_syntax_uid: encoding of the pixel data.
        rows, columns: of one frame.
        frames: number of frames.
        bits_allocated: 8 or 16.
        bits_stored, high_bit: where the sample lies in its cell.
        signed: two's complement (PixelRepresentation 1).
        padding: lowest and highest stored value that means "no pixel"; None when unnamed.
    """

    transfer_syntax_uid: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: tuple[int, int] | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame as stored."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality LUT: value = stored * slope + intercept (PS3.3 C.11.1.1.2).

    Attributes:
        hounsfield: the values are Hounsfield units, which fit whole into 16 bits; those of other
            modalities may be of any size.
    """

    slope: float
    intercept: float
    hounsfield: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one frame lies and what it belongs to.

    Attributes:
        position: ImagePositionPatient, LPS in mm.
        orientation: ImageOrientationPatient: direction of rows, then of columns.
        pixel_spacing: distance (between rows, between columns) in mm.
        rescale: to the modality's unit.
        frame_of_reference_uid: empty when absent.
        reconstruction: what differs between reconstructions: kernel (empty when not stated),
            slice thickness in mm (0: not stated), and the tube voltage in kV.
        acquisition: AcquisitionNumber, temporal position, image type: what tells repeated
            scans of the same place apart, in the order in which it is tried.
    """

    position: Vector
    orientation: tuple[float, float, float, float, float, float]
    pixel_spacing: tuple[float, float]
    rescale: Rescale
    frame_of_reference_uid: str
    reconstruction: tuple[str, float, float | None]
    acquisition: tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Instance:
    """One readable image instance.

    Attributes:
        sop_instance_uid, study_instance_uid, series_instance_uid: identity.
        format: how the pixels are stored.
        frames: one per frame.
        details: header values for the gates.
        slice_thickness_mm: nominal thickness, or the stated distance of slices; else None.
        pixels: native samples, or the encapsulated items.
        evidence: raw values that become the evidence data set.
        implicit: VR encoding of `evidence`.
    """

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    format: PixelFormat
    frames: tuple[Frame, ...]
    details: Acquisition
    slice_thickness_mm: float | None
    pixels: memoryview
    evidence: dict[str, bytes]
    implicit: bool


def read_format(raw: RawInstance, limits: LimitSettings) -> PixelFormat:
    """The pixel format, checked against what we decode and against the limits.

    Raises:
        RefusedInput: `unsupported-pixels` or `too-large`.
    """
    values = raw.values
    rows, columns = integer(values.get("Rows")) or 0, integer(values.get("Columns")) or 0
    allocated = integer(values.get("BitsAllocated")) or 0
    stored = integer(values.get("BitsStored")) or allocated
    high = integer(values.get("HighBit"))
    signed = integer(values.get("PixelRepresentation")) == 1
    samples = integer(values.get("SamplesPerPixel")) or 1
    photometric = text(values.get("PhotometricInterpretation"))
    # NumberOfFrames is an IS; absent means one.
    frames = number(values.get("NumberOfFrames"))
    frames = 1.0 if frames is None else frames
    high = stored - 1 if high is None else high
    if samples != 1 or photometric not in ("MONOCHROME2", "MONOCHROME1", ""):
        raise RefusedInput("pixels are not grey values", code="photometric-interpretation")
    if allocated not in (8, 16) or not stored - 1 <= high < allocated or stored < 1:
        raise RefusedInput("pixels are not up to 16 bits", code="unsupported-pixels")
    if rows < 1 or columns < 1 or frames < 1 or frames != int(frames):
        raise RefusedInput("an image without extent", code="unsupported-pixels")
    if (
        max(rows, columns) > limits.rows_columns
        or frames > limits.frames
        or rows * columns * 2 * frames > limits.volume_bytes
    ):
        raise RefusedInput("an instance is over the limits", code="too-large")
    return PixelFormat(
        transfer_syntax_uid=raw.transfer_syntax_uid,
        rows=rows,
        columns=columns,
        frames=int(frames),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=signed,
        padding=_padding(values, signed),
    )


def _padding(values: dict[str, bytes], signed: bool) -> tuple[int, int] | None:
    value = integer(values.get("PixelPaddingValue"), signed=signed)
    if value is None or text(values.get("Modality")) != "CT":
        return None
    limit = integer(values.get("PixelPaddingRangeLimit"), signed=signed)
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def read_details(values: dict[str, bytes]) -> Acquisition:
    """Header values for the gates, from top-level elements."""
    return Acquisition(
        modality=text(values.get("Modality")),
        manufacturer=text(values.get("Manufacturer")) or None,
        convolution_kernel="\\".join(texts(values.get("ConvolutionKernel"))) or None,
        # 0 is what some writers put where they know nothing.
        slice_thickness_mm=number(values.get("SliceThickness")) or None,
        kvp=number(values.get("KVP")) or None,
        contrast_agent=text(values.get("ContrastBolusAgent")) or None,
        body_part_examined=text(values.get("BodyPartExamined")) or None,
        patient_age_years=_age(values),
        image_type=texts(values.get("ImageType")),
        burned_in_annotation=text(values.get("BurnedInAnnotation")) or None,
        ecg_gated=_gated(values),
        photometric_interpretation=text(values.get("PhotometricInterpretation")) or None,
        patient_position=text(values.get("PatientPosition")) or None,
        scanner_model=text(values.get("ManufacturerModelName")) or None,
        patient_sex=text(values.get("PatientSex")) or None,
    )


def _age(values: dict[str, bytes]) -> float | None:
    stated = text(values.get("PatientAge")).upper()
    if len(stated) == 4 and stated[:3].isdigit() and stated[3] in _DAYS_PER_AGE_UNIT:
        return int(stated[:3]) * _DAYS_PER_AGE_UNIT[stated[3]] / 365.25
    days = []
    for keyword in ("PatientBirthDate", "StudyDate"):
        value = text(values.get(keyword))
        try:
            days.append(date.fromisoformat(f"{value[:4]}-{value[4:6]}-{value[6:8]}"))
        except ValueError:
            return None
    age = (days[1] - days[0]).days / 365.25
    return age if age >= 0 else None


def check_position(position: tuple[float, ...]) -> Vector:
    """ImagePositionPatient as a point in mm.

    Raises:
        RefusedInput: `missing-geometry`: absent, or not near any patient.
    """
    if len(position) != 3 or max(map(abs, position)) > _FARTHEST_MM:
        raise RefusedInput("a slice has no position", code="missing-geometry")
    return position[0], position[1], position[2]


def read_rescale(
    slope: float | None, intercept: float | None, rescale_type: str, modality: str
) -> Rescale:
    """The modality LUT; where a CT does not say it is refused, elsewhere it is identity.

    Raises:
        RefusedInput: `not-hounsfield`.
    """
    if modality == "CT":
        if slope is None or intercept is None or rescale_type not in _HOUNSFIELD:
            raise RefusedInput("pixels do not become Hounsfield units", code="not-hounsfield")
        if slope <= 0:
            raise RefusedInput("the rescale slope is not positive", code="not-hounsfield")
    rescale = Rescale(1.0 if slope is None else slope, intercept or 0.0, modality == "CT")
    if max(abs(rescale.slope), abs(rescale.intercept)) > _LARGEST_RESCALE:
        raise RefusedInput("the rescale is absurd", code="not-hounsfield")
    return rescale


def check_plane(orientation: tuple[float, ...], spacing: tuple[float, ...]) -> None:
    """Refuse an image plane that cannot be one.

    Raises:
        RefusedInput: `missing-geometry`: values are absent or absurd, or the directions are
            not unit vectors at a right angle (within 1 %).
    """
    if (
        len(orientation) != 6
        or len(spacing) != 2
        or min(spacing) < _FINEST_PIXEL_MM
        or max(spacing) > _COARSEST_PIXEL_MM
    ):
        raise RefusedInput("a slice has no image plane", code="missing-geometry")
    row, column = orientation[:3], orientation[3:]
    lengths = (_dot(row, row), _dot(column, column))
    if max(abs(length - 1) for length in lengths) > 0.02 or abs(_dot(row, column)) > 0.01:
        raise RefusedInput("the directions of a slice are unusable", code="missing-geometry")


def _gated(values: dict[str, bytes]) -> bool | None:
    """ECG gating, where the header says something of it (PS3.3 C.7.6.18)."""
    technique = text(values.get("CardiacSynchronizationTechnique"))
    if technique:
        return technique != "NONE"
    # One number of VR FD: a phase can only be named where an ECG was recorded.
    return True if len(values.get("NominalPercentageOfCardiacPhase", b"")) == 8 else None


def _dot(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def evidence_dataset(
    values: dict[str, bytes], implicit: bool, shared: dict[tuple[str, bytes], RawDataElement]
) -> Dataset:
    """The kept header values as a data set, decoded when it is read.

    Args:
        values: keyword to raw value.
        implicit: VR encoding that the values came in.
        shared: elements made before; slices share most of theirs.
    """
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for keyword, value in values.items():
        element = shared.get((keyword, value))
        if element is None:
            tag, vr = EVIDENCE_TAGS[keyword]
            element = RawDataElement(BaseTag(tag), vr, len(value), value, 0, implicit, True)
            shared[keyword, value] = element
        elements[element.tag] = element
    dataset = Dataset(elements)
    dataset.set_original_encoding(implicit, True)
    return dataset
