"""Which items share a batch, whose turn it is, and how long an idle device waits."""

from __future__ import annotations

import numpy as np
import pytest
from batching import Session, items

from models.runtime.base import ModelFailure
from models.runtime.batcher import Batcher, Turns
from models.runtime.calls import Batch, Call, joined

NET = Session()


def batcher(size: int = 4, wait_s: float = 0.01, shared: bool = True) -> Batcher:
    return Batcher("tiny", "1.0.0", "cpu", size=size, wait_s=wait_s, shared=shared)


def call(study: str, count: int, urgent: bool = False, width: int = 2) -> Call:
    return Call(NET, {"image": np.zeros((count, width), np.float32)}, study, urgent)


def filled(size: int, *calls: Call, now: float = 0.0, shared: bool = True) -> Batcher:
    found = batcher(size, shared=shared)
    for item in calls:
        found.add(item, now)
    return found


def shares(batch: Batch) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in batch.parts:
        found[part.call.study] = found.get(part.call.study, 0) + part.stop - part.start
    return found


def served(turns: Turns, queue: Batcher) -> list[dict[str, int]]:
    """Every batch until nothing waits."""
    found = []
    while buckets := queue.buckets():
        found.append(shares(turns.choose(buckets)[1]))
    return found


def test_studies_share_a_batch_evenly() -> None:
    queue = filled(6, call("a", 20), call("b", 2), call("c", 9))
    assert served(Turns(), queue) == [
        {"a": 2, "b": 2, "c": 2},
        {"a": 3, "c": 3},
        {"a": 3, "c": 3},
        {"a": 5, "c": 1},
        {"a": 6},
        {"a": 1},
    ]


def test_a_large_study_does_not_starve_a_small_one() -> None:
    """2,000 items wait when 10 come: these are done after twenty, not two thousand."""
    turns = Turns()
    large = call("large", 2000)
    queue = filled(1, large)
    for _ in range(5):
        turns.choose(queue.buckets())
    small = call("small", 10)
    queue.add(small, 0.0)
    count = 0
    while small.waiting:
        turns.choose(queue.buckets())
        count += 1
    assert count <= 20
    assert large.waiting >= 1985


def test_several_calls_of_one_study_are_one_study() -> None:
    queue = filled(4, call("a", 9), call("a", 9), call("a", 9), call("b", 9))
    assert served(Turns(), queue)[:3] == [{"a": 2, "b": 2}] * 3


def test_calls_without_a_study_are_studies_of_their_own() -> None:
    one, other = call("", 9), call("", 1)
    batch = Turns().choose(filled(4, one, other).buckets())[1]
    assert [part.call for part in batch.parts] == [one, other]
    assert len(batch.studies) == 2


def test_turns_hold_between_networks_of_a_device() -> None:
    turns = Turns()
    first, second = filled(4, call("a", 12)), filled(4, call("b", 12))
    order = []
    while buckets := [*first.buckets(), *second.buckets()]:
        order += shares(turns.choose(buckets)[1])
    assert order == ["a", "b"] * 3


def test_who_comes_back_at_once_does_not_get_every_turn() -> None:
    turns = Turns()
    queue = filled(1, call("waits", 10), call("returns", 1))
    order = []
    for _ in range(10):
        study = next(iter(shares(turns.choose(queue.buckets())[1])))
        order.append(study)
        if study == "returns":
            queue.add(call("returns", 1), 0.0)
    assert order.count("waits") == 5


def test_urgent_ones_go_first_and_leave_a_share() -> None:
    queue = filled(2, call("calm", 8), call("urgent", 64, urgent=True))
    found = served(Turns(), queue)
    assert found[:7] == [{"urgent": 2}] * 7
    assert found[7] == {"calm": 2}
    assert found.index({"calm": 2}, 8) == 15
    assert sum(batch.get("calm", 0) for batch in found) == 8


def test_room_that_urgent_ones_leave_is_used() -> None:
    batch = Turns().choose(filled(8, call("calm", 20), call("urgent", 3, True)).buckets())[1]
    assert shares(batch) == {"urgent": 3, "calm": 5}


def test_only_items_of_one_form_share_a_batch() -> None:
    queue = filled(8, call("a", 2), call("b", 2, width=3), call("c", 2))
    other_type = Call(NET, {"image": np.zeros((1, 2), np.float64)}, "d")
    queue.add(other_type, 0.0)
    assert served(Turns(), queue) == [{"a": 2, "c": 2}, {"b": 2}, {"d": 1}]


