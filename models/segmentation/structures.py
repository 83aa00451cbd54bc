"""Which structure a segment is, by a table; and the structures of a study on one volume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from fhir_ext.dicom.seg import CodedEntry, Segmentation, SegmentIdentity
from fhir_ext.dicom.seg_place import Box, Mask, check_reference, place
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Refusal

TABLE = Path(__file__).parent / "segments.yaml"

#: What is said beside a number that was measured in such a segment.
DRAWN_BY_PROGRAM: Final = "Measured in a segment that a program drew."

_SIDES: Final = {"7771000": "left", "24028007": "right"}
_RETIRED_SNOMED: Final = frozenset({"SRT", "SNM3", "99SDM"})
_RADLEX: Final = frozenset({"RADLEX", "RADLEX ONTOLOGY"})
#: A reader's segment goes before a program's.
_BY_HAND: Final = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")


class Drawn(Protocol):
    """A SEG object, over a volume or over single images."""

    @property
    def content_time(self) -> str: ...

    @property
    def sop_instance_uid(self) -> str: ...


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Codes(_Part):
    sct: frozenset[str]


class _Structure(_Part):
    sct: frozenset[str] = frozenset()
    radlex: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    side: Literal["left", "right"] | None = None


class StructureTable(_Part):
    """`segments.yaml`.

    Attributes:
        generic: type codes that name no structure by themselves.
        not_anatomy: category codes of lesions.
        structures: our name to codes and labels.
    """

    generic: _Codes
    not_anatomy: _Codes
    structures: Mapping[str, _Structure] = Field(min_length=1)

    def identify(self, identity: SegmentIdentity) -> str | None:
        """Our name of a segment; None for one that the table does not know.

        The property type decides. Only where that is generic or in a private scheme do the
        anatomic region, and then the label, decide.
        """
        category = _snomed(identity.category)
        if category in self.not_anatomy.sct:
            return None
        modifiers = (*identity.type_modifiers, *identity.region_modifiers)
        found = self._by_code(identity.type, modifiers)
        if found is not None or not self._says_nothing(identity.type):
            return found
        return self._by_code(identity.region, modifiers) or self._by_label(identity)

    def _by_code(self, code: CodedEntry | None, modifiers: Sequence[CodedEntry]) -> str | None:
        snomed = _snomed(code)
        radlex = code.value if code and code.scheme.upper() in _RADLEX else None
        sides = {_SIDES.get(_snomed(entry) or "") for entry in modifiers} - {None}
        for name, structure in self.structures.items():
            if radlex in structure.radlex:
                return name
            if snomed in structure.sct and (structure.side is None or sides == {structure.side}):
                return name
        return None

    def _says_nothing(self, code: CodedEntry | None) -> bool:
        return code is None or _snomed(code) in self.generic.sct or code.scheme.startswith("99")

    def _by_label(self, identity: SegmentIdentity) -> str | None:
        label = _plain(identity.label)
        for name, structure in self.structures.items():
            if label in {_plain(known) for known in structure.labels}:
                return name
        return None


@cache
def structure_table() -> StructureTable:
    """The shipped table."""
    return StructureTable.model_validate(yaml.safe_load(TABLE.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure on the grid of the volume.

    Attributes:
        name: key of the table.
        box: where `mask` lies in the volume (slices, rows, columns).
        mask: bool, the shape of `box`.
        outside: largest share of one of its segments that lies outside of the volume.
        drawn_by: `MANUAL`, `SEMIAUTOMATIC`, `AUTOMATIC`, or empty.
        sop_instance_uid: of the SEG it came from.
    """

    name: str
    box: Box
    mask: Mask
    outside: float = 0.0
    drawn_by: str = ""
    sop_instance_uid: str = ""

    def voxels(self, volume: CTVolume) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        """HU inside the box: a view of the volume."""
        return volume.voxels[self.box]


@dataclass(frozen=True, slots=True)
class Structures:
    """What the segmentations of a study show on one volume.

    Attributes:
        found: by name.
        refused: names that a segmentation has but that cannot be used, with the reason.
        unknown: distinct property types that the table does not know; where a segment has
            none, the code is empty. Codes and meanings, no labels.
        unusable: reason why no segmentation could be used at all, else None.
    """

    found: Mapping[str, Structure] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    unknown: tuple[CodedEntry, ...] = ()
    unusable: Refusal | None = None


