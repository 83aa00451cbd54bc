"""What a recall makes of the results of one model version.

    nobody has signed it   entered-in-error, tagged `recalled`, with the reason
    a human has signed it  stays; a Task lists it for a human
    cancelled before       stays

One piece of work (a Provenance and its targets) is one transaction, every resource over the
version that was read: a reviewer who is quicker makes it fail, and it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import fhir_ext
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import create_entry, put_entry, transaction, update_entry
from fhir_ext.resources.codes import concept, resource_type
from fhir_ext.resources.context import instant
from fhir_ext.resources.device import RECALLED, software_device
from fhir_ext.resources.ids import (
    dicom_uid,
    recall_provenance_id,
    recall_review_id,
    recall_task_id,
    software_device_id,
)
from fhir_ext.resources.review import UNSIGNED, Reviewer

Json = dict[str, Any]

#: Statuses of R4 Task in which it still asks somebody for something.
OPEN_TASK: Final = frozenset(
    {"draft", "requested", "received", "accepted", "ready", "in-progress", "on-hold"}
)

#: Statuses of results that a human answers for.
SIGNED: Final = frozenset({"final", "amended", "corrected", "appended"})

WITHDRAWN: Final = "entered-in-error"


@dataclass(frozen=True, slots=True)
class Recall:
    """One recall of one model version.

    Attributes:
        device_id: of the model version.
        service, version, settings_hash: the same in words.
        reason: why, in one sentence; no patient data.
        who: `Practitioner/…` or the subject of a token, or the name of an operator.
        started: when it was asked for; aware.
    """

    device_id: str
    service: str
    version: str
    settings_hash: str
    reason: str
    who: str
    started: datetime

    @property
    def task_id(self) -> str:
        return recall_task_id(self.device_id)

    @property
    def agent(self) -> Json:
        """Reference to who asked for it."""
        return Reviewer(self.who, self.who).reference

    @property
    def why(self) -> Json:
        """CodeableConcept."""
        return concept(codes.TASK_REASON.coding("model-recalled"), text=self.reason)


@dataclass(frozen=True, slots=True)
class Group:
    """What one piece of work wrote, as it was read, with `meta`.

    Attributes:
        provenance: names the model version as its agent.
        resources: the targets that still exist.
        measured: results of other versions that were measured in the SEG of the group.
        dependents: scores that rest on an Observation of the group, or on a measured one.
    """

    provenance: Json
    resources: tuple[Json, ...]
    measured: tuple[Json, ...] = ()
    dependents: tuple[Json, ...] = ()

    @property
    def unsigned(self) -> tuple[Json, ...]:
        """What a recall withdraws."""
        return tuple(item for item in self.resources if _is_unsigned(item))

    @property
    def signed(self) -> tuple[Json, ...]:
        """What a human answers for."""
        return tuple(
            item
            for item in self.resources
            if item["resourceType"] != "Task" and item.get("status") in SIGNED
        )

    @property
    def recalled(self) -> tuple[Json, ...]:
        """What a recall has withdrawn before."""
        return tuple(item for item in self.resources if is_withdrawn(item))

    @property
    def listed(self) -> tuple[Json, ...]:
        """What a human has to decide about."""
        return (*self.signed, *self.measured, *self.dependents)

    @property
    def patient(self) -> str:
        """`Patient/…`; empty when nothing of the group is left."""
        return next((found for item in self.resources if (found := patient_of(item))), "")

    @property
    def study(self) -> str:
        """`ImagingStudy/…` that was looked at; empty where none is named."""
        for what in sources(self.provenance):
            kind, _, rest = str(what.get("reference", "")).partition("/")
            if kind == "ImagingStudy":
                return f"{kind}/{rest.partition('/')[0]}"
        return ""

    @property
    def segmentation_series(self) -> str | None:
        """Series Instance UID of the SEG that this work drew; None when it drew none."""
        drew = any(entity["role"] == "derivation" for entity in self.provenance.get("entity", []))
        keys = (inference_key_of(item) for item in self.resources) if drew else ()
        return next((dicom_uid(key, "seg-series") for key in keys if key), None)

    @property
    def review_id(self) -> str:
        """Id of the Task that asks a human about the group."""
        return recall_review_id(self.provenance["id"])


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a recall got; what `codes.RECALL_OUTPUT` names."""

    groups: int = 0
    withdrawn: int = 0
    signed: int = 0
    reviews: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.groups + other.groups,
            self.withdrawn + other.withdrawn,
            self.signed + other.signed,
            self.reviews + other.reviews,
        )

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def is_settled(group: Group, review: Json | None) -> bool:
    """Whether a recall has nothing to do about a group any more.

    Args:
        review: the Task of the group as it stands in the server, if it does.
    """
    return not group.unsigned and not _lacks(review, group.listed)


