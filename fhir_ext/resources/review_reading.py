"""Reviews read back from the FHIR server: what a Task asks about, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes.naming import service_in
from fhir_ext.resources.reading import Reader, read_member
from fhir_ext.resources.result_reading import model_of
from fhir_ext.resources.review import VERSION, Reviewed
from fhir_ext.results import ModelIdentity, Region

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far what a human gave is from what the machine gave.

    Attributes:
        name, region: which output.
        difference: machine minus human; None when the machine gave no number.
        was, now: category of the machine and of the human; empty when the machine gave none.
            Of a place that is none: its class, and `entered-in-error`.
    """

    name: str
    region: Region
    difference: float | None
    was: str = ""
    now: str = ""


@dataclass(frozen=True, slots=True)
class DecidedReview:
    """A decided review as counts need it; no patient, no value."""

    task_id: str
    service: str
    model: ModelIdentity
    outcome: str
    decided_at: datetime
    differences: tuple[Difference, ...]


def read_reviewed(fhir: Reader, task: Json) -> Reviewed | None:
    """What a review Task asks about; None when its panel does not exist any more."""
    panel = fhir.find(*_parts(task["focus"]))
    if panel is None:
        return None
    ids = [_parts(item)[1] for item in panel.get("hasMember", [])]
    found = fhir.search("Observation", {"_id": ",".join(ids), "_count": len(ids)}) if ids else []
    by_id = {item["id"]: item for item in found}
    raised = [item for item in _inputs(fhir, task) if item is not None]
    return Reviewed(
        task=task,
        panel=panel,
        members=tuple(by_id[member] for member in ids if member in by_id),
        risks=tuple(item for item in raised if item["resourceType"] == "RiskAssessment"),
        issues=tuple(item for item in raised if item["resourceType"] == "DetectedIssue"),
    )


def output_of(task: Json, code: str) -> Json:
    """The output of a Task with a code of `codes.REVIEW_OUTPUT`; empty when there is none."""
    for output in task.get("output", []):
        if any(
            c.get("system") == codes.REVIEW_OUTPUT.url and c.get("code") == code
            for c in output["type"].get("coding", [])
        ):
            return dict(output)
    return {}


def is_of_ours(task: Json) -> bool:
    """Whether a Task asks about a result of ours: only we give it the identifier of one.

    Others write Tasks too, with our codes if they like, which may point at anybody's results.
    """
    return any(i.get("system") == codes.INFERENCE_KEY for i in task.get("identifier", []))


def outcome_of(task: Json) -> str | None:
    """Code in `codes.REVIEW_OUTCOME`; None when the Task is not decided by us."""
    if not is_of_ours(task):
        return None
    concept = output_of(task, "outcome").get("valueCodeableConcept", {})
    found = (c["code"] for c in concept.get("coding", []) if c["code"] in codes.REVIEW_OUTCOME)
    return next(found, None)


def service_of(panel: Json) -> str:
    """Service that wrote a panel; `other` when it is none of ours."""
    return service_in(panel["code"]) or "other"


def read_decided(fhir: Reader, task: Json) -> DecidedReview | None:
    """A decided review from its Task and Provenance; None when it is not (or no longer) whole."""
    outcome = outcome_of(task)
    trail = output_of(task, "trail").get("valueReference")
    provenance = fhir.find(*_parts(trail)) if trail else None
    panel, device = fhir.find(*_parts(task["focus"])), fhir.find(*_parts(task["requester"]))
    if outcome is None or provenance is None or panel is None or device is None:
        return None
    return DecidedReview(
        task_id=task["id"],
        service=service_of(panel),
        model=model_of(device),
        outcome=outcome,
        decided_at=datetime.fromisoformat(provenance["recorded"]),
        differences=tuple(_differences(fhir, provenance)),
    )


def machine_values(provenance: Json) -> dict[str, Json]:
    """Id of each amended Observation to what the machine said, as the Provenance keeps it."""
    found = {}
    for kept in provenance.get("contained", []):
        for identifier in kept.get("identifier", []):
            if identifier.get("system") == VERSION:
                found[identifier["value"].split("/")[1]] = kept
    return found


def _differences(fhir: Reader, provenance: Json) -> Iterator[Difference]:
    for resource_id, kept in machine_values(provenance).items():
        machine = read_member(kept)
        now = fhir.find("Observation", resource_id)
        human = read_member(now) if now else None
        if machine is None or human is None:
            continue
        if machine.kind == "classification":
            yield Difference(
                machine.name, machine.region, None, was=machine.category, now=human.category
            )
        elif machine.kind == "detection":
            yield Difference(
                machine.name, machine.region, None, was=machine.category, now=human.status
            )
        elif human.value is not None:
            # Twelve digits: what is left of the subtraction of two binary fractions.
            apart = None if machine.value is None else float(f"{machine.value - human.value:.12g}")
            yield Difference(machine.name, machine.region, apart)


def _inputs(fhir: Reader, task: Json) -> Iterator[Json | None]:
    for item in task.get("input", []):
        reference = item.get("valueReference")
        if reference and _parts(reference)[0] in ("RiskAssessment", "DetectedIssue"):
            yield fhir.find(*_parts(reference))


def _parts(reference: Json) -> tuple[str, str]:
    kind, _, resource_id = reference["reference"].partition("/")
    return kind, resource_id.partition("/")[0]