def collect(
    volume: CTVolume,
    segmentations: Iterable[Segmentation],
    wanted: Iterable[str],
    table: StructureTable | None = None,
) -> Structures:
    """Put the wanted structures of all segmentations onto a volume.

    Several segments of one structure in one object are one structure. Where several objects
    have the same structure one of them counts: drawn by hand before by program, then the
    newest, then the largest SOP Instance UID. Overlap between structures is allowed.

    Args:
        volume: whose grid is the target.
        segmentations: in any order.
        wanted: names of the table.
        table: the shipped one by default.
    """
    table = table or structure_table()
    asked = set(wanted)
    candidates: dict[str, list[tuple[Segmentation, list[SegmentIdentity]]]] = {}
    unknown: dict[CodedEntry, None] = {}
    unusable: Refusal | None = None
    for segmentation in segmentations:
        try:
            check_reference(segmentation, volume.geometry)
        except RefusedInput as error:
            unusable = _refusal(error)
            continue
        parts: dict[str, list[SegmentIdentity]] = {}
        for identity in segmentation.segments:
            name = table.identify(identity)
            if name is None:
                unknown[identity.type or CodedEntry("", "", "")] = None
            elif name in asked:
                parts.setdefault(name, []).append(identity)
        for name, identities in parts.items():
            candidates.setdefault(name, []).append((segmentation, identities))
    found: dict[str, Structure] = {}
    refused: dict[str, Refusal] = {}
    for name, objects in candidates.items():
        segmentation, identities = max(objects, key=lambda pair: precedence(*pair))
        try:
            found[name] = _united(name, segmentation, identities, volume)
        except RefusedInput as error:
            refused[name] = _refusal(error)
    return Structures(found, refused, tuple(unknown), None if candidates else unusable)


def _united(
    name: str, segmentation: Segmentation, identities: list[SegmentIdentity], volume: CTVolume
) -> Structure:
    z, y, x = volume.voxels.shape
    parts = []
    for identity in identities:
        placed = place(segmentation, identity, volume.geometry, (z, y, x))
        parts.append(
            Structure(
                name,
                placed.box,
                placed.mask,
                placed.outside,
                identity.algorithm_type,
                segmentation.sop_instance_uid,
            )
        )
    return united(name, parts)


def united(name: str, parts: Sequence[Structure]) -> Structure:
    """Several structures as one; it says of itself the worst that its parts say.

    Args:
        parts: at least one, on the same volume.
    """
    box = parts[0].box
    for part in parts[1:]:
        box = _around(box, part.box)
    mask = np.zeros([axis.stop - axis.start for axis in box], dtype=np.bool_)
    for part in parts:
        mask[_within(part.box, box)] |= part.mask
    return Structure(
        name=name,
        box=box,
        mask=mask,
        outside=max(part.outside for part in parts),
        drawn_by=min((part.drawn_by for part in parts), key=_hand),
        sop_instance_uid=parts[0].sop_instance_uid,
    )


def precedence(segmentation: Drawn, identities: Sequence[SegmentIdentity]) -> tuple[int, str, str]:
    """What the object has that counts, of several with the same structure: the largest."""
    hand = min(_hand(identity.algorithm_type) for identity in identities)
    return hand, segmentation.content_time, segmentation.sop_instance_uid


def _hand(algorithm_type: str) -> int:
    return _BY_HAND.index(algorithm_type) if algorithm_type in _BY_HAND else -1


def _around(one: Box, two: Box) -> Box:
    z, y, x = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, two, strict=True)
    )
    return z, y, x


def _within(inner: Box, outer: Box) -> Box:
    z, y, x = (
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )
    return z, y, x


def _refusal(error: RefusedInput) -> Refusal:
    return Refusal(error.code, error.message, "a segmentation on these images")


def _plain(label: str) -> str:
    return label.strip().lower().replace(" ", "_").replace("-", "_")


def _snomed(code: CodedEntry | None) -> str | None:
    """SNOMED CT of a code, through PS3.16's table for SNOMED-RT; None in other schemes."""
    if code is None:
        return None
    if code.scheme == "SCT":
        return code.value
    if code.scheme not in _RETIRED_SNOMED:
        return None
    from pydicom.sr._snomed_dict import mapping

    translated: str | None = mapping["SRT"].get(code.value)
    return translated
