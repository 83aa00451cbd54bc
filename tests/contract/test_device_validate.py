"""Device, model card and what a recall writes are valid in a real HAPI, and stay as they are."""

from __future__ import annotations

import base64
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from recall_samples import write_result
from result_samples import MODEL, context

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import device_id, model_card_id, recall_provenance_id
from fhir_ext.resources.recall import Counts, Recall
from fhir_ext.results import ModelIdentity, ServiceResult
from fhir_ext.settings import FhirSettings
from models.lifecycle import State
from models.registry import Registry
from operations.analyze.write_fhir import ResultWriter
from operations.model_registry.publish import publish_version
from operations.model_registry.recall import Recaller, devices_of, groups_of
from operations.model_registry.recall_report import recall_report

Json = dict[str, Any]

REGISTRY = Registry()
PATIENT = "Patient/recall-example"


@pytest.fixture(scope="module")
def fhir(hapi_base_url: str) -> FhirClient:
    client = FhirClient(FhirSettings(base_url=hapi_base_url))
    client.transaction(load_bundle())
    client.put({"resourceType": "Patient", "id": "recall-example"})
    return client


@pytest.fixture
def model() -> ModelIdentity:
    """A version of its own, so that its recall concerns nobody else."""
    return replace(MODEL, version=f"9.{uuid.uuid4().int % 10**6}.0")


def recall_for(model: ModelIdentity) -> Recall:
    return Recall(
        device_id(model),
        model.id,
        model.version,
        model.settings_hash,
        "Wrong at the bases.",
        "ops",
        datetime.now(UTC),
    )


def written(fhir: FhirClient, model: ModelIdentity) -> ServiceResult:
    return write_result(fhir, model, PATIENT)


def errors(fhir: FhirClient, resource: Json) -> list[str]:
    issues = fhir.validate(resource)["issue"]
    return [i["diagnostics"] for i in issues if i["severity"] in ("error", "fatal")]


@pytest.mark.parametrize("service", REGISTRY.services())
@pytest.mark.parametrize("state", [State.DRAFT, State.ACTIVE, State.RETIRED])
def test_device_and_card_are_valid(fhir: FhirClient, service: str, state: State) -> None:
    installed = REGISTRY.find(service)
    model = installed.manifest.identity()
    publish_version(fhir, installed.manifest, state, folder=installed.folder)
    device = fhir.read("Device", device_id(model))
    card = fhir.read("DocumentReference", model_card_id(model))
    assert errors(fhir, device) == []
    assert errors(fhir, card) == []
    assert device["status"] == ("active" if state is State.ACTIVE else "inactive")
    text = base64.b64decode(card["content"][0]["attachment"]["data"]).decode()
    assert installed.manifest.title in text


def test_publishing_again_writes_nothing_and_a_change_writes_one_version(fhir: FhirClient) -> None:
    installed = REGISTRY.find("lung-density")
    identity = device_id(installed.manifest.identity())

    def publish(state: State) -> bool:
        return publish_version(fhir, installed.manifest, state, folder=installed.folder)

    publish(State.SHADOW)
    before = fhir.read("Device", identity)["meta"]["versionId"]
    assert publish(State.SHADOW) is False
    assert publish(State.ACTIVE) is True
    after = fhir.read("Device", identity)
    assert int(after["meta"]["versionId"]) == int(before) + 1
    card = model_card_id(installed.manifest.identity())
    related = {"related": f"Device/{identity}"}
    assert [c["id"] for c in fhir.search("DocumentReference", related)] == [card]
    assert identity in {d["id"] for d in devices_of(fhir, "lung-density", "1.0.0")}


def test_everything_a_recall_writes_is_valid_and_found_by_its_device(
    fhir: FhirClient, model: ModelIdentity
) -> None:
    of = [written(fhir, model) for _ in range(3)]
    recall, recaller = recall_for(model), Recaller(fhir)
    recaller.mark(recall)
    groups = [group for page in groups_of(fhir, recall.device_id) for group in page]
    assert len(groups) == len(of)
    assert all(len(g.resources) == len(g.provenance["target"]) > 10 for g in groups)
    counts = Counts()
    for group in groups:
        counts += recaller.settle(recall, group)[1]
    recaller.report_progress(recall, counts, finished=True)

    after = [group for page in groups_of(fhir, recall.device_id) for group in page]
    assert {item["status"] for g in after for item in g.resources} == {"entered-in-error"}
    assert counts.withdrawn == sum(len(g.resources) for g in after)
    trails = [fhir.read("Provenance", recall_provenance_id(g.provenance["id"])) for g in after]
    device, task = fhir.read("Device", recall.device_id), fhir.read("Task", recall.task_id)
    checked = [*after[0].resources, trails[0], device, task]
    assert {item["id"]: e for item in checked if (e := errors(fhir, item))} == {}
    tagged = {"_tag": "https://w3id.org/fhir-ext/CodeSystem/model-state|recalled"}
    found = fhir.search("RiskAssessment", {**tagged, "subject": PATIENT})
    assert {"RiskAssessment"} == {item["resourceType"] for item in found}


def test_a_late_transaction_leaves_the_device_recalled(
    fhir: FhirClient, model: ModelIdentity
) -> None:
    written(fhir, model)
    recall = recall_for(model)
    Recaller(fhir).mark(recall)
    before = fhir.read("Device", recall.device_id)
    late = written(fhir, model)
    assert fhir.read("Device", recall.device_id) == before
    assert is_recalled(before)
    assert ResultWriter(fhir).writable([late]) == ()
    # What the writer guards against: the transaction as the builders give it.
    fhir.transaction(result_bundle(late, context(late, patient_reference=PATIENT)))
    assert not is_recalled(fhir.read("Device", recall.device_id))


def test_the_report_counts_what_the_server_holds(fhir: FhirClient, model: ModelIdentity) -> None:
    written(fhir, model)
    report = recall_report(fhir, model.id, model.version)
    assert report.recall is None
    assert report.counts["pieces of work"] == 1
    assert report.patients == (PATIENT,)
