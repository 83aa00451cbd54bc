"""Codes of what is measured on radiographs, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import SCT, Coding, local_codes
from fhir_ext.results import Region

CARDIOTHORACIC_PANEL: Final = "cardiothoracic-ratio-panel"

# Standard codes: SNOMED CT in DICOM PS3.16 (CID 4031)

RADIOGRAPHY_SITE: Final[Mapping[Region, Coding]] = MappingProxyType(
    {
        Region.HEART: Coding(SCT, "80891009", "Heart"),
        Region.CHEST: Coding(SCT, "816094009", "Chest"),
    }
)
RADIOGRAPHY_TEXT: Final[Mapping[Region, str]] = MappingProxyType(
    {Region.HEART: "Heart", Region.CHEST: "Chest"}
)

#: Refusals that follow from looking at the pixels.
RADIOGRAPHY_FAILED: Final = frozenset({"heart-position"})

RADIOGRAPHY_MEASUREMENTS: Final = local_codes(
    (
        CARDIOTHORACIC_PANEL,
        "Cardiothoracic ratio panel",
        "The cardiothoracic ratio of one study of radiographs.",
    ),
    (
        "cardiothoracic-ratio",
        "Cardiothoracic ratio",
        "Widest extent of the heart over the widest inner extent of the chest, on a PA radiograph.",
    ),
)

RADIOGRAPHY_REFUSALS: Final = local_codes(
    (
        "row-direction",
        "Rows of pixels not across the patient",
        "A row of pixels does not lead to an accepted side of the patient.",
    ),
    (
        "seg-reference",
        "Image of the segmentation unknown",
        "The segmentation does not say of which image it is.",
    ),
    (
        "heart-position",
        "Heart not between the lungs",
        "The segment of the heart reaches beyond the segments of the lungs.",
    ),
)

RADIOGRAPHY_ISSUES: Final = local_codes(
    (
        "cardiothoracic-ratio-high",
        "Wide heart on a radiograph",
        "The heart is wider than half of the chest on a PA radiograph of an adult.",
    ),
)
