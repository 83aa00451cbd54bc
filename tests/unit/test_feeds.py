"""Where the bridge hears of changes: cursors, wiped stores, archives without a feed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from subscriptions.intake.feeds import OrthancFeed, QidoFeed


@pytest.fixture
def repository(tmp_path):
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield Repository(engine)
    engine.dispose()


def _change(study: str | None) -> SimpleNamespace:
    return SimpleNamespace(study_instance_uid=study)


def _page(*studies: str | None, last: int, done: bool = True, reset: bool = False):
    entries = tuple(_change(study) for study in studies)
    return SimpleNamespace(entries=entries, last=last, done=done, reset=reset)


@dataclass
class FakeOrthanc:
    """Pages by cursor, and the list of all studies."""

    pages: dict[int, SimpleNamespace]
    studies: list[SimpleNamespace] = field(default_factory=list)

    def changes(self, since: int) -> SimpleNamespace:
        return self.pages[since]

    def study_list(self):
        return iter(self.studies)


def test_pages_are_read_to_the_end_and_the_cursor_is_kept(repository) -> None:
    orthanc = FakeOrthanc(
        {0: _page("a", "a", None, last=3, done=False), 3: _page("b", last=4), 4: _page(last=4)}
    )
    feed = OrthancFeed(orthanc, repository)
    assert list(feed.changed()) == ["a", "b"]
    assert repository.cursor("archive/changes") == "4"
    assert list(OrthancFeed(orthanc, repository).changed()) == [], "over a restart too"


def test_the_cursor_does_not_pass_what_was_not_handled(repository) -> None:
    feed = OrthancFeed(FakeOrthanc({0: _page("a", "b", last=2)}), repository)
    taken = feed.changed()
    assert next(taken) == "a"
    taken.close()
    assert repository.cursor("archive/changes") is None


def test_a_wiped_store_is_compared_as_a_whole(repository) -> None:
    repository.set_cursor("archive/changes", "900")
    orthanc = FakeOrthanc(
        {900: _page(last=2, reset=True)},
        [SimpleNamespace(study_instance_uid="a", last_update="20260101T000000")],
    )
    assert list(OrthancFeed(orthanc, repository).changed()) == ["a"]
    assert repository.cursor("archive/changes") == "0"


def test_only_studies_that_differ_are_compared_again(repository) -> None:
    study = SimpleNamespace(study_instance_uid="a", last_update="20260101T000000")
    feed = OrthancFeed(FakeOrthanc({}, [study]), repository)
    for uid in feed.compare_all():
        repository.mark_study_changed(uid)
    assert list(feed.compare_all()) == []
    study.last_update = "20260202T000000"
    assert list(feed.compare_all()) == ["a"]


@dataclass
class FakeQido:
    """Studies with their instance counts, whatever the dates."""

    counts: dict[str, int]

    def search_studies(self, first, last):
        for uid, count in self.counts.items():
            yield SimpleNamespace(study_instance_uid=uid, instance_count=count)


def _drain(feed: QidoFeed, repository: Repository) -> list[str]:
    """As the bridge does: mark each study, then go on."""
    seen = []
    for uid in feed.changed():
        repository.mark_study_changed(uid)
        seen.append(uid)
    return seen


def test_without_a_feed_counts_tell_growth(repository) -> None:
    qido = FakeQido({"a": 10, "b": 5})
    feed = QidoFeed(qido, repository)
    assert _drain(feed, repository) == ["a", "b"]
    assert _drain(feed, repository) == []
    qido.counts["a"] = 11
    assert _drain(feed, repository) == ["a"]
    assert _drain(QidoFeed(qido, repository), repository) == [], "over a restart too"
