"""The access journal: what `note` took arrives in the queue, whatever dies in between."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import noting
import orjson
import pytest
from noting import FLUSH, record

from fhir_ext.audit.journal import AccessJournal
from fhir_ext.audit.segments import Segment, backlog, line_of, record_of
from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.settings import AuditSettings

Json = dict[str, Any]


class Queue:
    """A durable queue as the journal sees it: down or up, and a known key changes nothing."""

    def __init__(self) -> None:
        self.chores: dict[str, list[Json]] = {}
        self.down = False
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self, key: str, records: list[Json]) -> None:
        with self.lock:
            self.calls += 1
            if self.down:
                raise ConnectionError("down")
            assert self.chores.setdefault(key, records) == records

    @property
    def ids(self) -> list[str]:
        return [item["request_id"] for chore in self.chores.values() for item in chore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def journals(folder: Path) -> Iterator[Callable[..., AccessJournal]]:
    """Opens journals on the folder; closes them at the end."""
    opened = []

    def start(queue: Queue, **changes: Any) -> AccessJournal:
        settings = AuditSettings(**{"journal": folder, "flush_interval": FLUSH, **changes})
        journal = AccessJournal(settings, queue)
        journal.start()
        opened.append(journal)
        return journal

    yield start
    for journal in opened:
        journal.close(1)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def numbers(count: int, first: int = 0) -> list[str]:
    return [f"{number:08d}" for number in range(first, first + count)]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.stat().st_size]


def test_what_is_noted_arrives_once_and_the_file_goes(folder: Path, journals) -> None:
    queue = Queue()
    journal = journals(queue)
    for number in range(250):
        journal.note(record(number))
    wait_for(lambda: len(queue.ids) == 250)
    assert queue.ids == numbers(250)
    assert record_of(next(iter(queue.chores.values()))[0]) == record(0)
    wait_for(lambda: not files(folder))


def test_files_are_for_this_user_only(folder: Path, journals) -> None:
    folder.mkdir(mode=0o755, parents=True)
    journals(Queue()).note(record(1))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_long_segment_is_handed_over_in_parts(folder: Path, journals) -> None:
    queue = Queue()
    queue.down = True
    journal = journals(queue, batch=40)
    for number in range(100):
        journal.note(record(number))
    queue.down = False
    journal.close()
    assert sorted(queue.ids) == numbers(100)
    assert max(len(chore) for chore in queue.chores.values()) <= 40
    assert backlog(folder).segments == 0


def test_parts_of_another_size_have_other_keys(folder: Path, journals) -> None:
    """A restart with another `batch` must not give a known key to other records."""
    half = Queue()
    folder.mkdir()
    segment = Segment(folder)
    for number in range(100):
        segment.append(line_of(record(number)))
    segment.close()

    def dies_after_the_first(key: str, records: list[Json]) -> None:
        if half.chores:
            raise ConnectionError
        half(key, records)

    first = AccessJournal(
        AuditSettings(journal=folder, flush_interval=FLUSH, batch=30), dies_after_the_first
    )
    first.start()
    wait_for(lambda: half.chores)
    first.close(0.1)
    journals(half, batch=60)
    wait_for(lambda: set(half.ids) == set(numbers(100)))


def test_a_huge_query_is_a_part_of_its_own(journals) -> None:
    queue = Queue()
    queue.down = True
    journal = journals(queue)
    for number in range(3):
        journal.note(record(number, query="x" * 700_000))
    queue.down = False
    journal.close()
    assert sorted(queue.ids) == numbers(3)
    assert {len(chore) for chore in queue.chores.values()} == {1}


def test_a_queue_that_is_down_keeps_everything_in_few_files(folder: Path, journals) -> None:
    queue = Queue()
    queue.down = True
    journal = journals(queue)
    for number in range(300):
        journal.note(record(number))
        time.sleep(0.001)
    waiting = backlog(folder)
    assert waiting.segments <= 2
    assert waiting.bytes > 300 * 100
    calls = queue.calls
    time.sleep(0.3)
    # 15 flush intervals, but the pause doubles.
    assert queue.calls - calls < 8
    queue.down = False
    wait_for(lambda: len(queue.ids) == 300)
    assert sorted(queue.ids) == numbers(300)


def test_close_leaves_what_cannot_be_handed_over(folder: Path, journals) -> None:
    queue = Queue()
    queue.down = True
    journal = journals(queue)
    journal.note(record(1))
    begin = time.monotonic()
    journal.close(0.3)
    assert time.monotonic() - begin < 2
    assert backlog(folder).segments == 1
    with pytest.raises(UpstreamUnavailable):
        journal.note(record(2))
    after = Queue()
    journals(after)
    wait_for(lambda: after.ids == numbers(1, 1))


def killed(folder: Path, acknowledged: Path, after: Callable[[], bool], count: int) -> None:
    """A process that notes, killed once `after` says so."""
    child = subprocess.Popen(
        [sys.executable, noting.__file__, str(folder), str(count), str(acknowledged)]
    )
    try:
        wait_for(after, 30)
        assert child.poll() is None
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("least", [1, 700, 3000])
def test_a_killed_process_loses_nothing(folder: Path, tmp_path: Path, journals, least) -> None:
    acknowledged = tmp_path / "acknowledged"

    def enough() -> bool:
        return acknowledged.exists() and acknowledged.stat().st_size >= 9 * least

    killed(folder, acknowledged, enough, 10_000_000)
    answered = set(acknowledged.read_text().split())
    assert len(answered) >= least
    queue = Queue()
    journals(queue)
    wait_for(lambda: answered <= set(queue.ids))
    # At most the one access that was written down and not yet answered.
    assert len(set(queue.ids) - answered) <= 1
    wait_for(lambda: not files(folder))


def test_a_peer_takes_up_what_a_dead_process_left(folder: Path, tmp_path: Path, journals) -> None:
    queue = Queue()
    peer = journals(queue)
    acknowledged = tmp_path / "acknowledged"
    killed(
        folder,
        acknowledged,
        lambda: acknowledged.exists() and acknowledged.read_text().endswith("all\n"),
        50,
    )
    peer.note(record(99))
    wait_for(lambda: sorted(queue.ids) == [*numbers(50), f"{99:08d}"])


def test_two_live_processes_leave_each_other_alone(folder: Path, journals) -> None:
    queue = Queue()
    queue.down = True
    one, two = journals(queue), journals(queue)
    for number in range(0, 200, 2):
        one.note(record(number))
        two.note(record(number + 1))
    queue.down = False
    wait_for(lambda: len(queue.ids) >= 200)
    assert sorted(queue.ids) == numbers(200)


def test_a_torn_line_is_counted_and_the_rest_arrives(folder: Path, journals) -> None:
    folder.mkdir()
    segment = Segment(folder)
    segment.append(line_of(record(1)))
    segment.append(line_of(record(2))[:50])
    segment.close()
    queue = Queue()
    journal = journals(queue)
    wait_for(lambda: queue.ids == numbers(1, 1))
    wait_for(lambda: journal.torn == 1)
    assert journal.damaged == 0
    assert not files(folder)


def test_what_a_disk_damaged_is_kept_for_a_human(folder: Path, journals) -> None:
    folder.mkdir()
    segment = Segment(folder)
    for line in (line_of(record(1)), b"\0\0\0\n", b"[]\n", line_of(record(2))):
        segment.append(line)
    segment.close()
    queue = Queue()
    journal = journals(queue)
    wait_for(lambda: queue.ids == numbers(2, 1))
    wait_for(lambda: journal.damaged == 2)
    assert backlog(folder).damaged == 1


def test_a_full_disk_refuses_and_keeps_what_it_took(folder: Path, journals) -> None:
    queue = Queue()
    queue.down = True
    journal = journals(queue)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    taken = []
    try:
        with pytest.raises(UpstreamUnavailable) as refused:
            for number in range(100):
                journal.note(record(number))
                taken.append(f"{number:08d}")
        assert 1 <= len(taken) < 20
        assert refused.value.status == 503
        assert refused.value.code == "audit-unavailable"
        # A shorter line that still fits does not follow half of the longer one.
        with pytest.raises(UpstreamUnavailable):
            journal.note(record(50, query="x" * 3000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.note(record(60))
    taken.append(f"{60:08d}")
    queue.down = False
    wait_for(lambda: sorted(queue.ids) == taken)
    assert (journal.torn, journal.damaged) == (0, 0)


def test_nothing_is_begun_on_a_nearly_full_disk(folder: Path, journals, monkeypatch) -> None:
    journal = journals(Queue())
    journal.ready()
    disk = os.statvfs(folder)
    monkeypatch.setattr("fhir_ext.audit.journal.RESERVE_BYTES", disk.f_blocks * disk.f_frsize + 1)
    with pytest.raises(UpstreamUnavailable) as refused:
        journal.ready()
    assert refused.value.code == "audit-unavailable"
    # What was begun before can still be noted.
    journal.note(record(1))


def test_a_folder_that_cannot_be_made_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = AccessJournal(AuditSettings(journal=tmp_path / "file" / "audit"), Queue())
    with pytest.raises(UpstreamUnavailable):
        journal.start()
    with pytest.raises(UpstreamUnavailable):
        journal.note(record(1))
    with pytest.raises(UpstreamUnavailable):
        journal.ready()


def test_half_a_surrogate_pair_does_not_stop_a_record() -> None:
    line = line_of(record(1, subject="a\ud800b", personas=("x\udfff",)))
    assert record_of(orjson.loads(line)) == record(1, subject="a?b", personas=("x?",))


def test_note_is_quick(folder: Path, journals) -> None:
    queue = Queue()
    journal = journals(queue, flush_interval=timedelta(seconds=0.25))
    access = record(1, query="patient=1&code=http%3A%2F%2Floinc.org%7C2093-3")
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(1000):
            journal.note(access)
        took.append((time.perf_counter() - begin) / 1000)
    # 10 to 20 microseconds on an idle machine; a blocking fsync would take a thousand.
    assert min(took) < 200e-6
