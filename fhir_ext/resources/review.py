"""What a human's decision makes of a preliminary result, as one transaction.

    accept   everything becomes final
    modify   changed numbers and categories are amended, places that are none are
             entered-in-error, what follows from them with them; the rest is final
    reject   everything is entered-in-error

The machine's values are kept: as contained Observations of the Provenance, since HAPI drops
the version of a stored reference, and in the history of each resource.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from fhir_ext.resources import codes
from fhir_ext.resources.bundle import create_entry, put_entry, transaction, update_entry
from fhir_ext.resources.codes import CANONICAL, concept
from fhir_ext.resources.codes.naming import CLASSIFICATIONS
from fhir_ext.resources.context import instant
from fhir_ext.resources.device import software_device
from fhir_ext.resources.ids import (
    review_dicom_uid,
    review_provenance_id,
    software_device_id,
)
from fhir_ext.resources.reading import read_member
from fhir_ext.resources.result_reading import sr_instance_uid_of
from fhir_ext.results import Region

Json = dict[str, Any]
Outcome = Literal["accept", "modify", "reject"]

#: Identifier systems of a caller whose token names no FHIR resource, and of a version.
SUBJECT: Final = f"{CANONICAL}/identifier/token-subject"
VERSION: Final = f"{CANONICAL}/identifier/resource-version"

#: Statuses in which nobody has signed a result yet.
UNSIGNED: Final = frozenset({"registered", "preliminary"})

#: Who may stand in Observation.performer, Provenance.agent.who and Task.owner alike (R4).
_PERSON: Final = re.compile(
    r"(Practitioner|PractitionerRole|RelatedPerson|Patient|Organization)/[A-Za-z0-9.-]{1,64}"
)


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Who decides, as the token says.

    Attributes:
        subject: `sub`.
        fhir_user: relative reference, when the token has one.
    """

    subject: str
    fhir_user: str | None = None

    @property
    def key(self) -> str:
        """What tells reviewers apart."""
        return str(self.reference.get("reference") or self.subject)

    @property
    def reference(self) -> Json:
        """FHIR Reference; a logical one where the token names no person of this server."""
        if self.fhir_user and _PERSON.fullmatch(self.fhir_user):
            return {"reference": self.fhir_user}
        return {"identifier": {"system": SUBJECT, "value": self.subject}}


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a review Task asks about, as it was read, with `meta`."""

    task: Json
    panel: Json
    members: tuple[Json, ...]
    risks: tuple[Json, ...] = ()
    issues: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class ChosenCategory:
    """The category that a human gives.

    Attributes:
        asked: (system, code) as the request names it.
        concept: CodeableConcept as it is written.
    """

    asked: tuple[str, str]
    concept: Json


@dataclass(frozen=True, slots=True)
class Decision:
    """What the reviewer decided.

    Attributes:
        reason: CodeableConcept; None for accept only.
        values: id of a member Observation to the Quantity that the human gives.
        decided: when; aware.
        categories: id of a member Observation to the category that the human gives.
        struck: ids of the places that are none.
    """

    outcome: Outcome
    reviewer: Reviewer
    decided: datetime
    reason: Json | None = None
    values: Mapping[str, Json] | None = None
    categories: Mapping[str, ChosenCategory] = field(default_factory=dict)
    struck: frozenset[str] = frozenset()

    @property
    def changed(self) -> frozenset[str]:
        """Ids of the Observations that the human changes."""
        return frozenset((*(self.values or {}), *self.categories, *self.struck))

    @property
    def digest(self) -> str:
        """sha256 by which a repeated request is known; who asks and why are not part of it."""
        values = {
            target: [quantity["value"], quantity["code"]]
            for target, quantity in (self.values or {}).items()
        }
        what: list[object] = [self.outcome, values]
        # A decision about numbers only has the digest that it had before there were others.
        if self.categories or self.struck:
            asked = {target: list(item.asked) for target, item in self.categories.items()}
            what += [asked, sorted(self.struck)]
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Follow:
    """A resource that the decision changes or makes.

    Attributes:
        before: as it was read; None for a new one.
        after: as it is written.
    """

    before: Json | None
    after: Json


def review_bundle(
    reviewed: Reviewed, decision: Decision, conclusions: Sequence[Follow], software_version: str
) -> Json:
    """The transaction of a decision; every resource only over the version that was read.

    Args:
        conclusions: what becomes of RiskAssessments and DetectedIssues (and new ones).
        software_version: version of this software, which assembles it.
    """
    follows = [*_observations(reviewed, decision), *conclusions]
    trail = _provenance(reviewed, follows, decision, software_version)
    entries = [_put(follow) for follow in follows]
    entries.append(update_entry(_decided_task(reviewed, decision, trail)))
    entries.append(create_entry(trail))
    entries.append(put_entry(software_device(software_version)))
    return transaction(entries)


def signed(resource: Json, decision: Decision) -> Json:
    """A RiskAssessment or DetectedIssue that follows the decision without a change of its own."""
    if decision.outcome == "reject":
        return withdrawn(resource, decision, "entered-in-error")
    return {**resource, "status": "final"}


def withdrawn(resource: Json, decision: Decision, status: str) -> Json:
    """A resource that does not count any more; the reason is in its note.

    R4's DetectedIssue has no note: there the Provenance alone says why.
    """
    found = {**resource, "status": status}
    if resource["resourceType"] != "DetectedIssue":
        note: Json = {"time": instant(decision.decided), "text": reason_text(decision.reason)}
        author = decision.reviewer.reference
        if author.get("reference", "").startswith("Practitioner/"):
            note["authorReference"] = author
        found["note"] = [*resource.get("note", []), note]
    return found


def reason_text(reason: Json | None) -> str:
    """A CodeableConcept in words."""
    if not reason:
        return ""
    codings = reason.get("coding") or [{}]
    coding = codings[0]
    return str(reason.get("text") or coding.get("display") or coding.get("code") or "")


def _observations(reviewed: Reviewed, decision: Decision) -> Iterator[Follow]:
    counts = _counts_now(reviewed, decision)
    for before in (reviewed.panel, *reviewed.members):
        if before["status"] not in UNSIGNED:
            continue
        if decision.outcome == "reject" or before["id"] in decision.struck:
            yield Follow(before, withdrawn(before, decision, "entered-in-error"))
            continue
        after = {**before, "status": "final", "performer": _performers(before, decision)}
        values = {**counts, **(decision.values or {})}
        if before["id"] in values:
            after = _amended(after, valueQuantity=values[before["id"]])
        elif before["id"] in decision.categories:
            concept_now = decision.categories[before["id"]].concept
            after = _amended(after, valueCodeableConcept=concept_now)
        elif before is reviewed.panel and decision.changed:
            after = _amended_panel(after, reviewed)
        yield Follow(before, after)


def _counts_now(reviewed: Reviewed, decision: Decision) -> dict[str, Json]:
    """How many places are left where some are none: id of the count to its Quantity."""
    read = [(read_member(member), member) for member in reviewed.members]
    gone: Counter[tuple[str, Region]] = Counter(
        (f"{item.name}{codes.COUNT_SUFFIX}", item.region)
        for item, member in read
        if item is not None and member["id"] in decision.struck
    )
    return {
        member["id"]: {
            **member["valueQuantity"],
            "value": max(0, item.value - gone[item.name, item.region]),
        }
        for item, member in read
        if item is not None
        and item.kind == "measurement"
        and item.value is not None
        and gone[item.name, item.region]
    }


def _performers(observation: Json, decision: Decision) -> list[Json]:
    """R4 Observation.performer: who is responsible for asserting the value as true."""
    found = list(observation.get("performer", []))
    reviewer = decision.reviewer.reference
    return found if reviewer in found else [*found, reviewer]


def _amended(observation: Json, **value: Json) -> Json:
    """An Observation with the human's value; what the machine said beside its own is dropped."""
    found = {key: part for key, part in observation.items() if key != "dataAbsentReason"}
    labels = [
        label
        for label in observation.get("meta", {}).get("security", [])
        if label.get("code") != codes.AI_ASSERTED.code
    ]
    meta = {**observation["meta"], "security": [*labels, codes.CLINICIAN_ASSERTED.as_json()]}
    kept = [part for part in observation.get("component", []) if not _of_the_machine(part)]
    found.pop("component", None)
    if kept:
        found["component"] = kept
    return {**found, "meta": meta, "status": "amended", **value}


