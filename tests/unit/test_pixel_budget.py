"""How many pixels a worker holds at once, who is let in, and in which order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from batching import until

from models.runtime.budget import Hold, PixelBudget


class Studies:
    """Studies that come in and go when they are told to."""

    def __init__(self, budget: PixelBudget) -> None:
        self.budget = budget
        self.inside: dict[str, Hold] = {}
        self.order: list[str] = []
        self._ends: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}

    def come(self, name: str, size: int, *, urgent: bool = False) -> None:
        """Returns when the study is inside or waits."""
        self._ends[name] = threading.Event()

        def work() -> None:
            with self.budget.hold(size, urgent=urgent) as hold:
                self.inside[name] = hold
                self.order.append(name)
                assert self._ends[name].wait(20)
                del self.inside[name]

        before = self.budget.waiting
        self._threads[name] = threading.Thread(target=work, daemon=True)
        self._threads[name].start()
        until(lambda: name in self.inside or self.budget.waiting > before)

    def go(self, *names: str) -> None:
        for name in names:
            until(lambda name=name: name in self.inside)  # type: ignore[misc]
            self._ends[name].set()
            self._threads[name].join(20)

    def settled(self, *names: str) -> None:
        """These are inside, and the others are not."""
        until(lambda: set(self.inside) == set(names))


@pytest.fixture
def studies() -> Studies:
    return Studies(PixelBudget(100))


def test_studies_come_in_while_there_is_room(studies: Studies) -> None:
    studies.come("a", 60)
    studies.come("b", 40)
    studies.come("c", 1)
    studies.settled("a", "b")
    assert (studies.budget.held, studies.budget.waiting) == (100, 1)
    studies.go("b")
    studies.settled("a", "c")
    studies.go("a", "c")
    assert (studies.budget.held, studies.budget.waiting) == (0, 0)


def test_a_small_one_does_not_pass_a_large_one(studies: Studies) -> None:
    """Else a large study would wait until no small ones come any more."""
    studies.come("a", 60)
    studies.come("large", 90)
    studies.come("small", 10)
    studies.settled("a")
    studies.go("a")
    studies.settled("large", "small")
    assert studies.order[:2] == ["a", "large"]
    studies.go("large", "small")


def test_one_larger_than_the_budget_is_let_in_alone(studies: Studies) -> None:
    studies.come("a", 10)
    studies.come("huge", 1000)
    studies.come("b", 10)
    studies.settled("a")
    studies.go("a")
    studies.settled("huge")
    studies.go("huge")
    studies.settled("b")
    studies.go("b")


def test_urgent_ones_go_first_and_leave_a_share(studies: Studies) -> None:
    studies.come("a", 100)
    studies.come("calm", 100)
    names = [f"urgent {number}" for number in range(9)]
    for name in names:
        studies.come(name, 100, urgent=True)
    studies.go("a")
    for _ in range(10):
        until(lambda: bool(studies.inside))
        studies.go(*studies.inside)
    assert studies.order == ["a", *names[:7], "calm", *names[7:]]


def test_an_estimate_is_corrected(studies: Studies) -> None:
    studies.come("a", 80)
    studies.come("b", 50)
    studies.settled("a")
    studies.inside["a"].correct(50)
    studies.settled("a", "b")
    # More than was thought: nobody is put out, nobody else comes in.
    studies.inside["a"].correct(200)
    assert studies.budget.held == 250
    studies.come("c", 1)
    studies.go("b")
    studies.settled("a")
    studies.go("a")
    studies.settled("c")
    assert studies.budget.held == 1
    studies.go("c")
    assert studies.budget.held == 0


def test_an_error_inside_gives_everything_back() -> None:
    budget = PixelBudget(100)
    with pytest.raises(KeyError), budget.hold(70) as hold:
        hold.correct(90)
        assert (hold.size, budget.held) == (90, 90)
        raise KeyError
    assert budget.held == 0


@pytest.mark.parametrize("size", [0, -1])
def test_a_budget_of_nothing_is_a_mistake(size: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        PixelBudget(size)


def test_negative_sizes_are_mistakes() -> None:
    budget = PixelBudget(1)

    def enter() -> None:
        with budget.hold(-1):
            pass

    def correct() -> None:
        with budget.hold(1) as hold:
            hold.correct(-1)

    wrong: list[Callable[[], Any]] = [enter, correct]
    for call in wrong:
        with pytest.raises(ValueError, match="negative"):
            call()
    assert budget.held == 0


def test_many_threads_never_hold_too_much() -> None:
    budget, most = PixelBudget(100), list[int]()

    def work(seed: int) -> None:
        for turn in range(40):
            with budget.hold(10 + (7 * seed + turn) % 50, urgent=seed == 3):
                most.append(budget.held)
                time.sleep(0.0005)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert budget.held == budget.waiting == 0
    assert 60 <= max(most) <= 100
