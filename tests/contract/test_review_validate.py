"""What a review writes is valid in a real HAPI, which keeps its promises about versions."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests
from result_samples import context, result
from review_samples import ANN, Queue, allow, member_id, request, task_of

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import ConflictError
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import create_only, result_bundle
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.ids import imaging_study_id, result_id
from fhir_ext.results import ServiceResult
from fhir_ext.settings import FhirSettings
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.definitions import DEFINITIONS
from operations.review.service import ReviewService

Json = dict[str, Any]

REGISTRY = Registry()
INSTALLED = REGISTRY.manifest("lung-density").identity()
ROOT = "1.2.826.0.1.3680043.8.498.4712"


@pytest.fixture(scope="module")
def fhir(hapi_base_url: str) -> FhirClient:
    client = FhirClient(FhirSettings(base_url=hapi_base_url))
    client.transaction(load_bundle())
    client.put({"resourceType": "Patient", "id": "review-example"})
    # HAPI finds a Task by an owner that exists only.
    client.put({"resourceType": "Practitioner", "id": "ann"})
    return client


def written(fhir: FhirClient) -> ServiceResult:
    """A result of its own, written."""
    study = f"{ROOT}.{uuid.uuid4().int % 10**12}"
    of = result(study=study, series=f"{study}.1", model=INSTALLED)
    fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": imaging_study_id(study),
            "status": "available",
            "subject": {"reference": "Patient/review-example"},
            "identifier": [{"system": codes.DICOM_UID, "value": f"urn:oid:{study}"}],
        }
    )
    patient = "Patient/review-example"
    fhir.transaction_once(create_only(result_bundle(of, context(of, patient_reference=patient))))
    return of


def service(fhir: FhirClient) -> ReviewService:
    return ReviewService(fhir, Queue(), REGISTRY, Metrics())


def errors(fhir: FhirClient, resource: Json) -> list[str]:
    issues = fhir.validate(resource)["issue"]
    return [i["diagnostics"] for i in issues if i["severity"] in ("error", "fatal")]


def of_trail(fhir: FhirClient, task: Json) -> Json:
    (reference,) = (o["valueReference"] for o in task["output"] if "valueReference" in o)
    return fhir.read(*reference["reference"].split("/"))


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d["code"])
def test_definitions_are_valid(fhir: FhirClient, definition: Json) -> None:
    assert errors(fhir, definition) == []


@pytest.mark.parametrize(
    ("outcome", "value"), [("accept", None), ("modify", 3.5), ("modify", 21.0), ("reject", None)]
)
def test_everything_a_review_writes_is_valid(
    fhir: FhirClient, outcome: str, value: float | None
) -> None:
    of = written(fhir)
    changes = [] if value is None else [(member_id(of, "laa-950"), value, "%")]
    task = service(fhir).review(task_of(of), ANN, request(outcome, *changes), "1", allow)
    trail = of_trail(fhir, task)
    assert len(trail["target"]) == 1 + 12 + 2 + 1
    resources = [fhir.read(*t["reference"].split("/")) for t in trail["target"]]
    assert {r["id"]: e for r in (*resources, trail) if (e := errors(fhir, r))} == {}
    assert {r["meta"]["versionId"] for r in resources} == {"2"}


def test_the_machines_value_is_reachable_in_three_ways(fhir: FhirClient) -> None:
    of = written(fhir)
    target = member_id(of, "laa-950")
    task = service(fhir).review(task_of(of), ANN, request("modify", (target, 3.5, "%")), "1", allow)
    url = f"{fhir.base_url}/Observation/{target}/_history/1"
    assert requests.get(url, timeout=30).json()["valueQuantity"]["value"] == 7.25
    (kept,) = of_trail(fhir, task)["contained"]
    assert kept["valueQuantity"]["value"] == 7.25
    (found,) = (
        p
        for p in fhir.search("Provenance", {"target": f"Observation/{target}"})
        if p.get("contained")
    )
    assert found["id"] == of_trail(fhir, task)["id"]


def test_the_label_of_a_typed_number_is_taken_away(fhir: FhirClient) -> None:
    of = written(fhir)
    target = member_id(of, "laa-950")
    service(fhir).review(task_of(of), ANN, request("modify", (target, 3.5, "%")), "1", allow)
    labels = fhir.read("Observation", target)["meta"]["security"]
    assert [label["code"] for label in labels] == ["CLINAST"]
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    assert [label["code"] for label in panel["meta"]["security"]] == ["AIAST"]


def test_a_version_that_never_was_stops_a_write_over_something(fhir: FhirClient) -> None:
    """What `create_only` rests on: HAPI refuses `W/"0"` exactly where there is something."""
    of = written(fhir)
    bundle = result_bundle(of, context(of, patient_reference="Patient/review-example"))
    with pytest.raises(ConflictError):
        fhir.transaction_once(create_only(bundle))
    versions = {
        entry["request"]["url"]: fhir.read(*entry["request"]["url"].split("/"))["meta"]["versionId"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Observation"
    }
    assert set(versions.values()) == {"1"}


def test_the_worklist_finds_open_and_claimed_tasks(fhir: FhirClient) -> None:
    of = written(fhir)
    system = codes.TASK_TYPE.url
    asked = {"code": f"{system}|review-ai-result", "_id": task_of(of)}
    assert len(fhir.search("Task", {**asked, "status": "requested", "owner:missing": "true"})) == 1
    service(fhir).claim(task_of(of), ANN, None, allow)
    mine = {**asked, "status": "accepted", "owner": "Practitioner/ann"}
    assert len(fhir.search("Task", mine)) == 1
    service(fhir).review(task_of(of), ANN, request("reject"), "2", allow)
    waits = {**asked, "business-status": f"{codes.REVIEW_STATUS.url}|sr-pending"}
    assert len(fhir.search("Task", waits)) == 1
