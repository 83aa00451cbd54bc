"""DICOM Segmentation objects of any producer: what they hold, and where (PS3.3 A.51, C.8.20).

BINARY, FRACTIONAL and LABELMAP are read; segments may overlap, frames without a pixel may be
left out, and the grid may be any. `fhir_ext.dicom.seg_place` puts segments onto a volume.

Does not write: highdicom does. Does not read Surface Segmentation (66.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import SegmentationStorage

from fhir_ext.dicom.headers import PARSE_ERRORS, RawInstance, take_apart
from fhir_ext.dicom.instances import check_plane, check_position
from fhir_ext.dicom.seg_pixels import SegmentFrames
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

SegmentationType = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
_TYPES: dict[str, SegmentationType] = {
    "BINARY": "BINARY",
    "FRACTIONAL": "FRACTIONAL",
    "LABELMAP": "LABELMAP",
}
#: Label Map Segmentation Storage (PS3.6); pydicom has no name for it.
_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
#: Frames of one object may differ in direction by this and still share one plane.
_SAME_DIRECTION = 1e-3
#: Relative difference under which pixel spacings are the same.
_SAME_SPACING = 1e-3
#: Planes closer than this along the normal, in mm, lie at the same place.
SAME_PLACE_MM = 0.01


@dataclass(frozen=True, slots=True)
class CodedEntry:
    """A code as a DICOM code sequence holds it (PS3.3 8.8): scheme, value, meaning."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class SegmentIdentity:
    """What a segment says it is (PS3.3 C.8.20.4).

    Attributes:
        number: Segment Number (0062,0004).
        label: Segment Label (0062,0005): free text, never for logs.
        category, type: Segmented Property Category and Type; None when absent.
        type_modifiers: Segmented Property Type Modifiers, such as a side.
        region: Anatomic Region, with its modifiers in `region_modifiers`.
        algorithm_type: MANUAL, SEMIAUTOMATIC, AUTOMATIC, or empty.
    """

    number: int
    label: str
    category: CodedEntry | None = None
    type: CodedEntry | None = None
    type_modifiers: tuple[CodedEntry, ...] = ()
    region: CodedEntry | None = None
    region_modifiers: tuple[CodedEntry, ...] = ()
    algorithm_type: str = ""


@dataclass(frozen=True, slots=True)
class SegGrid:
    """The planes of a SEG in the LPS frame of the patient, in mm.

    Attributes:
        origins: float64 (frames, 3), centre of the first pixel of each frame.
        column_direction, row_direction: unit vectors along which columns and rows count up.
        spacing: between (rows, columns).
        plane_step: distance of neighbouring planes, along the normal.
    """

    origins: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    plane_step: float

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        return np.cross(self.column_direction, self.row_direction)

    @property
    def voxel_ml(self) -> float:
        return self.spacing[0] * self.spacing[1] * self.plane_step / 1000.0


