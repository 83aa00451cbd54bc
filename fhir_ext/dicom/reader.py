"""From the bytes of an instance to what it says; consecutive slices share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_ext.dicom.enhanced import read_frames
from fhir_ext.dicom.headers import (
    EVIDENCE_TAGS,
    RawInstance,
    number,
    numbers,
    text,
)
from fhir_ext.dicom.instances import (
    Frame,
    Instance,
    PixelFormat,
    Vector,
    check_plane,
    check_position,
    read_details,
    read_format,
    read_rescale,
)
from fhir_ext.dicom.volume import Acquisition
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class _Common:
    """What consecutive slices share; parsed once for as long as the raw bytes agree."""

    format: PixelFormat
    details: Acquisition
    frame: Frame | None
    slice_thickness_mm: float | None


_COMMON_KEYWORDS = (
    "ImageType",
    "Modality",
    "Manufacturer",
    "StudyDate",
    "PatientBirthDate",
    "PatientAge",
    "BodyPartExamined",
    "ContrastBolusAgent",
    "SliceThickness",
    "SpacingBetweenSlices",
    "KVP",
    "ConvolutionKernel",
    "BurnedInAnnotation",
    "CardiacSynchronizationTechnique",
    "NominalPercentageOfCardiacPhase",
    "PatientPosition",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "PixelSpacing",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
)


class InstanceReader:
    """Reads the instances of one series.

    Args:
        limits: what a single instance may claim.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._last: tuple[tuple[Any, ...], _Common] | None = None

    def read(self, raw: RawInstance) -> Instance:
        """Interpret one instance.

        Raises:
            RefusedInput: with a code of REJECTIONS.
        """
        values = raw.values
        if raw.pixels is None or "Rows" not in values:
            raise RefusedInput("an instance has no pixels", code="not-an-image")
        if raw.pixels_missing:
            raise RefusedInput("an instance ends inside its pixels", code="truncated")
        common = self._common(raw)
        if common.frame is None:
            frames, details, thickness = read_frames(raw, common.format, common.details)
        else:
            position = check_position(numbers(values.get("ImagePositionPatient")))
            frames = (_at(common.frame, position),)
            details, thickness = common.details, common.slice_thickness_mm
        return Instance(
            sop_instance_uid=text(values.get("SOPInstanceUID")),
            study_instance_uid=text(values.get("StudyInstanceUID")),
            series_instance_uid=text(values.get("SeriesInstanceUID")),
            format=common.format,
            frames=frames,
            details=details,
            slice_thickness_mm=thickness,
            pixels=raw.pixels,
            evidence={key: values[key] for key in EVIDENCE_TAGS if key in values},
            implicit=raw.implicit,
        )

    def _common(self, raw: RawInstance) -> _Common:
        values = raw.values
        key = (
            raw.transfer_syntax_uid,
            raw.has_frame_groups,
            *map(values.get, _COMMON_KEYWORDS),
        )
        if self._last is None or self._last[0] != key:
            pixel_format = read_format(raw, self._limits)
            details = read_details(values)
            if any(value.upper() == "LOCALIZER" for value in details.image_type):
                raise RefusedInput("a localizer is no slice of a volume", code="localizer")
            multi_frame = raw.has_frame_groups or pixel_format.frames > 1
            frame = None if multi_frame else _classic_frame(values, details)
            thickness = details.slice_thickness_mm or number(values.get("SpacingBetweenSlices"))
            self._last = key, _Common(pixel_format, details, frame, thickness)
        return self._last[1]


def _classic_frame(values: dict[str, bytes], details: Acquisition) -> Frame:
    spacing = numbers(values.get("PixelSpacing"))
    orientation = numbers(values.get("ImageOrientationPatient"))
    check_plane(orientation, spacing)
    row_x, row_y, row_z, column_x, column_y, column_z = orientation
    return Frame(
        position=(0.0, 0.0, 0.0),
        orientation=(row_x, row_y, row_z, column_x, column_y, column_z),
        pixel_spacing=(spacing[0], spacing[1]),
        rescale=read_rescale(
            number(values.get("RescaleSlope")),
            number(values.get("RescaleIntercept")),
            text(values.get("RescaleType")),
            details.modality,
        ),
        frame_of_reference_uid=text(values.get("FrameOfReferenceUID")),
        reconstruction=(
            details.convolution_kernel or "",
            round(details.slice_thickness_mm or 0.0, 2),
            details.kvp,
        ),
        acquisition=(
            text(values.get("AcquisitionNumber")),
            text(values.get("TemporalPositionIdentifier")),
            details.image_type,
        ),
    )


def _at(frame: Frame, position: Vector) -> Frame:
    # Not dataclasses.replace, which costs as much as the rest of a header.
    return Frame(
        position,
        frame.orientation,
        frame.pixel_spacing,
        frame.rescale,
        frame.frame_of_reference_uid,
        frame.reconstruction,
        frame.acquisition,
    )
