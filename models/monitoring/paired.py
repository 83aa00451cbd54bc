"""Two versions on the same images: how far their numbers, categories and refusals differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.monitoring.rates import Interval, wilson

#: Fewest pairs for limits of agreement: with fewer they are themselves unknown within their
#: own size (Bland and Altman 1986).
LEAST_PAIRS: Final = 10

#: Standard deviations of the limits of agreement, within which 95 % of differences lie.
LIMITS: Final = 1.96


@dataclass(frozen=True, slots=True)
class PairedNumbers:
    """Differences of a number, second minus first (Bland and Altman 1986).

    Attributes:
        count: pairs.
        equal: pairs whose numbers are the same.
        bias, interval: mean difference and its interval by t; the interval of a single pair
            is None.
        smallest, largest: differences.
        limits: bias ± 1.96 standard deviations; None below `LEAST_PAIRS`.
        limits_error: standard error of either limit, sqrt(1/n + 1.96²/2(n-1)) sd (Bland and
            Altman 1999, doi 10.1177/096228029900800204); None as above.
    """

    count: int
    equal: int
    bias: float
    interval: Interval | None
    smallest: float
    largest: float
    limits: Interval | None
    limits_error: float | None


@dataclass(frozen=True, slots=True)
class PairedCategories:
    """Agreement of a category.

    Attributes:
        count: pairs.
        agree: pairs with the same category.
        interval: of the share that agrees, by Wilson.
        kappa: Cohen's, unweighted; None where chance alone would agree always.
        changes: (first, second) to number of pairs that differ so, most frequent first.
    """

    count: int
    agree: int
    interval: Interval
    kappa: float | None
    changes: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class PairedRefusals:
    """Who withheld a result.

    Attributes:
        count: pairs.
        both, first_only, second_only: pairs in which that one withheld it.
        p: of no difference, by the exact test of McNemar.
    """

    count: int
    both: int
    first_only: int
    second_only: int
    p: float


def paired_numbers(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> PairedNumbers:
    """Compare numbers of the same images.

    Raises:
        ValueError: no pair, or not as many of one as of the other.
    """
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    count = len(first)
    if not count or len(second) != count:
        raise ValueError("numbers are compared in pairs")
    bias = float(differences.mean())
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    enough = count >= LEAST_PAIRS
    reach = LIMITS * deviation
    error = deviation * math.sqrt(1 / count + LIMITS**2 / (2 * (count - 1))) if enough else None
    return PairedNumbers(
        count,
        int((differences == 0).sum()),
        bias,
        _mean_interval(bias, deviation, count, level) if count > 1 else None,
        float(differences.min()),
        float(differences.max()),
        Interval(bias - reach, bias + reach) if enough else None,
        error,
    )


def paired_categories(pairs: Iterable[tuple[str, str]], level: float = 0.95) -> PairedCategories:
    """Compare categories of the same images.

    Raises:
        ValueError: no pair.
    """
    counts = Counter(pairs)
    total = sum(counts.values())
    agree = sum(n for (one, other), n in counts.items() if one == other)
    firsts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for (one, other), n in counts.items():
        firsts[one] += n
        seconds[other] += n
    chance = sum(firsts[name] * seconds[name] for name in firsts)
    by_chance = chance / total**2 if total else 1.0
    kappa = None if chance == total**2 else (agree / total - by_chance) / (1 - by_chance)
    changes = [(one, other, n) for (one, other), n in counts.items() if one != other]
    return PairedCategories(
        total,
        agree,
        wilson(agree, total, level),
        kappa,
        tuple(sorted(changes, key=lambda change: (-change[2], change[:2]))),
    )


def paired_refusals(pairs: Iterable[tuple[bool, bool]]) -> PairedRefusals:
    """Compare who withheld its result."""
    from scipy.stats import binomtest

    counts = Counter(pairs)
    first, second = counts[True, False], counts[False, True]
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return PairedRefusals(sum(counts.values()), counts[True, True], first, second, p)


def _mean_interval(mean: float, deviation: float, count: int, level: float) -> Interval:
    from scipy.stats import t

    reach = float(t.ppf(0.5 + level / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean - reach, mean + reach)