def test_sessions_are_not_mixed() -> None:
    """One was dropped while it was in use, and loaded anew."""
    queue = filled(8, call("a", 2))
    queue.add(Call(Session(), items(1, 2), "b"), 0.0)
    assert served(Turns(), queue) == [{"a": 2}, {"b": 2}]


def test_outputs_of_unknown_size_are_not_shared() -> None:
    queue = filled(8, call("a", 2), call("b", 2), shared=False)
    assert served(Turns(), queue) == [{"a": 2}, {"b": 2}]


def ready(queue: Batcher, now: float, idle_since: float = 0.0) -> float:
    (bucket,) = queue.buckets()
    return bucket.ready_at(now, idle_since)


def at(moment: float, item: Call) -> Call:
    item.entered = moment
    return item


def test_a_study_that_is_alone_does_not_wait() -> None:
    queue = filled(4, at(10.0, call("a", 1)), now=10.0)
    assert ready(queue, 10.0, 10.0) == 10.0


def test_an_idle_device_waits_for_a_study_that_may_come() -> None:
    queue = batcher(4, 0.01)
    queue.add(at(10.0, call("b", 4)), 10.0)
    Turns().choose(queue.buckets())
    queue.add(at(10.2, call("a", 1)), 10.2)
    assert ready(queue, 10.2, 10.1) == pytest.approx(10.21)
    # Counted from when the device had nothing to do.
    assert ready(queue, 10.5, 10.5) == pytest.approx(10.51)
    # What was there a second ago is not expected any more.
    assert ready(queue, 11.3, 11.3) == 11.3


def test_nobody_waits_for_who_is_there() -> None:
    queue = filled(4, call("a", 1), call("b", 1), now=10.0)
    assert ready(queue, 10.0, 10.0) == 10.0


def test_a_full_batch_and_an_urgent_one_do_not_wait() -> None:
    for item in (call("a", 4), call("a", 1, urgent=True)):
        queue = filled(4, call("b", 4), now=10.0)
        Turns().choose(queue.buckets())
        queue.add(item, 10.0)
        assert ready(queue, 10.0, 10.0) == 10.0


def test_the_wait_is_a_tenth_of_a_batch_at_most() -> None:
    queue = filled(4, call("a", 4))
    batch = Turns().choose(queue.buckets())[1]
    assert queue.patience == 0.01
    queue.ran(batch, 0.0, 0.02)
    assert queue.patience == pytest.approx(0.002)
    queue.ran(batch, 0.0, 60.0)
    assert queue.patience == 0.01


def test_outputs_go_back_in_the_order_of_the_items() -> None:
    one, other = Call(NET, items(1, 2, 3, 4, 5), "a"), Call(NET, items(6, 7), "b")
    queue = filled(3, one, other)
    turns = Turns()
    while buckets := queue.buckets():
        batch = turns.choose(buckets)[1]
        batch.deliver(batch.run())
    assert one.wait(lambda: 0.0)["pred"][:, 0].tolist() == [2, 4, 6, 8, 10]
    assert other.wait(lambda: 0.0)["pred"][:, 1].tolist() == [12, 14]


def test_an_error_takes_the_rest_of_a_call_out_of_the_queue() -> None:
    ends: list[str] = []
    bad = Call(NET, items(1, 2, 3, 4, 5), "a", end=lambda: ends.append("a"))
    queue = filled(2, bad)
    batch = Turns().choose(queue.buckets())[1]
    batch.deliver(ModelFailure("model-failed"))
    batch.deliver(ModelFailure("model-hung"))
    assert (queue.waiting, queue.buckets(), ends) == (0, [], ["a"])
    with pytest.raises(ModelFailure) as caught:
        bad.wait(lambda: 0.0)
    assert caught.value.code == "model-failed"


@pytest.mark.parametrize(
    "arrays",
    [{}, {"image": np.zeros((0, 2))}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.array(1.0)}],
)
def test_calls_that_are_none(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelFailure) as caught:
        Call(NET, arrays)
    assert caught.value.code == "model-input"


def test_parts_of_different_shapes_are_no_answer() -> None:
    with pytest.raises(ModelFailure) as caught:
        joined([{"pred": np.zeros((1, 2))}, {"pred": np.zeros((1, 3))}])
    assert caught.value.code == "model-output"


def test_only_the_last_turns_are_kept() -> None:
    turns = Turns()
    queue = filled(1, *[call(f"s{number}", 1) for number in range(1200)])
    while buckets := queue.buckets():
        turns.choose(buckets)
    assert len(turns._last) == 1000
    assert turns.of("s0") == -1
    assert turns.of("s1199") == 1200
