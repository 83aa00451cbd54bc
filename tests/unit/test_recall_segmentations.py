"""A recall follows a SEG into what other versions measured in it; no new pass measures there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from pydicom import Dataset
from recall_samples import REASON, RECALL, PagedFhir, counts_of
from result_samples import ISSUED, MODEL, SERIES_UID, STUDY_UID, context, result
from review_samples import Queue

from fhir_ext.clients.dicomweb import InstanceInfo
from fhir_ext.errors import ParkedWork
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.codes import MANUFACTURER
from fhir_ext.resources.device import in_state, model_device
from fhir_ext.resources.ids import (
    dicom_uid,
    imaging_study_id,
    inference_key,
    recall_review_id,
    result_id,
)
from fhir_ext.results import SeriesSource, ServiceResult
from models.registry import Registry
from operations.analyze.narrow import Narrower
from operations.analyze.plan import NotApplied, Plan, SeriesJob, SeriesRef, VersionRef
from operations.analyze.prepare import Prepared
from operations.analyze.service import AnalyzeService
from operations.analyze.withdrawn import why_withdrawn
from operations.analyze.write_fhir import ResultWriter
from operations.model_registry.recall import Recaller, start_recall
from operations.model_registry.recall_report import recall_report
from subscriptions import recall as work
from subscriptions.recall import RecallVersion, watch_recalls

Json = dict[str, Any]

OTHER = replace(MODEL, id="segment-measurements", title="Measurements")
KEY = inference_key(STUDY_UID, SERIES_UID, ("1.2.3.1", "1.2.3.2"), MODEL)
#: The SEG that the version which is recalled drew.
SEG = dicom_uid(KEY, "seg-series")
DRAWN = result(seg_instance_uid=dicom_uid(KEY, "seg"), seg_series_instance_uid=SEG)


def measured(series: str = SEG, **changes: Any) -> ServiceResult:
    """Numbers of another version, measured in a SEG."""
    source = SeriesSource(series, (dicom_uid(KEY, "seg"),))
    return result(model=OTHER, further=(source,), risks=(), issues=(), **changes)


def write(fhir: PagedFhir, of: ServiceResult, **changes: Any) -> None:
    made = context(of, seg_instance_uid=of.seg_instance_uid, **changes)
    for entry in result_bundle(of, made)["entry"]:
        if entry["resource"]["resourceType"] != "Device":
            fhir.put(entry["resource"])


@pytest.fixture
def fhir() -> PagedFhir:
    made = PagedFhir()
    made.put(
        {
            "resourceType": "ImagingStudy",
            "id": imaging_study_id(STUDY_UID),
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY_UID}"}],
        }
    )
    write(made, DRAWN)
    return made


@dataclass
class Recalling:
    """Recalls the version, and works its chores off, each key once."""

    fhir: PagedFhir
    queue: Queue = field(default_factory=Queue)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        start_recall(self.queue, MODEL.id, MODEL.version, MODEL.settings_hash, REASON, "ops")
        self.run()

    def run(self) -> None:
        for _, key, payload in list(self.queue.chores):
            if key not in self.done and "device_id" in payload:
                RecallVersion(Recaller(self.fhir), self.queue)(payload)
                self.done.add(key)

    @property
    def listed(self) -> set[str]:
        """What the Task about the drawn result asks a human about."""
        task = self.fhir.find("Task", recall_review_id(result_id(KEY, "provenance")))
        named = (task or {}).get("input", [])
        return {item["valueReference"]["reference"] for item in named}


def observations(fhir: PagedFhir, of: ServiceResult) -> set[str]:
    return {
        f"Observation/{item['id']}"
        for item in fhir.search("Observation", {})
        if item["identifier"][0]["value"] == of.inference_key
    }


def test_what_was_measured_in_the_segments_is_listed_and_stands(fhir: PagedFhir) -> None:
    of = measured()
    write(fhir, of)
    recalling = Recalling(fhir)
    assert recalling.listed == observations(fhir, of)
    assert len(recalling.listed) == 13
    by_status = {
        status: {o["identifier"][0]["value"] for o in found}
        for status in ("preliminary", "entered-in-error")
        if (found := [o for o in fhir.search("Observation", {}) if o["status"] == status])
    }
    assert by_status == {"preliminary": {of.inference_key}, "entered-in-error": {KEY}}
    (summary,) = fhir.search(
        "Task", {"code": "https://w3id.org/fhir-ext/CodeSystem/task-type|model-recall"}
    )
    counts = counts_of(summary)
    assert (counts.groups, counts.signed, counts.reviews) == (1, 0, 1)


@pytest.mark.parametrize(
    ("of", "status"),
    [(measured("1.2.3.99"), "preliminary"), (measured(), "cancelled")],
    ids=["another SEG", "cancelled"],
)
def test_what_does_not_rest_on_the_segments_is_not_listed(
    fhir: PagedFhir, of: ServiceResult, status: str
) -> None:
    write(fhir, of)
    for url in observations(fhir, of):
        fhir.put({**fhir.read(*url.split("/")), "status": status})
    assert Recalling(fhir).listed == set()


def test_a_version_that_drew_nothing_is_asked_about_no_series(fhir: PagedFhir) -> None:
    """The SEG of a key belongs to the work that names it as drawn."""
    provenance = fhir.read("Provenance", result_id(KEY, "provenance"))
    kept = [e for e in provenance["entity"] if e["role"] != "derivation"]
    fhir.put({**provenance, "entity": kept})
    write(fhir, measured())
    assert Recalling(fhir).listed == set()


def test_scores_that_rest_on_a_measured_number_are_listed(fhir: PagedFhir) -> None:
    of = measured()
    write(fhir, of)
    score = {
        "resourceType": "RiskAssessment",
        "id": "score",
        "status": "final",
        "subject": {"reference": "Patient/example"},
        "basis": [{"reference": sorted(observations(fhir, of))[0]}],
    }
    fhir.put(score)
    assert Recalling(fhir).listed == {"RiskAssessment/score", *observations(fhir, of)}


def test_what_was_on_its_way_is_found_by_the_second_look(
    fhir: PagedFhir, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalling = Recalling(fhir)
    write(fhir, measured())
    assert watch_recalls(fhir, recalling.queue) == 0
    monkeypatch.setattr(work, "SECOND_LOOK", timedelta(0))
    assert watch_recalls(fhir, recalling.queue) == 1
    recalling.run()
    assert recalling.listed == observations(fhir, measured())
    versions = {url: len(v) for url, v in fhir.store.items() if url != f"Task/{RECALL.task_id}"}
    recalling.done.clear()
    recalling.run()
    after = {url: len(v) for url, v in fhir.store.items() if url != f"Task/{RECALL.task_id}"}
    assert after == versions


def test_a_task_that_a_human_has_closed_stays_closed(fhir: PagedFhir) -> None:
    write(fhir, measured())
    recalling = Recalling(fhir)
    task = fhir.read("Task", recall_review_id(result_id(KEY, "provenance")))
    fhir.put({**task, "status": "completed"})
    write(fhir, measured(instances=("1.2.3.7",)))
    recalling.done.clear()
    recalling.run()
    assert fhir.read("Task", task["id"])["status"] == "completed"
    assert fhir.read("Task", task["id"])["input"] == task["input"]


def test_the_report_names_what_was_measured(fhir: PagedFhir) -> None:
    write(fhir, measured())
    fhir.put(model_device(MODEL))
    (one,) = recall_report(fhir, MODEL.id, MODEL.version).results  # type: ignore[arg-type]
    assert set(one.measured) == observations(fhir, measured())
    Recalling(fhir)
    made = recall_report(fhir, MODEL.id, MODEL.version)  # type: ignore[arg-type]
    assert made.counts["measured in its segmentations"] == len(one.measured) == 13
    assert made.as_json()["results"][0]["measured"] == list(one.measured)


def header(modality: str, author: str | None = None) -> Dataset:
    """Of a SEG by one version, or of something else in the same frame of reference."""
    made, algorithm, segment = Dataset(), Dataset(), Dataset()
    made.Modality, made.FrameOfReferenceUID = modality, "9.1"
    if author is not None:
        algorithm.AlgorithmSource = author
        algorithm.AlgorithmName, algorithm.AlgorithmVersion = MODEL.id, MODEL.version
        segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
        made.SegmentSequence = [segment]
        made.DeviceSerialNumber = MODEL.settings_hash
    return made


@dataclass
class Archive:
    """Headers by series."""

    headers: dict[str, Dataset]

    def list_instances(self, _study: str, series: str) -> tuple[InstanceInfo, ...]:
        return (InstanceInfo(f"{series}.1", "", 1, None, None, None),)

    def instance_metadata(self, _study: str, series: str, _instance: str) -> Dataset:
        return self.headers[series]


def narrowed(fhir: PagedFhir, segments: dict[str, Dataset]) -> Plan:
    """What is left of a stack that is measured and looked at without segments too."""
    archive: Any = Archive({"1.1": header("CT"), **segments})
    versions = (VersionRef("segment-measurements", "1.0.0"), VersionRef("lung-density", "1.0.0"))
    job = SeriesJob("1.1", 50, versions, tuple(SeriesRef(uid, 1) for uid in segments))
    server: Any = fhir
    narrower = Narrower(
        archive, Registry(), "1", lambda h: why_withdrawn(server, imaging_study_id(STUDY_UID), h)
    )
    return narrower.narrow(Plan((job,), ()), {"series": [{"uid": "1.1"}]})


def refusals(items: Sequence[NotApplied]) -> set[tuple[str, str, str]]:
    return {(item.series_instance_uid, item.service, item.reason) for item in items}


def test_a_segmentation_of_a_recalled_version_is_not_measured(fhir: PagedFhir) -> None:
    fhir.put(in_state(model_device(MODEL), "recalled", "why"))
    drawn = {"1.2": header("SEG", MANUFACTURER), "1.3": header("SEG"), "1.4": header("SEG", "else")}
    plan = narrowed(fhir, drawn)
    (job,) = plan.jobs
    assert [item.series_instance_uid for item in job.further] == ["1.3", "1.4"]
    assert len(job.versions) == 2
    assert refusals(plan.not_applied) == {
        ("1.2", "segment-measurements", "segmentation-recalled"),
    }


def test_without_another_segmentation_the_stack_is_not_measured(fhir: PagedFhir) -> None:
    fhir.put(in_state(model_device(MODEL), "recalled", "why"))
    plan = narrowed(fhir, {"1.2": header("SEG", MANUFACTURER)})
    (job,) = plan.jobs
    assert [version.service for version in job.versions] == ["lung-density"]
    assert refusals(plan.not_applied) == {
        ("1.1", "segment-measurements", "segmentation-recalled"),
        ("1.2", "segment-measurements", "segmentation-recalled"),
    }


def test_a_segmentation_that_a_reviewer_rejected_is_not_measured(fhir: PagedFhir) -> None:
    rejected, other = header("SEG", MANUFACTURER), header("SEG", MANUFACTURER)
    rejected.SeriesInstanceUID, other.SeriesInstanceUID = SEG, "1.3"
    drawn = {SEG: rejected, "1.3": other}
    assert narrowed(fhir, drawn).not_applied == ()
    panel = fhir.find("Observation", result_id(KEY, "panel"))
    assert panel is not None
    fhir.put({**panel, "status": "entered-in-error"})
    plan = narrowed(fhir, drawn)
    assert [item.series_instance_uid for item in plan.jobs[0].further] == ["1.3"]
    assert refusals(plan.not_applied) == {
        (SEG, "segment-measurements", "segmentation-rejected"),
    }


def test_a_version_that_is_merely_retired_is_measured_in(fhir: PagedFhir) -> None:
    fhir.put(in_state(model_device(MODEL), "retired"))
    plan = narrowed(fhir, {"1.2": header("SEG", MANUFACTURER)})
    assert len(plan.jobs[0].further) == 1
    assert plan.not_applied == ()


def test_what_was_measured_while_the_recall_came_is_not_written(fhir: PagedFhir) -> None:
    fhir.put(in_state(model_device(MODEL), "recalled", "why"))
    server: Any = fhir
    archive: Any = Archive({SEG: header("SEG", MANUFACTURER)})
    unused: Any = None
    service = AnalyzeService(unused, unused, ResultWriter(server), server, archive)
    prepared = Prepared("work", imaging_study_id(STUDY_UID), patient_reference="Patient/example")
    with pytest.raises(ParkedWork) as refused:
        service.publish(prepared, [measured()], ISSUED)
    assert refused.value.code == "model-recalled"
    assert observations(fhir, measured()) == set()