def counts_for(group: Group, review: Json | None) -> Counts:
    """What a group amounts to, whether it is settled now or was before."""
    asked = review is not None or group.listed
    return Counts(
        groups=1,
        withdrawn=len(group.unsigned) + len(group.recalled),
        signed=len(group.signed),
        reviews=1 if asked else 0,
    )


def recall_bundle(recall: Recall, group: Group, review: Json | None, moment: datetime) -> Json:
    """The transaction for one piece of work that is not settled.

    Args:
        review: the Task of the group as it stands in the server, if it does.
        moment: when it is written; aware.
    """
    unsigned = group.unsigned
    entries = [put_entry(software_device(fhir_ext.__version__))]
    entries += [update_entry(withdrawn(item, recall)) for item in unsigned]
    if unsigned:
        entries.append(put_entry(_provenance(recall, group, moment)))
    if task := _review_entry(recall, group, review):
        entries.append(task)
    return transaction(entries)


def withdrawn(resource: Json, recall: Recall) -> Json:
    """A resource that does not count any more: status, tag, and the reason where R4 has room.

    A DetectedIssue has no note: there the Provenance says why. A Task of the version should
    never have existed, which is what R4 means by `entered-in-error`.
    """
    meta = resource.get("meta", {})
    tags = [*meta.get("tag", []), codes.MODEL_STATE.coding(RECALLED).as_json()]
    changed = {**resource, "status": WITHDRAWN, "meta": {**meta, "tag": tags}}
    kind = resource["resourceType"]
    if kind == "Task":
        changed["statusReason"] = recall.why
        changed["lastModified"] = instant(recall.started)
    elif kind != "DetectedIssue":
        note = {"time": instant(recall.started), "text": f"Recalled: {recall.reason}"}
        changed["note"] = [*resource.get("note", []), note]
    return changed


def is_withdrawn(resource: Json) -> bool:
    """Whether a recall made a resource `entered-in-error`."""
    return resource.get("status") == WITHDRAWN and any(
        tag.get("system") == codes.MODEL_STATE.url and tag.get("code") == RECALLED
        for tag in resource.get("meta", {}).get("tag", [])
    )


def summary_task(recall: Recall, counts: Counts, *, finished: bool, moment: datetime) -> Json:
    """The Task of the whole recall: who, why, how far; no patient."""
    period = {"start": instant(recall.started)}
    if finished:
        period["end"] = instant(moment)
    return {
        "resourceType": "Task",
        "id": recall.task_id,
        "identifier": [
            {
                "system": codes.MODEL_VERSION,
                "value": f"{recall.service}/{recall.version}/{recall.settings_hash}",
            }
        ],
        "status": "completed" if finished else "in-progress",
        "intent": "order",
        "priority": "urgent",
        "code": concept(codes.TASK_TYPE.coding("model-recall")),
        "description": f"Recall of {recall.service} {recall.version}",
        "focus": {"reference": f"Device/{recall.device_id}"},
        "authoredOn": instant(recall.started),
        "lastModified": instant(moment),
        "executionPeriod": period,
        "requester": recall.agent,
        "reasonCode": recall.why,
        "output": [
            {"type": concept(codes.RECALL_OUTPUT.coding(name)), "valueInteger": count}
            for name, count in counts.as_json().items()
        ],
    }


def recall_of(task: Json) -> Recall:
    """The recall that a summary Task stands for.

    Raises:
        KeyError, IndexError, ValueError: it is none of ours.
    """
    identifier = task["identifier"][0]
    if identifier["system"] != codes.MODEL_VERSION:
        raise ValueError("another system")
    service, version, settings_hash = identifier["value"].split("/")
    who = task["requester"]
    return Recall(
        device_id=task["focus"]["reference"].partition("/")[2],
        service=service,
        version=version,
        settings_hash=settings_hash,
        reason=task["reasonCode"].get("text", ""),
        who=who.get("reference") or who["identifier"]["value"],
        started=datetime.fromisoformat(task["authoredOn"]),
    )


