"""Heart and lungs among the segments that were drawn on one radiograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fhir_ext.dicom.radiograph import Radiograph
from fhir_ext.dicom.seg import SegmentIdentity
from fhir_ext.dicom.seg_image import ImageSegmentation
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Refusal, Region
from models.cardiothoracic_ratio.measure import Lungs, Mask, without_islands
from models.segmentation.structures import precedence, structure_table

HEART: Final = Region.HEART.value
BOTH: Final = Region.LUNGS.value
SIDES: Final = (Region.LEFT_LUNG.value, Region.RIGHT_LUNG.value)
_WANTED: Final = frozenset({HEART, BOTH, *SIDES})


@dataclass(frozen=True, slots=True)
class Chest:
    """What was drawn on one radiograph.

    Attributes:
        heart, lungs: pixels.
        sources: the SEG objects they came from, by SOP Instance UID.
        automatic: whether a program drew one of them.
    """

    heart: Mask
    lungs: Lungs
    sources: tuple[ImageSegmentation, ...]
    automatic: bool


Candidate = tuple[ImageSegmentation, list[SegmentIdentity]]


def is_drawn(image: Radiograph, segmentations: Sequence[ImageSegmentation]) -> bool:
    """Whether heart or lungs were drawn on an image."""
    return bool(_candidates(image, segmentations))


def chest_of(image: Radiograph, segmentations: Sequence[ImageSegmentation]) -> Chest | Refusal:
    """Heart and lungs on an image.

    Of several objects with the same structure one counts: drawn by hand before by program, then
    the newest. Lungs of both sides go before one segment of both.
    """
    found = _candidates(image, segmentations)
    names = (HEART, *(SIDES if all(side in found for side in SIDES) else (BOTH,)))
    for name in names:
        if name not in found:
            what = "the lungs" if name == BOTH else f"the {name}"
            return Refusal("segment-missing", "none", f"a segment of {what} on the PA image")
    try:
        masks = {name: _mask(image, found[name]) for name in names}
    except RefusedInput as refused:
        needed = "a segmentation on this image"
        return Refusal(refused.code, refused.message, needed)
    if len(names) == 2:
        lungs = Lungs(masks[BOTH])
    else:
        left, right = (masks[side] for side in SIDES)
        lungs = Lungs(left | right, left, right)
    used = {found[name][0].sop_instance_uid: found[name][0] for name in names}
    drawn = {part.algorithm_type for name in names for part in found[name][1]}
    sources = tuple(used[uid] for uid in sorted(used))
    return Chest(masks[HEART], lungs, sources, "AUTOMATIC" in drawn)


def _candidates(
    image: Radiograph, segmentations: Sequence[ImageSegmentation]
) -> dict[str, Candidate]:
    table = structure_table()
    every: dict[str, list[Candidate]] = {}
    for segmentation in segmentations:
        if image.sop_instance_uid not in segmentation.images:
            continue
        parts: dict[str, list[SegmentIdentity]] = {}
        for identity in segmentation.segments:
            name = table.identify(identity)
            if name in _WANTED:
                parts.setdefault(name, []).append(identity)
        for name, identities in parts.items():
            every.setdefault(name, []).append((segmentation, identities))
    return {name: max(found, key=lambda pair: precedence(*pair)) for name, found in every.items()}


def _mask(image: Radiograph, candidate: Candidate) -> Mask:
    segmentation, identities = candidate
    size = (image.format.rows, image.format.columns)
    found = np.zeros(size, dtype=np.bool_)
    for identity in identities:
        found |= segmentation.mask(image.sop_instance_uid, identity.number, size)
    return without_islands(found)
