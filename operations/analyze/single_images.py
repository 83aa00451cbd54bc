"""Jobs that are not a stack: how their instances are read, and what services see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fhir_ext.dicom.mammography import Mammogram, read_mammogram
from fhir_ext.dicom.radiograph import Radiograph, read_radiograph
from fhir_ext.dicom.seg_image import ImageSegmentation, read_image_segmentation
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings
from models.service import ModelInput
from operations.analyze.plan import JobKind

SingleImage = Mammogram | Radiograph | ImageSegmentation
Reader = Callable[[memoryview, LimitSettings], SingleImage]

#: What is needed, for a refusal.
READABLE: Final[Mapping[JobKind, str]] = {
    "mammograms": "readable 2D mammograms",
    "radiographs": "readable CR or DX images",
    "segmented-radiographs": "readable CR or DX images",
}


def reader_of(kind: JobKind) -> Reader:
    """What reads one instance of a job of this kind.

    Raises:
        KeyError: the job is a stack.
    """
    return _READERS[kind]


def of_images(objects: Iterable[SingleImage]) -> ModelInput:
    """The objects of one study by their kinds, in their order."""
    every = tuple(objects)
    return ModelInput(
        mammograms=tuple(item for item in every if isinstance(item, Mammogram)),
        radiographs=tuple(item for item in every if isinstance(item, Radiograph)),
        image_segmentations=tuple(item for item in every if isinstance(item, ImageSegmentation)),
    )


def _radiograph_or_segments(part: memoryview, limits: LimitSettings) -> SingleImage:
    try:
        return read_radiograph(part, limits)
    except RefusedInput as refused:
        if refused.code != "modality":
            raise
    return read_image_segmentation(part, limits)


_READERS: Final[Mapping[JobKind, Reader]] = {
    "mammograms": read_mammogram,
    "radiographs": read_radiograph,
    "segmented-radiographs": _radiograph_or_segments,
}
