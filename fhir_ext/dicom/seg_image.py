"""DICOM Segmentation of single images, such as radiographs: by image, not by place.

A projection image has no frame of reference and no planes. A frame of such a SEG belongs to
the image that it is derived from (Derivation Image Sequence, PS3.3 C.7.6.16.2.6), pixel for
pixel; where frames say nothing, to the one image that the object refers to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from fhir_ext.dicom.headers import PARSE_ERRORS
from fhir_ext.dicom.seg import (
    OpenedSegmentation,
    SegmentationType,
    SegmentIdentity,
    open_segmentation,
    pixels_of,
)
from fhir_ext.dicom.seg_pixels import SegmentFrames
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class ImageSegmentation:
    """One SEG object over single images.

    Attributes:
        study_instance_uid, series_instance_uid, sop_instance_uid: identity.
        kind: Segmentation Type (0062,0001).
        content_time: Content Date and Time as YYYYMMDDHHMMSS, for order; may be empty.
        segments: in the order of the object.
        images: SOP Instance UID of the image of each frame.
        frame_segments: segment number of each frame; all 0 for a LABELMAP.
        frames: the pixels.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    kind: SegmentationType
    content_time: str
    segments: tuple[SegmentIdentity, ...]
    images: tuple[str, ...]
    frame_segments: npt.NDArray[np.int64] = field(repr=False)
    frames: SegmentFrames = field(repr=False)

    def mask(
        self, sop_instance_uid: str, number: int, size: tuple[int, int]
    ) -> npt.NDArray[np.bool_]:
        """Pixels of a segment in an image: bool (rows, columns).

        Args:
            size: rows and columns of the image.

        Raises:
            RefusedInput: `seg-geometry`: the frames have another size; `seg-empty`: the segment
                has no pixel in that image; `corrupt-pixels`.
        """
        found = np.zeros(size, dtype=np.bool_)
        for frame, image in enumerate(self.images):
            if image != sop_instance_uid:
                continue
            if self.kind != "LABELMAP" and self.frame_segments[frame] != number:
                continue
            if (self.frames.rows, self.frames.columns) != size:
                raise RefusedInput("segmentation and image differ in size", code="seg-geometry")
            found |= pixels_of(self.frames, self.kind, frame, number)
        if not found.any():
            raise RefusedInput("a segment has no pixel", code="seg-empty")
        return found


def read_image_segmentation(part: bytes | memoryview, limits: LimitSettings) -> ImageSegmentation:
    """Read one SEG instance (PS3.10) of single images.

    Args:
        part: the whole instance; it must outlive the result.
        limits: as `fhir_ext.dicom.seg.read_segmentation`.

    Raises:
        RefusedInput: `not-a-segmentation`, `seg-reference` (frames are of no single image that
            is named), `seg-geometry` (the image was moved or turned), `unsupported-pixels`,
            `unsupported-transfer-syntax`, `corrupt-pixels`, `truncated`, `too-large`, `not-dicom`.
    """
    try:
        opened = open_segmentation(part, limits)
        return ImageSegmentation(
            study_instance_uid=opened.uid("StudyInstanceUID"),
            series_instance_uid=opened.uid("SeriesInstanceUID"),
            sop_instance_uid=opened.uid("SOPInstanceUID"),
            kind=opened.kind,
            content_time=opened.content_time,
            segments=opened.segments,
            images=tuple(_images(opened)),
            frame_segments=opened.frame_segments,
            frames=opened.frames,
        )
    except PARSE_ERRORS as error:
        raise RefusedInput("a segmentation is corrupt", code="not-dicom") from error


def _images(opened: OpenedSegmentation) -> Iterator[str]:
    every = set(_referenced(opened.header))
    for index in range(len(opened.frames)):
        own = set(_derived(opened, index)) or every
        if len(own) != 1:
            raise RefusedInput("a segmentation names no single image", code="seg-reference")
        yield next(iter(own))


def _derived(opened: OpenedSegmentation, index: int) -> Iterator[str]:
    derivation = opened.groups.item(index, "DerivationImageSequence")
    for source in derivation.get("SourceImageSequence") or ():
        if str(source.get("SpatialLocationsPreserved") or "YES") != "YES":
            raise RefusedInput("frames are not pixel for pixel", code="seg-geometry")
        yield from _uid(source)


def _referenced(header: Dataset) -> Iterator[str]:
    for series in header.get("ReferencedSeriesSequence") or ():
        for instance in series.get("ReferencedInstanceSequence") or ():
            yield from _uid(instance)


def _uid(item: Dataset) -> Iterator[str]:
    uid = str(item.get("ReferencedSOPInstanceUID") or "")
    if uid:
        yield uid
