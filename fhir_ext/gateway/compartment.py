"""Whose a resource is: the Patient compartment of FHIR R4, and the main subject within it.

The table `compartment.json` is HL7's: CompartmentDefinition/patient of FHIR 4.0.1 for the
inclusion parameters, search-parameters of the same version for the elements that each of them
indexes (`tools/gen_compartment.py` wrote it). Two types are added, in their own part of the
table: Task, which R4 leaves out of the compartment although `Task.for` names the patient, and
Device, which is open to many but not when it is affixed to a patient.

Two questions are told apart:

- `patients_of`: in whose compartments is it (compartmentdefinition.html)? Any inclusion
  parameter counts, so an Observation about a child that its mother measured is in both.
- `subjects_of`: whom is it about? This decides what a confined caller may see. It is stricter
  than R4, our choice: by R4 the mother's app, confined to the mother, would read the child's
  Observation. All subjects must be allowed, so an Appointment or Group of several patients is
  shown to nobody who may not see each of them.

`Patient.link` counts in neither. R4 says that what is filed under a linked Patient is in the
compartment of the link's target too; but a link (`seealso`, `refer`) is written by whoever may
write a Patient, and following it would give one person's token another record. Someone whose
record was split sees the part that the token names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson

Json = dict[str, Any]
Path = tuple[str, ...]

#: A relative reference to a Patient, with or without its version.
_PATIENT = re.compile(r"Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")

_NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Member:
    """One type of the table.

    Attributes:
        paths: elements that may name a patient in whose compartment the resource is.
        owner: those that name its main subjects.
        confine: search parameter over exactly the `owner` elements, where R4 has one.
    """

    paths: tuple[Path, ...]
    owner: tuple[Path, ...]
    confine: str | None


def _read_table() -> tuple[Json, Json]:
    text = resources.files(__package__).joinpath("compartment.json").read_bytes()
    table = orjson.loads(text)
    return table["members"], table["added"]


def _member(entry: Json) -> _Member:
    paths = {path for found in entry["params"].values() for path in found}
    return _Member(
        tuple(tuple(path.split(".")) for path in sorted(paths)),
        tuple(tuple(path.split(".")) for path in entry["owner"]),
        entry["confine"],
    )


_MEMBERS, _ADDED = _read_table()
_TABLE: Mapping[str, _Member] = {
    name: _member(entry) for name, entry in (_MEMBERS | _ADDED).items()
}

#: Types whose resources are some patient's: R4's Patient compartment, and Task.
COMPARTMENT_TYPES: frozenset[str] = frozenset(_MEMBERS) | {"Task"}


def confinement_param(resource_type: str) -> str | None:
    """The search parameter that keeps a search of a type to the resources about one patient.

    `_id` for Patient (its value is the bare id), else a reference parameter, mostly `patient`.
    It indexes the elements that `subjects_of` reads. None when the type has none: a Group
    names many patients, and most types name none.
    """
    member = _TABLE.get(resource_type)
    return member.confine if member else None


def patients_of(resource: Json) -> frozenset[str]:
    """Ids of all Patients in whose compartment a resource is.

    Relative references count (`Patient/x`, `Patient/x/_history/1`). Absolute ones to another
    server, logical ones (`identifier`), searches (`Patient?…`), `urn:` and `#contained` count
    for nobody.

    Args:
        resource: R4 resource as parsed JSON.

    Returns:
        Empty for a type outside of the table, and for a resource without these elements.
    """
    kind = resource.get("resourceType")
    member = _TABLE.get(kind) if isinstance(kind, str) else None
    if member is None:
        return _NOBODY
    return _own_id(resource) if kind == "Patient" else _named(resource, member.paths)


def subjects_of(resource: Json) -> frozenset[str]:
    """Ids of the Patients that a resource is about: a part of `patients_of`.

    A confined caller may see a resource when this is not empty and every one of them is
    allowed.
    """
    kind = resource.get("resourceType")
    member = _TABLE.get(kind) if isinstance(kind, str) else None
    if member is None:
        return _NOBODY
    return _own_id(resource) if kind == "Patient" else _named(resource, member.owner)


def deciding_elements(resource_type: str) -> frozenset[str]:
    """Top-level elements that decide in whose compartment a resource of a type is.

    A caller's `_elements` must be widened by these, or the answer cannot be judged.
    """
    return _DECIDING.get(resource_type, frozenset())


def touches_compartment(path_root: str, resource_type: str) -> bool:
    """Whether a change of a top-level element may move a resource to another compartment.

    Args:
        path_root: first part of a JSON Patch path or FHIRPath (`subject`); `_subject` is the
            same element; empty is the whole document.
        resource_type: R4 type; for a type without a compartment only the whole document, its
            type and its id touch anything.
    """
    name = path_root.removeprefix("_")
    return name in _WHOLE or name in deciding_elements(resource_type)


_WHOLE = frozenset({"", "id", "resourceType"})
_DECIDING: Mapping[str, frozenset[str]] = {
    name: frozenset(path[0] for path in (*member.paths, *member.owner))
    for name, member in _TABLE.items()
}


def reference_target(reference: object) -> str | None:
    """Id of the Patient that a `Reference.reference` names, or None."""
    if not isinstance(reference, str) or not reference.startswith("Patient/"):
        return None
    match = _PATIENT.fullmatch(reference)
    return match[1] if match else None


def _own_id(patient: Json) -> frozenset[str]:
    own = patient.get("id")
    return frozenset((own,)) if isinstance(own, str) else _NOBODY


def _named(resource: Json, paths: Iterable[Path]) -> frozenset[str]:
    found = {
        patient
        for path in paths
        for item in _at(resource, path)
        if (patient := reference_target(item.get("reference"))) is not None
    }
    return frozenset(found) if found else _NOBODY


def _at(element: Json, path: Path) -> Iterator[Json]:
    """Objects at a path; lists on the way are walked through."""
    value = element.get(path[0])
    if value is None:
        return
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, dict):
            if len(path) == 1:
                yield item
            else:
                yield from _at(item, path[1:])
