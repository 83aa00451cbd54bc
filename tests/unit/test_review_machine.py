"""A signed result is never changed by a machine again: what a worker writes, against a human."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from result_samples import ISSUED, result
from review_samples import ANN, MemoryFhir, Queue, allow, request, stored, task_of

from fhir_ext.errors import UpstreamError
from fhir_ext.resources.ids import imaging_study_id, result_id
from fhir_ext.results import ServiceResult
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.analyze.prepare import Prepared
from operations.analyze.write_fhir import ResultWriter
from operations.review.service import ReviewService

REGISTRY = Registry()
OLD = result(instances=("1.2.3.1",), model=REGISTRY.manifest("lung-density").identity())
GROWN = result(instances=("1.2.3.1", "1.2.3.2"), model=OLD.model)
NEW_VERSION = result(instances=("1.2.3.1",), model=replace(OLD.model, version="2.0.0"))

#: Resources of a machine's result that a review signs.
CLINICAL = ("Observation/", "RiskAssessment/", "DetectedIssue/", "Task/")


def prepared(of: ServiceResult) -> Prepared:
    return Prepared(
        "work",
        imaging_study_id(of.study_instance_uid),
        version="2",
        study_instance_uid=of.study_instance_uid,
        patient_reference="Patient/example",
        has_earlier=True,
    )


class Searching(MemoryFhir):
    """Finds Provenances by their entity, as `_earlier` asks."""

    def search(self, resource_type: str, params: Any, limit: int = 1000) -> list[dict[str, Any]]:
        found = super().search(resource_type, params, limit)
        if "entity" in params:
            wanted = params["entity"]
            found = [p for p in found if wanted in json.dumps(p["entity"])]
        return found


def server() -> Searching:
    return Searching(stored(OLD).store)


def decide(fhir: MemoryFhir, outcome: str = "accept") -> None:
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    changes = [(result_id(OLD.inference_key, "measurement", "laa-950", "lungs"), 3.0, "%")]
    asked = request(outcome, *(changes if outcome == "modify" else []))
    service.review(task_of(OLD), ANN, asked, "1", allow)


def signed_urls(fhir: MemoryFhir) -> set[str]:
    return {url for url in fhir.store if url.startswith(CLINICAL)}


@pytest.mark.parametrize("outcome", ["accept", "modify", "reject"])
@pytest.mark.parametrize("later", [GROWN, NEW_VERSION, OLD], ids=["grown", "version", "rerun"])
def test_later_work_leaves_what_was_signed(outcome: str, later: ServiceResult) -> None:
    fhir = server()
    decide(fhir, outcome)
    urls = signed_urls(fhir)
    before = {url: fhir.store[url][-1] for url in urls}
    writer = ResultWriter(fhir)
    left = writer.unwritten([later])
    assert bool(left) == (later is not OLD)
    writer.write(prepared(OLD), left, ISSUED)
    assert {url: fhir.store[url][-1] for url in urls} == before
    if later is not OLD:
        panel = fhir.read("Observation", result_id(later.inference_key, "panel"))
        assert panel["status"] == "preliminary"


@pytest.mark.parametrize("outcome", ["accept", "reject"])
@pytest.mark.parametrize("later", [GROWN, NEW_VERSION], ids=["grown", "version"])
def test_a_reviewer_who_signs_between_reading_and_writing_wins(
    outcome: str, later: ServiceResult
) -> None:
    fhir = server()
    urls = signed_urls(fhir)
    fhir.before_transaction.append(lambda: decide(fhir, outcome))
    ResultWriter(fhir).write(prepared(OLD), [later], ISSUED)
    status = {"accept": "final", "reject": "entered-in-error"}[outcome]
    assert {fhir.store[u][-1]["status"] for u in urls} == {status, "completed"}
    assert fhir.read("Observation", result_id(later.inference_key, "panel"))


def test_a_worker_that_slept_writes_nothing_over_what_another_wrote() -> None:
    """Both found the result unwritten; one wrote, a human signed, then the other woke up."""
    fhir = Searching()
    of = prepared(OLD)
    writer = ResultWriter(fhir)
    left = writer.unwritten([OLD])
    assert left == (OLD,)

    def quicker() -> None:
        for url, versions in server().store.items():
            if not url.startswith("Device/"):
                fhir.store[url] = versions
        decide_on = ReviewService(_with_devices(fhir), Queue(), REGISTRY, Metrics())
        decide_on.review(task_of(OLD), ANN, request("accept"), "1", allow)

    fhir.before_transaction.append(quicker)
    writer.write(of, left, ISSUED)
    urls = {url for url in fhir.store if url.startswith(CLINICAL)}
    assert {fhir.store[url][-1]["status"] for url in urls} == {"final", "completed"}


def _with_devices(fhir: Searching) -> Searching:
    for url, versions in server().store.items():
        fhir.store.setdefault(url, versions)
    return fhir


def test_a_lost_provenance_does_not_open_what_was_signed() -> None:
    fhir = server()
    decide(fhir)
    del fhir.store[f"Provenance/{result_id(OLD.inference_key, 'provenance')}"]
    urls = signed_urls(fhir)
    before = {url: fhir.store[url][-1] for url in urls}
    writer = ResultWriter(fhir)
    with pytest.raises(UpstreamError) as caught:
        writer.write(prepared(OLD), writer.unwritten([OLD]), ISSUED)
    assert caught.value.code == "write-conflict"
    assert {url: fhir.store[url][-1] for url in urls} == before


def test_a_claimed_task_is_cancelled_with_its_result() -> None:
    fhir = server()
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    service.claim(task_of(OLD), ANN, None, allow)
    ResultWriter(fhir).write(prepared(OLD), [GROWN], ISSUED)
    assert fhir.read("Task", task_of(OLD))["status"] == "cancelled"