def _of_the_machine(part: Json) -> bool:
    """Whether a component says how sure the machine was: of a human's value it is not true."""
    if CLASSIFICATIONS.name_in(part["code"]):
        return True
    doubt = {codes.MEASUREMENT_UNCERTAINTY.code, codes.RESULT_PART.coding("confidence-level").code}
    return any(coding.get("code") in doubt for coding in part["code"].get("coding", []))


def _amended_panel(panel: Json, reviewed: Reviewed) -> Json:
    """The panel of changed numbers names the corrected SR in place of the first."""
    found = {**panel, "status": "amended"}
    if sr_instance_uid_of(panel):
        successor = f"urn:oid:{review_dicom_uid(reviewed.task['id'], 'sr')}"
        found["identifier"] = [
            {**item, "value": successor} if item.get("system") == codes.DICOM_UID else item
            for item in panel["identifier"]
        ]
    return found


def _put(follow: Follow) -> Json:
    return create_entry(follow.after) if follow.before is None else update_entry(follow.after)


def _decided_task(reviewed: Reviewed, decision: Decision, trail: Json) -> Json:
    dicom_follows = decision.outcome != "accept" and sr_instance_uid_of(reviewed.panel)
    task = {
        **reviewed.task,
        "status": "completed",
        "businessStatus": concept(
            codes.REVIEW_STATUS.coding("sr-pending" if dicom_follows else "done")
        ),
        "owner": decision.reviewer.reference,
        "lastModified": instant(decision.decided),
        "executionPeriod": {
            **reviewed.task.get("executionPeriod", {}),
            "end": instant(decision.decided),
        },
        "output": [
            {
                "type": concept(codes.REVIEW_OUTPUT.coding("outcome")),
                "valueCodeableConcept": concept(codes.REVIEW_OUTCOME.coding(decision.outcome)),
            },
            {
                "type": concept(codes.REVIEW_OUTPUT.coding("trail")),
                "valueReference": {"reference": f"Provenance/{trail['id']}"},
            },
            {
                "type": concept(codes.REVIEW_OUTPUT.coding("request-digest")),
                "valueString": decision.digest,
            },
        ],
    }
    if decision.reason:
        task["statusReason"] = decision.reason
    return task


