"""Rates of yes and no: intervals, and how a rate changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RateChange:
    """How a rate changed from a reference to now.

    Attributes:
        before, of_before: how many of how many in the reference.
        now, of_now: the same now.
        difference: rate now minus rate before.
        interval: of the difference, by Newcombe.
        p: of no difference, by Fisher's exact test, two-sided.
    """

    before: int
    of_before: int
    now: int
    of_now: int
    difference: float
    interval: Interval
    p: float


def wilson(count: int, total: int, level: float = 0.95) -> Interval:
    """Score interval of a rate (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    Raises:
        ValueError: `total` is not positive, or `count` is not within it.
    """
    if not 0 <= count <= total or total <= 0:
        raise ValueError("a rate is some of at least one")
    z = _z(level)
    rate = count / total
    centre = rate + z * z / (2 * total)
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding may leave the ends of 0 and of 1 a little off.
    low = 0.0 if count == 0 else (centre - half) / scale
    high = 1.0 if count == total else (centre + half) / scale
    return Interval(low, high)


def newcombe(now: int, of_now: int, before: int, of_before: int, level: float = 0.95) -> Interval:
    """Interval of the rate now minus the rate before, from two Wilson intervals.

    Method 10 of Newcombe 1998, Statistics in Medicine 17:873-890.
    """
    first, second = now / of_now, before / of_before
    a, b = wilson(now, of_now, level), wilson(before, of_before, level)
    difference = first - second
    return Interval(
        difference - math.hypot(first - a.low, b.high - second),
        difference + math.hypot(a.high - first, second - b.low),
    )


def rate_change(
    before: int, of_before: int, now: int, of_now: int, level: float = 0.95
) -> RateChange:
    """How a rate changed.

    Raises:
        ValueError: one of the totals is not positive.
    """
    from scipy.stats import fisher_exact

    interval = newcombe(now, of_now, before, of_before, level)
    table = [[now, of_now - now], [before, of_before - before]]
    return RateChange(
        before,
        of_before,
        now,
        of_now,
        now / of_now - before / of_before,
        interval,
        float(fisher_exact(table).pvalue),
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold for all tests together: the chance of any false one stays at alpha.

    Holm 1979, Scand J Stat 6:65-70; no assumption about how the tests depend on each other.

    Returns:
        Adjusted p by name.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda item: p[item])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return adjusted


def _z(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2))
