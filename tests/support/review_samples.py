"""Reviews for tests of builders, service and SR: what HAPI would hold, made from results."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from result_samples import context, resources, result

from fhir_ext.errors import ConflictError, NotFoundError
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.ids import imaging_study_id, result_id, task_id
from fhir_ext.resources.review import Reviewer
from fhir_ext.results import ServiceResult
from operations.review.parameters import ReviewRequest, read_request

Json = dict[str, Any]

ANN = Reviewer("sub-ann", "Practitioner/ann")
BOB = Reviewer("sub-bob")
DECIDED = datetime(2026, 1, 6, 14, 5, 6, 789000, tzinfo=UTC)
REASON = {"coding": [codes.REVIEW_REASON.coding("wrong-outline").as_json()]}


def parameters(outcome: str, *changes: tuple[str, float, str], reason: Json | None = None) -> Json:
    """The body of `$review`; a change is (Observation id, value, UCUM unit)."""
    found: list[Json] = [{"name": "outcome", "valueCode": outcome}]
    if outcome != "accept":
        found.append({"name": "reason", "valueCodeableConcept": reason or REASON})
    found += [
        {
            "name": "change",
            "part": [
                {"name": "target", "valueReference": {"reference": f"Observation/{target}"}},
                {
                    "name": "value",
                    "valueQuantity": {"value": value, "system": codes.UCUM, "code": unit},
                },
            ],
        }
        for target, value, unit in changes
    ]
    return {"resourceType": "Parameters", "parameter": found}


def change(target: str, part: str, **value: Any) -> Json:
    """A change of a category or of a place, as a parameter; see `parameters` for numbers."""
    reference = {"name": "target", "valueReference": {"reference": f"Observation/{target}"}}
    return {"name": "change", "part": [reference, {"name": part, **value}]}


def chosen(target: str, system: str, code: str) -> Json:
    """A change of a category."""
    return change(target, "category", valueCoding={"system": system, "code": code})


def struck(target: str) -> Json:
    """A place that is none."""
    return change(target, "status", valueCode="entered-in-error")


def modified(*changes: Json) -> Json:
    """The body of `$review` with changes of any kind."""
    body = parameters("modify")
    return {**body, "parameter": [*body["parameter"], *changes]}


def request(outcome: str, *changes: tuple[str, float, str]) -> ReviewRequest:
    return read_request(parameters(outcome, *changes))


def member_id(of: ServiceResult, name: str, region: str = "lungs") -> str:
    return result_id(of.inference_key, "measurement", name, region)


def task_of(of: ServiceResult) -> str:
    return task_id(of.inference_key)


def allow(_patient_id: str) -> None:
    """Everybody may see every patient."""


@dataclass
class Queue:
    """Remembers what was put into it."""

    chores: list[tuple[str, str, Json]] = field(default_factory=list)

    def enqueue_chore(self, name: str, key: str, payload: Any) -> str:
        self.chores.append((name, key, dict(payload)))
        return f"{name}/{key}"


@dataclass
class MemoryFhir:
    """A FHIR server of two rules: `ifMatch` must fit what is there, and labels are kept.

    It behaves as HAPI 8.8.0 was seen to: `ifMatch` is not looked at where there is nothing,
    and the security labels of a resource are added to unless the caller asks otherwise.
    """

    store: dict[str, list[Json]] = field(default_factory=dict)
    before_transaction: list[Any] = field(default_factory=list)

    def put(self, resource: Json, *, replace_labels: bool = False) -> None:
        url = f"{resource['resourceType']}/{resource['id']}"
        versions = self.store.setdefault(url, [])
        kept = copy.deepcopy(resource)
        meta = kept.setdefault("meta", {})
        if versions and not replace_labels:
            there = versions[-1]["meta"].get("security", [])
            new = [label for label in meta.get("security", []) if label not in there]
            if there or new:
                meta["security"] = [*there, *new]
        meta["versionId"] = str(len(versions) + 1)
        versions.append(kept)

    def transaction_once(self, bundle: Json, *, replace_labels: bool = False) -> Json:
        if self.before_transaction:
            self.before_transaction.pop(0)()
        for entry in bundle["entry"]:
            wanted = entry["request"].get("ifMatch")
            there = self.store.get(entry["request"]["url"])
            if there and wanted and wanted != f'W/"{there[-1]["meta"]["versionId"]}"':
                raise ConflictError("conflict")
        for entry in bundle["entry"]:
            if entry["request"]["method"] != "PUT":
                raise AssertionError("only PUT is known here")
            self.put(entry["resource"], replace_labels=replace_labels)
        return {}

    def read(self, resource_type: str, resource_id: str) -> Json:
        found = self.find(resource_type, resource_id)
        if found is None:
            raise NotFoundError("no such resource")
        return found

    def find(self, resource_type: str, resource_id: str) -> Json | None:
        versions = self.store.get(f"{resource_type}/{resource_id}")
        return copy.deepcopy(versions[-1]) if versions else None

    def search(self, resource_type: str, params: Any, limit: int = 1000) -> list[Json]:
        newest = [v[-1] for url, v in self.store.items() if url.startswith(f"{resource_type}/")]
        if "_id" in params:
            wanted = params["_id"].split(",")
            newest = [item for item in newest if item["id"] in wanted]
        return copy.deepcopy(newest)[:limit]


def stored(of: ServiceResult | None = None, **changes: Any) -> MemoryFhir:
    """A server that holds one written result and what it speaks of."""
    made = of or result()
    fhir = MemoryFhir()
    study = {
        "resourceType": "ImagingStudy",
        "id": imaging_study_id(made.study_instance_uid),
        "identifier": [{"system": codes.DICOM_UID, "value": f"urn:oid:{made.study_instance_uid}"}],
    }
    fhir.put(study)
    bundle = result_bundle(made, context(made, **changes))
    for entry in bundle["entry"]:
        fhir.put(entry["resource"])
    assert resources(bundle, "Task")
    return fhir
