"""SEG objects over one radiograph, as another program writes them: by highdicom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from seg_samples import encoded, segment, write_seg

from fhir_ext.dicom.seg_image import ImageSegmentation, read_image_segmentation
from fhir_ext.settings import LimitSettings

HEART = ("SCT", "80891009", "Heart")
LUNG = ("SCT", "39607008", "Lung")
LEFT_LUNG = ("SCT", "44029006", "Left lung")
RIGHT_LUNG = ("SCT", "3341006", "Right lung")

Mask = npt.NDArray[np.bool_]


def image_seg_dataset(
    image: Dataset,
    masks: Mapping[tuple[str, str, str], Mask],
    *,
    kind: str = "BINARY",
    instance: str = "1.2.826.4.3.1",
    drawn: str = "AUTOMATIC",
) -> Dataset:
    """A SEG whose segments have these property types and pixels."""
    pixels = np.stack(list(masks.values()), axis=-1)[None].astype(np.uint8)
    drawings = [
        segment(number, code, label=code[2], drawn=drawn)
        for number, code in enumerate(masks, start=1)
    ]
    return write_seg([image], pixels, drawings, series="1.2.826.4.3", instance=instance, kind=kind)


def read_back(dataset: Dataset) -> ImageSegmentation:
    return read_image_segmentation(encoded(dataset), LimitSettings())


def image_seg(image: Dataset, masks: Mapping[Any, Mask], **how: Any) -> ImageSegmentation:
    """Written and read back."""
    return read_back(image_seg_dataset(image, masks, **how))