def _provenance(
    reviewed: Reviewed, follows: Sequence[Follow], decision: Decision, software_version: str
) -> Json:
    who = decision.reviewer.reference
    agents = [{"type": concept(codes.VERIFIER), "who": who}]
    if decision.changed:
        agents.append({"type": concept(codes.AUTHOR), "who": who})
    assembler = {"reference": f"Device/{software_device_id(software_version)}"}
    agents.append({"type": concept(codes.ASSEMBLER), "who": assembler})
    kept = [
        _kept(follow.before, f"machine-{number}")
        for number, follow in enumerate(follows, start=1)
        if follow.before is not None
        and follow.before["resourceType"] == "Observation"
        and (follow.before["id"] in decision.changed or _says_else(follow))
    ]
    found: Json = {
        "resourceType": "Provenance",
        "id": review_provenance_id(reviewed.task["id"], decision.reviewer.key, decision.outcome),
        "target": [
            *({"reference": _url(follow.after)} for follow in follows),
            {"reference": _url(reviewed.task)},
        ],
        "occurredDateTime": instant(decision.decided),
        "recorded": instant(decision.decided),
        "activity": concept(codes.REVIEW_OUTCOME.coding(decision.outcome)),
        "agent": agents,
        "entity": [
            *(_revised(follow.before) for follow in follows if follow.before is not None),
            *(
                {"role": "revision", "what": {"reference": f"#{item['id']}", "type": "Observation"}}
                for item in kept
            ),
        ],
    }
    if kept:
        found["contained"] = kept
    if decision.reason:
        found["reason"] = [decision.reason]
    return found


def _says_else(follow: Follow) -> bool:
    before = follow.before or {}
    return before.get("valueQuantity") != follow.after.get("valueQuantity")


def _revised(before: Json) -> Json:
    version = before["meta"]["versionId"]
    return {
        "role": "revision",
        "what": {
            "reference": f"{_url(before)}/_history/{version}",
            # HAPI drops the version of a stored reference, so it is said in words too.
            "display": f"{before['resourceType']} version {version}",
        },
    }


def _kept(before: Json, name: str) -> Json:
    """What the machine said, as a resource inside of the Provenance (R4 dom-4, dom-5: no meta)."""
    kept = {key: value for key, value in before.items() if key not in ("meta", "id")}
    version = f"{_url(before)}/_history/{before['meta']['versionId']}"
    kept["identifier"] = [*kept.get("identifier", []), {"system": VERSION, "value": version}]
    return {"resourceType": "Observation", "id": name, **kept}


def _url(resource: Json) -> str:
    return f"{resource['resourceType']}/{resource['id']}"