def patient_of(resource: Json) -> str:
    """`Patient/…` that a resource of a result speaks of; empty without one."""
    for name in ("subject", "patient", "for"):
        reference = str(resource.get(name, {}).get("reference", ""))
        if reference.startswith("Patient/"):
            return reference
    return ""


def sources(provenance: Json) -> list[Json]:
    """What a piece of work was made from: `what` of its entities."""
    return [e["what"] for e in provenance.get("entity", []) if e.get("role") == "source"]


def inference_key_of(resource: Json) -> str | None:
    """Of the piece of work that wrote a resource; None when it is none of a model."""
    for identifier in resource.get("identifier", []):
        if identifier.get("system") == codes.INFERENCE_KEY:
            return str(identifier["value"])
    return None


def url_of(resource: Json) -> str:
    """`Observation/1`."""
    return f"{resource['resourceType']}/{resource['id']}"


def _is_unsigned(resource: Json) -> bool:
    status = resource.get("status")
    return status in (OPEN_TASK if resource["resourceType"] == "Task" else UNSIGNED)


def _provenance(recall: Recall, group: Group, moment: datetime) -> Json:
    """Who withdrew what, and why; the model version is no agent of it.

    So `Provenance?agent=Device/…` finds what the version wrote, and nothing else.
    """
    software = {"reference": f"Device/{software_device_id(fhir_ext.__version__)}"}
    return {
        "resourceType": "Provenance",
        "id": recall_provenance_id(group.provenance["id"]),
        "target": [{"reference": url_of(item)} for item in group.unsigned],
        "occurredDateTime": instant(recall.started),
        "recorded": instant(moment),
        "reason": [recall.why],
        "agent": [
            {"type": concept(codes.AUTHOR), "who": recall.agent},
            {"type": concept(codes.ASSEMBLER), "who": software},
        ],
        "entity": [
            {"role": "source", "what": {"reference": f"Task/{recall.task_id}"}},
            *({"role": "revision", "what": _version(item)} for item in group.unsigned),
        ],
    }


def _version(resource: Json) -> Json:
    version = resource["meta"]["versionId"]
    return {
        "reference": f"{url_of(resource)}/_history/{version}",
        # HAPI drops the version of a stored reference, so it is said in words too.
        "display": f"{resource['resourceType']} version {version}",
    }


def _lacks(review: Json | None, listed: Sequence[Json]) -> bool:
    """Whether something is to be decided that no Task names; a closed one is a human's word."""
    if review is None:
        return bool(listed)
    if review.get("status") not in OPEN_TASK:
        return False
    named = {item.get("valueReference", {}).get("reference") for item in review.get("input", [])}
    return not named.issuperset(map(url_of, listed))


def _review_entry(recall: Recall, group: Group, found: Json | None) -> Json | None:
    """PUT of the Task, or None where it says all of it, or a human has dealt with it."""
    if not _lacks(found, group.listed):
        return None
    if found is None:
        return create_entry(_review_task(recall, group))
    return update_entry({**found, "input": _inputs(group.listed)})


def _review_task(recall: Recall, group: Group) -> Json:
    """Without an identifier of ours: people change it like any other Task of theirs."""
    return {
        "resourceType": "Task",
        "id": group.review_id,
        "partOf": [{"reference": f"Task/{recall.task_id}"}],
        "status": "requested",
        "intent": "order",
        "priority": "urgent",
        "code": concept(codes.TASK_TYPE.coding("recall-review")),
        "description": f"{recall.service} {recall.version} was recalled; decide what becomes of "
        "what rests on it.",
        "focus": {"reference": url_of(group.listed[0])},
        "for": {"reference": group.patient},
        "authoredOn": instant(recall.started),
        "requester": {"reference": f"Device/{software_device_id(fhir_ext.__version__)}"},
        "reasonCode": recall.why,
        "input": _inputs(group.listed),
    }


def _inputs(listed: Iterable[Json]) -> list[Json]:
    return [
        {
            "type": concept(resource_type(item["resourceType"])),
            "valueReference": {"reference": url_of(item)},
        }
        for item in listed
    ]
