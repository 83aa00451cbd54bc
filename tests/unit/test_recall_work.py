"""A recall as durable work: parts, deaths in the middle, reviewers in between, late results."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from recall_samples import REASON, RECALL, PagedFhir, add, counts_of, statuses
from result_samples import MODEL
from review_samples import ANN, Queue, allow, request, task_of

from fhir_ext.errors import BadRequestError, UpstreamError, UpstreamUnavailable
from fhir_ext.resources.device import is_recalled, model_device
from fhir_ext.resources.ids import device_id, recall_review_id, result_id
from fhir_ext.resources.recall import Counts, summary_task
from fhir_ext.results import ServiceResult
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.model_registry import recall as recalls
from operations.model_registry.recall import RECALL as CHORE
from operations.model_registry.recall import Part, Recaller, part_of, start_recall
from operations.review.service import ReviewService
from subscriptions import recall as work
from subscriptions.recall import REJECT_RECALLED, RecallVersion, watch_recalls

Json = dict[str, Any]

RESULTS = ("Observation", "RiskAssessment", "DetectedIssue")


@dataclass
class Worker:
    """Runs the chores of recalls like the queue: each key once, in order."""

    fhir: PagedFhir
    queue: Queue = field(default_factory=Queue)
    listeners: list[Any] = field(default_factory=list)
    done: set[tuple[str, str]] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)

    def run(self, most: int = 1000) -> int:
        """Work until nothing waits; returns how many parts were worked off."""
        parts = 0
        while parts < most:
            waiting = [c for c in self.queue.chores if (c[0], c[1]) not in self.done]
            if not waiting:
                return parts
            name, key, payload = waiting[0]
            if name == REJECT_RECALLED:
                self.rejected.add(key)
            else:
                handler = RecallVersion(Recaller(self.fhir, self.listeners), self.queue)
                handler(payload)
                parts += 1
            self.done.add((name, key))
        return parts

    def start(self) -> None:
        model = (MODEL.id, MODEL.version, MODEL.settings_hash)
        start_recall(self.queue, *model, REASON, "ops")

    @property
    def summary(self) -> Json:
        return self.fhir.read("Task", RECALL.task_id)


def sign(fhir: PagedFhir, of: ServiceResult, outcome: str = "accept") -> None:
    service = ReviewService(fhir, Queue(), Registry(), Metrics())
    service.review(task_of(of), ANN, request(outcome), "1", allow)


def filled(count: int = 5) -> tuple[PagedFhir, list[ServiceResult]]:
    fhir = PagedFhir()
    return fhir, [add(fhir, number) for number in range(count)]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PART", 2)


def test_unsigned_results_are_withdrawn_and_signed_ones_are_listed() -> None:
    fhir, (first, *_) = filled(3)
    sign(fhir, first)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    panel = fhir.read("Observation", result_id(first.inference_key, "panel"))
    assert panel["status"] == "final"
    assert statuses(fhir, *RESULTS) == {"final", "entered-in-error"}
    listed = fhir.read("Task", recall_review_id(result_id(first.inference_key, "provenance")))
    assert listed["status"] == "requested"
    assert counts_of(worker.summary) == Counts(groups=3, withdrawn=2 * 16, signed=15, reviews=1)
    assert worker.summary["status"] == "completed"
    assert is_recalled(fhir.read("Device", device_id(MODEL)))
    assert len(worker.rejected) == 2


def test_results_of_another_version_are_left_alone() -> None:
    fhir = PagedFhir()
    add(fhir, 1)
    worker = Worker(fhir)
    start_recall(worker.queue, MODEL.id, "9.9.9", MODEL.settings_hash, REASON, "ops")
    worker.run()
    assert statuses(fhir, *RESULTS) == {"preliminary"}
    assert not is_recalled(fhir.read("Device", device_id(MODEL)))


def test_parts_cover_everything_once(small_parts: None) -> None:
    fhir, _ = filled(7)
    worker = Worker(fhir)
    worker.start()
    assert worker.run() == 4
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}
    assert counts_of(worker.summary).groups == 7


def test_results_of_one_instant_are_counted_once(small_parts: None) -> None:
    fhir, _ = filled(5)
    for versions in fhir.store.values():
        if versions[-1]["resourceType"] == "Provenance":
            versions[-1]["meta"]["lastUpdated"] = "2026-01-05T00:00:00+00:00"
    worker = Worker(fhir)
    worker.start()
    worker.run()
    assert counts_of(worker.summary).groups == 5
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}


def test_a_death_at_any_write_and_a_repeat_give_the_same(small_parts: None) -> None:
    begin, (first, *_) = filled(4)
    sign(begin, first)
    fhir = copy.deepcopy(begin)
    whole = Worker(fhir)
    whole.start()
    first_part = whole.queue.chores[0]
    whole.run()
    expected, writes = _content(fhir), fhir.writes - begin.writes
    assert writes > 60

    for death in range(1, writes + 1):
        fhir = copy.deepcopy(begin)
        worker = Worker(fhir, Queue([first_part]))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("transaction_once", "put"):
                patch.setattr(fhir, name, _dying(getattr(fhir, name), fhir, begin.writes + death))
            with pytest.raises(KeyboardInterrupt):
                worker.run()
        worker.run()
        assert _content(fhir) == expected, death


def _dying(real: Any, fhir: PagedFhir, last: int) -> Any:
    """Kills the worker before the write that reaches `last`; a transaction is whole or not."""

    def call(*args: Any, **kwargs: Any) -> Any:
        size = len(args[0]["entry"]) if "entry" in args[0] else 1
        if fhir.writes < last <= fhir.writes + size:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    return call


def _content(fhir: PagedFhir) -> dict[str, Any]:
    """Everything but versions and the moments of writing."""
    found = {}
    for url, versions in fhir.store.items():
        kept = {k: v for k, v in versions[-1].items() if k not in ("meta", "recorded")}
        for name in ("lastModified", "executionPeriod"):
            if url == f"Task/{RECALL.task_id}":
                kept.pop(name, None)
        kept.pop("entity", None)
        found[url] = kept
    return found


def test_a_repeat_changes_nothing() -> None:
    fhir, _ = filled(3)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    before = _content(fhir)
    versions = {url: len(v) for url, v in fhir.store.items() if not url.endswith(RECALL.task_id)}
    start_recall(
        worker.queue, MODEL.id, MODEL.version, MODEL.settings_hash, REASON, "ops", again="x"
    )
    assert worker.run() == 1
    after = {url: len(v) for url, v in fhir.store.items() if not url.endswith(RECALL.task_id)}
    assert after == versions
    assert _content(fhir) | {f"Task/{RECALL.task_id}": 0} == before | {f"Task/{RECALL.task_id}": 0}
    assert counts_of(worker.summary) == Counts(groups=3, withdrawn=3 * 16)


def test_asked_again_the_first_reason_stands() -> None:
    fhir, _ = filled(1)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    add(fhir, 9)
    start_recall(
        worker.queue, MODEL.id, MODEL.version, MODEL.settings_hash, "other", "else", again="x"
    )
    assert worker.run() == 1
    assert worker.summary["reasonCode"]["text"] == REASON
    notes = [o["note"][-1]["text"] for o in fhir.search("Observation", {})]
    assert set(notes) == {f"Recalled: {REASON}"}


def test_a_reviewer_who_is_quicker_keeps_the_last_word() -> None:
    fhir, (of,) = filled(1)
    worker = Worker(fhir)
    worker.start()
    # The first transaction marks the Device; the review comes before the second.
    fhir.before_transaction = [lambda: None, lambda: sign(fhir, of)]
    worker.run()
    assert statuses(fhir, *RESULTS) == {"final"}
    assert counts_of(worker.summary) == Counts(groups=1, signed=15, reviews=1)
    assert fhir.read("Task", task_of(of))["status"] == "completed"


def test_a_review_after_the_recall_is_refused() -> None:
    fhir, (of,) = filled(1)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    with pytest.raises(Exception, match="superseded or withdrawn"):
        sign(fhir, of)


def test_who_keeps_writing_makes_it_try_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalls, "CONFLICT_WAITS", (0.0, 0.0))
    fhir, (of,) = filled(1)
    worker = Worker(fhir)
    worker.start()
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    fhir.before_transaction = [lambda: None, *[lambda: fhir.put(panel)] * 2]
    with pytest.raises(UpstreamError):
        worker.run()
    worker.run()
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}


def test_scores_that_rest_on_a_recalled_number_are_listed_and_stay() -> None:
    fhir, (of, other) = filled(2)
    panel = f"Observation/{result_id(of.inference_key, 'panel')}"
    score = {
        "resourceType": "RiskAssessment",
        "id": "score",
        "status": "final",
        "subject": {"reference": "Patient/p0"},
        "basis": [{"reference": panel}],
    }
    fhir.put(score)
    fhir.put({**score, "id": "another", "basis": [{"reference": "Observation/elsewhere"}]})
    fhir.put({**score, "id": "gone", "status": "entered-in-error"})
    worker = Worker(fhir)
    worker.start()
    worker.run()
    assert fhir.read("RiskAssessment", "score")["status"] == "final"
    task = fhir.read("Task", recall_review_id(result_id(of.inference_key, "provenance")))
    assert [i["valueReference"]["reference"] for i in task["input"]] == ["RiskAssessment/score"]
    assert fhir.find("Task", recall_review_id(result_id(other.inference_key, "provenance"))) is None
    assert counts_of(worker.summary) == Counts(groups=2, withdrawn=32, reviews=1)


def test_the_archive_is_asked_for_each_result_with_an_sr() -> None:
    fhir = PagedFhir()
    of = [add(fhir, number, sr_instance_uid=f"1.2.3.{number}") for number in range(2)]
    sign(fhir, of[1])
    worker = Worker(fhir)
    worker.start()
    worker.run()
    assert worker.rejected == {result_id(of[0].inference_key, "provenance")}


def test_listeners_hear_of_what_was_withdrawn() -> None:
    fhir, (first, *_) = filled(2)
    sign(fhir, first)
    heard: list[str] = []
    worker = Worker(fhir, listeners=[lambda recall, group: heard.append(group.patient)])
    worker.start()
    worker.run()
    assert heard == ["Patient/p1"]


def test_what_a_study_in_flight_writes_after_the_recall_is_found() -> None:
    fhir, _ = filled(2)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    assert watch_recalls(fhir, worker.queue) == 0
    fhir.clock = datetime.now(UTC)
    add(fhir, 7)
    assert "preliminary" in statuses(fhir, "Observation")
    assert watch_recalls(fhir, worker.queue) == 1
    worker.run()
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}
    assert counts_of(worker.summary).groups == 3
    assert watch_recalls(fhir, worker.queue) == 0


def test_a_device_that_was_written_over_is_marked_again() -> None:
    fhir, _ = filled(1)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    fhir.put(model_device(MODEL))
    assert watch_recalls(fhir, worker.queue) == 1
    worker.run()
    assert is_recalled(fhir.read("Device", device_id(MODEL)))


@pytest.mark.parametrize("change", [{"identifier": []}, {"id": "mine"}])
def test_tasks_of_others_with_our_code_recall_nothing(change: Json) -> None:
    fhir, _ = filled(1)
    task = summary_task(RECALL, Counts(), finished=False, moment=datetime.now(UTC))
    fhir.put({**task, **change})
    queue = Queue()
    assert watch_recalls(fhir, queue) == 0
    assert queue.chores == []


def test_a_late_result_that_was_signed_at_once_is_listed() -> None:
    fhir, _ = filled(1)
    worker = Worker(fhir)
    worker.start()
    worker.run()
    fhir.clock = datetime.now(UTC)
    sign(fhir, add(fhir, 7))
    assert watch_recalls(fhir, worker.queue) == 1
    worker.run()
    assert counts_of(worker.summary).reviews == 1


def test_a_recall_that_the_queue_lost_is_taken_up_again(small_parts: None) -> None:
    fhir, _ = filled(5)
    worker = Worker(fhir)
    worker.start()
    worker.run(most=1)
    assert worker.summary["status"] == "in-progress"
    lost = Worker(fhir)
    assert watch_recalls(fhir, lost.queue) == 1
    lost.run()
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}
    assert counts_of(lost.summary).groups == 5
    assert lost.summary["reasonCode"]["text"] == REASON


def test_a_part_travels_through_the_queue_unchanged() -> None:
    part = Part(RECALL, "late-1", 3, "2026-01-05T00:00:00Z", ("a", "b"), Counts(groups=4))
    assert part_of(part.as_json()) == part
    assert part.key == f"{RECALL.device_id}/late-1/3"
    assert Part(RECALL).key == RECALL.device_id


@pytest.mark.parametrize(("reason", "who"), [("", "ops"), ("x" * 501, "ops"), ("why", " ")])
def test_a_recall_needs_a_reason_and_a_name(reason: str, who: str) -> None:
    queue = Queue()
    with pytest.raises(BadRequestError):
        start_recall(queue, MODEL.id, MODEL.version, MODEL.settings_hash, reason, who)
    assert queue.chores == []


def test_asking_twice_is_one_chore() -> None:
    queue = Queue()
    model = (MODEL.id, MODEL.version, MODEL.settings_hash)
    names = {start_recall(queue, *model, REASON, who) for who in ("ops", "other")}
    assert names == {f"{CHORE}/{device_id(MODEL)}"}


def test_a_server_that_is_down_stops_nothing_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    fhir, _ = filled(2)
    worker = Worker(fhir)
    worker.start()

    def down(*_: Any) -> Any:
        raise UpstreamUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(fhir, "find", down)
        with pytest.raises(UpstreamUnavailable):
            worker.run()
    worker.run()
    assert statuses(fhir, *RESULTS) == {"entered-in-error"}
