"""Counts per model version: from Tasks to rows to what the command shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from result_samples import result
from review_samples import (
    ANN,
    DECIDED,
    MemoryFhir,
    Queue,
    allow,
    member_id,
    request,
    stored,
    task_of,
)
from typer.testing import CliRunner

from fhir_ext.cli import app
from fhir_ext.store.agreement import agreement
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from fhir_ext.store.tables import ReviewOutcome
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.service import ReviewService
from subscriptions.review import CURSOR, follow_reviews

REGISTRY = Registry()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    return Repository(engine)


def row(task_id: str, outcome: str, *differences: tuple[str, float | None], **changes: Any):
    return ReviewOutcome(
        **{
            "task_id": task_id,
            "service": "lung-density",
            "model_id": "lung-density",
            "model_version": "1.0.0",
            "settings_hash": "5e" * 32,
            "outcome": outcome,
            "differences": [
                {"name": name, "region": "lungs", "difference": difference}
                for name, difference in differences
            ],
            "decided_at": DECIDED,
            **changes,
        }
    )


def test_counts_are_per_version_and_per_number() -> None:
    one, two = agreement(
        [
            row("1", "accept"),
            row("2", "modify", ("laa-950", 2.0), ("perc15", None)),
            row("3", "modify", ("laa-950", -1.0)),
            row("4", "reject"),
            row("5", "accept", model_version="2.0.0"),
        ]
    )
    assert (one.model_version, dict(one.outcomes)) == (
        "1.0.0",
        {"accept": 1, "modify": 2, "reject": 1},
    )
    assert [(c.name, c.count, c.compared, c.mean_difference) for c in one.changed] == [
        ("laa-950", 2, 2, 0.5),
        ("perc15", 1, 0, 0.0),
    ]
    assert (two.model_version, dict(two.outcomes), two.changed) == ("2.0.0", {"accept": 1}, ())


def test_a_row_is_kept_once_per_task(repository: Repository) -> None:
    repository.record_review(row("1", "accept"))
    repository.record_review(row("1", "accept"))
    repository.record_review(row("2", "reject", model_id="other"))
    assert len(repository.reviews()) == 2
    assert [r.task_id for r in repository.reviews("other")] == ["2"]
    assert repository.review("3") is None
    found = repository.review("1")
    assert found is not None
    assert found.decided_at == DECIDED


class Paged(MemoryFhir):
    """Pages of one Task search, as the leader's loop asks for them."""

    asked: list[dict[str, Any]]

    def pages(self, resource_type: str, params: Any) -> Iterator[dict[str, Any]]:
        self.asked = [*getattr(self, "asked", []), dict(params)]
        found = [t for t in self.search(resource_type, {}) if t["status"] == params["status"]]
        for task in found:
            task["meta"]["lastUpdated"] = "2026-01-06T15:05:06.789+01:00"
            yield {"entry": [{"resource": task}]}


def test_rows_are_made_again_from_the_fhir_server(repository: Repository) -> None:
    of = result(model=REGISTRY.manifest("lung-density").identity())
    fhir = Paged(stored(of).store)
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    asked = request("modify", (member_id(of, "laa-950"), 3.5, "%"))
    service.review(task_of(of), ANN, asked, "1", allow)

    queue = Queue()
    overlap = timedelta(seconds=10)
    assert follow_reviews(fhir, queue, repository, overlap) == 1
    kept = repository.review(task_of(of))
    assert kept is not None
    assert (kept.outcome, kept.service) == ("modify", "lung-density")
    assert kept.differences == [{"name": "laa-950", "region": "lungs", "difference": 3.75}]
    assert kept.decided_at <= datetime.now(UTC)
    assert [name for name, *_ in queue.chores] == ["correct-sr"], "what nobody queued is queued"
    assert repository.cursor(CURSOR) == "2026-01-06T14:05:06.789000+00:00"

    follow_reviews(fhir, queue, repository, overlap)
    first, second = fhir.asked
    assert "_lastUpdated" not in first
    assert second["_lastUpdated"] == "ge2026-01-06T14:04:56.789000+00:00"
    assert repository.reviews() == [kept]


def test_a_task_that_only_looks_decided_is_left_alone(repository: Repository) -> None:
    """Whoever may write a Task could have results of any patient withdrawn from the archive."""
    of = result(model=REGISTRY.manifest("lung-density").identity())
    fhir = Paged(stored(of).store)
    asked = request("modify", (member_id(of, "laa-950"), 3.5, "%"))
    ReviewService(fhir, Queue(), REGISTRY, Metrics()).review(task_of(of), ANN, asked, "1", allow)
    task = fhir.read("Task", task_of(of))
    del task["identifier"], task["focus"], task["requester"]
    fhir.put(task)
    queue = Queue()
    assert follow_reviews(fhir, queue, repository, timedelta()) == 1
    assert (repository.reviews(), queue.chores) == ([], [])


def test_tasks_decided_by_others_are_left_alone(repository: Repository) -> None:
    fhir = Paged()
    fhir.put({"resourceType": "Task", "id": "t-1", "status": "completed"})
    queue = Queue()
    assert follow_reviews(fhir, queue, repository, timedelta()) == 1
    assert (repository.reviews(), queue.chores) == ([], [])


def test_the_command_shows_the_counts(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FHIR_EXT_DATABASE__URL", f"sqlite:///{tmp_path}/t.sqlite")
    monkeypatch.setenv("FHIR_EXT_INTAKE__HOOK_SECRET", "0123456789abcdef0123456789abcdef")
    runner = CliRunner()
    assert "nothing has been reviewed" in runner.invoke(app, ["model", "agreement"]).output
    repository.record_review(row("1", "modify", ("laa-950", 2.25)))
    shown = runner.invoke(app, ["model", "agreement", "lung-density"])
    assert shown.exit_code == 0, shown.output
    assert "laa-950 lungs: 1, mean difference +2.25" in shown.output