@dataclass(frozen=True, slots=True)
class Segmentation:
    """One SEG object.

    Attributes:
        study_instance_uid, series_instance_uid, sop_instance_uid: identity.
        frame_of_reference_uid: never empty.
        kind: Segmentation Type (0062,0001).
        content_time: Content Date and Time as YYYYMMDDHHMMSS, for order; may be empty.
        segments: in the order of the object.
        grid: planes of the frames.
        frame_segments: segment number of each frame; all 0 for a LABELMAP, whose pixels
            are segment numbers.
        frames: the pixels.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    frame_of_reference_uid: str
    kind: SegmentationType
    content_time: str
    segments: tuple[SegmentIdentity, ...]
    grid: SegGrid
    frame_segments: npt.NDArray[np.int64]
    frames: SegmentFrames

    def frames_of(self, number: int) -> npt.NDArray[np.intp]:
        """Indices of the frames that may hold pixels of a segment."""
        if self.kind == "LABELMAP":
            return np.arange(len(self.frame_segments))
        return np.flatnonzero(self.frame_segments == number)

    def mask(self, frame: int, number: int) -> npt.NDArray[np.bool_]:
        """Pixels (rows, columns) of a segment in one frame.

        A FRACTIONAL pixel belongs to the segment from half of Maximum Fractional Value
        (0062,000E) on, whether it is a probability or an occupancy.

        Raises:
            RefusedInput: `corrupt-pixels`.
        """
        return pixels_of(self.frames, self.kind, frame, number)


def pixels_of(
    frames: SegmentFrames, kind: SegmentationType, frame: int, number: int
) -> npt.NDArray[np.bool_]:
    """See `Segmentation.mask`."""
    stored = frames[frame]
    if kind == "LABELMAP":
        return np.asarray(stored == number)
    if kind == "FRACTIONAL":
        return np.asarray(2 * stored.astype(np.int32) >= frames.maximum)
    return np.asarray(stored != 0)


def read_segmentation(part: bytes | memoryview, limits: LimitSettings) -> Segmentation:
    """Read one SEG instance (PS3.10).

    Args:
        part: the whole instance; it must outlive the result.
        limits: `instance_bytes`, `frames`, `rows_columns`, and `volume_bytes` for all pixels
            together once they are decoded to one byte each (packed: one bit).

    Raises:
        RefusedInput: `not-a-segmentation`, `missing-geometry`, `seg-geometry`,
            `seg-frame-of-reference` (none is named), `unsupported-pixels`,
            `unsupported-transfer-syntax`, `corrupt-pixels`, `truncated`, `too-large`,
            `not-dicom`.
    """
    try:
        return _placed(open_segmentation(part, limits))
    except PARSE_ERRORS as error:
        raise RefusedInput("a segmentation is corrupt", code="not-dicom") from error


@dataclass(frozen=True, slots=True)
class OpenedSegmentation:
    """A SEG whose pixels and segments are known, but not yet where they lie.

    Attributes:
        header: everything before the pixels.
        groups: functional groups of the frames.
        kind, content_time, segments, frame_segments, frames: as in `Segmentation`.
    """

    header: Dataset
    groups: FunctionalGroups
    kind: SegmentationType
    content_time: str
    segments: tuple[SegmentIdentity, ...]
    frame_segments: npt.NDArray[np.int64]
    frames: SegmentFrames

    def uid(self, keyword: str) -> str:
        return str(self.header.get(keyword) or "")


def open_segmentation(part: bytes | memoryview, limits: LimitSettings) -> OpenedSegmentation:
    """As `read_segmentation`, short of the geometry; what a header holds may raise PARSE_ERRORS."""
    view = memoryview(part)
    if len(view) > limits.instance_bytes:
        raise RefusedInput("a segmentation is over the size limit", code="too-large")
    raw = take_apart(view, limits.instance_bytes)
    if raw.pixels_missing:
        raise RefusedInput("a segmentation ends before its pixels do", code="truncated")
    header = read_dataset(BytesIO(raw.dataset), raw.implicit, True)
    return _open(header, raw, limits)


def _open(header: Dataset, raw: RawInstance, limits: LimitSettings) -> OpenedSegmentation:
    kind = _TYPES.get(str(header.get("SegmentationType") or ""))
    storage = str(header.get("SOPClassUID") or "")
    if kind is None or storage not in (SegmentationStorage, _LABEL_MAP_STORAGE):
        raise RefusedInput("the instance is no segmentation", code="not-a-segmentation")
    if kind == "FRACTIONAL" and not header.get("MaximumFractionalValue"):
        raise RefusedInput("fractions of what is not told", code="unsupported-pixels")
    frames = SegmentFrames(header, raw, limits, packed=kind == "BINARY")
    described = [_identity(item) for item in header.get("SegmentSequence") or ()]
    # A LABELMAP may describe its background, which is number 0.
    segments = tuple(identity for identity in described if identity.number > 0)
    if not segments or len({segment.number for segment in segments}) < len(segments):
        raise RefusedInput("segments are missing or doubled", code="not-a-segmentation")
    groups = FunctionalGroups(header, len(frames))
    numbers = np.zeros(len(frames), dtype=np.int64)
    if kind != "LABELMAP":
        numbers[:] = [_segment_number(groups, index) for index in range(len(frames))]
    moment = f"{header.get('ContentDate') or ''}{header.get('ContentTime') or ''}"
    return OpenedSegmentation(
        header, groups, kind, moment.partition(".")[0], segments, numbers, frames
    )


def _placed(opened: OpenedSegmentation) -> Segmentation:
    reference = opened.uid("FrameOfReferenceUID")
    if not reference:
        raise RefusedInput("no frame of reference is named", code="seg-frame-of-reference")
    return Segmentation(
        study_instance_uid=opened.uid("StudyInstanceUID"),
        series_instance_uid=opened.uid("SeriesInstanceUID"),
        sop_instance_uid=opened.uid("SOPInstanceUID"),
        frame_of_reference_uid=reference,
        kind=opened.kind,
        content_time=opened.content_time,
        segments=opened.segments,
        grid=_grid(opened.groups, len(opened.frames)),
        frame_segments=opened.frame_segments,
        frames=opened.frames,
    )


class FunctionalGroups:
    """Functional groups of the frames, else the shared ones (PS3.3 C.7.6.16)."""

    def __init__(self, header: Dataset, count: int) -> None:
        self._own: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        self._shared: Dataset = next(iter(shared), Dataset())
        if len(self._own) not in (0, count):
            raise RefusedInput("frames have no functional groups", code="missing-geometry")

    def item(self, index: int, keyword: str) -> Dataset:
        own = self._own[index].get(keyword) if self._own else None
        return next(iter(own or self._shared.get(keyword) or ()), Dataset())


def _segment_number(groups: FunctionalGroups, index: int) -> int:
    item = groups.item(index, "SegmentIdentificationSequence")
    number = item.get("ReferencedSegmentNumber")
    # A vector is what some writers make of a frame that belongs to one segment.
    return int(number if isinstance(number, int) else number[0])


def _grid(groups: FunctionalGroups, count: int) -> SegGrid:
    """Planes of all frames; they must share direction and pixel spacing."""
    rows = [_plane(groups, index) for index in range(count)]
    table = np.array(rows, dtype=np.float64)
    origins, directions, spacings = table[:, :3], table[:, 3:9], table[:, 9:]
    if (np.abs(directions - directions[0]) > _SAME_DIRECTION).any() or (
        np.abs(spacings / spacings[0] - 1) > _SAME_SPACING
    ).any():
        raise RefusedInput("the frames are not parallel and alike", code="seg-geometry")
    column, row = directions[0, :3], directions[0, 3:]
    column, row = column / np.linalg.norm(column), row / np.linalg.norm(row)
    measures = groups.item(0, "PixelMeasuresSequence")
    steps = np.diff(np.sort(origins @ np.cross(column, row)))
    step = _plane_step(steps[steps > SAME_PLACE_MM], measures)
    return SegGrid(origins, column, row, (float(spacings[0, 0]), float(spacings[0, 1])), step)


def _plane(groups: FunctionalGroups, index: int) -> tuple[float, ...]:
    """Position, orientation and pixel spacing of one frame: 11 numbers."""
    measures = groups.item(index, "PixelMeasuresSequence")
    spacing = _numbers(measures, "PixelSpacing")
    plane = groups.item(index, "PlaneOrientationSequence")
    orientation = _numbers(plane, "ImageOrientationPatient")
    position = _numbers(groups.item(index, "PlanePositionSequence"), "ImagePositionPatient")
    check_plane(orientation, spacing)
    return (*check_position(position), *orientation, *spacing)


def _plane_step(steps: npt.NDArray[np.float64], measures: Dataset) -> float:
    """Distance of planes: as stated, but never more than the nearest two are apart.

    Slice Thickness stands in where nothing else is said, and keeps a segmentation whose
    middle frames are left out from filling the hole.
    """
    stated = _number(measures, "SpacingBetweenSlices")
    thickness = _number(measures, "SliceThickness")
    nearest = float(steps.min()) if len(steps) else None
    known = [value for value in (stated or thickness, nearest) if value]
    if not known or min(known) < SAME_PLACE_MM:
        raise RefusedInput("the distance of planes is not told", code="missing-geometry")
    return min(known)


def _identity(item: Dataset) -> SegmentIdentity:
    kind = _entry(item, "SegmentedPropertyTypeCodeSequence")
    region = _entry(item, "AnatomicRegionSequence")
    return SegmentIdentity(
        number=int(item.SegmentNumber),
        label=str(item.get("SegmentLabel") or "").strip(),
        category=_entry(item, "SegmentedPropertyCategoryCodeSequence"),
        type=kind,
        type_modifiers=_modifiers(
            item, "SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence"
        ),
        region=region,
        region_modifiers=_modifiers(
            item, "AnatomicRegionSequence", "AnatomicRegionModifierSequence"
        ),
        algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
    )


def _modifiers(item: Dataset, coded: str, modifiers: str) -> tuple[CodedEntry, ...]:
    """Modifiers inside the coded item, or beside it as some writers place them."""
    owner = next(iter(item.get(coded) or ()), Dataset())
    found = owner.get(modifiers) or item.get(modifiers) or ()
    return tuple(entry for entry in map(_code, found) if entry is not None)


def _entry(item: Dataset, keyword: str) -> CodedEntry | None:
    found = item.get(keyword) or ()
    first = next(iter(found), None)
    return None if first is None else _code(first)


def _code(item: Dataset) -> CodedEntry | None:
    """One code; long and URN codes too (PS3.3 Table 8.8-1)."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    if not value:
        return None
    scheme = str(item.get("CodingSchemeDesignator") or "")
    return CodedEntry(scheme, str(value), str(item.get("CodeMeaning") or ""))


def _numbers(item: Dataset, keyword: str) -> tuple[float, ...]:
    value = item.get(keyword)
    found = () if value is None else tuple(float(entry) for entry in value)
    return found if all(abs(entry) < float("inf") for entry in found) else ()


def _number(item: Dataset, keyword: str) -> float | None:
    value = item.get(keyword)
    found = None if value in (None, "") else float(value)
    return found if found is not None and 0 < found < float("inf") else None
