"""Whether a distribution stayed what it was: stability index, chi-squared, Kolmogorov-Smirnov."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.monitoring.rates import Interval

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

#: Added to each bin, so that an empty one has a logarithm (Krichevsky and Trofimov 1981).
PSEUDOCOUNT: Final = 0.5

#: Fewest expected in a bin of categories (Cochran 1954, doi 10.2307/3001616); rarer ones are
#: put together.
LEAST_EXPECTED: Final = 5.0

#: Numbers with no more distinct values than this are counted by value, others by decile.
MOST_VALUES: Final = 10

#: Quantiles by which a distribution is shown.
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class ShareChange:
    """How the shares of categories changed.

    Attributes:
        shares: category to (share before, share now), the most frequent first.
        psi, interval: population stability index and its confidence interval.
        p: of no change, by Pearson's chi-squared test.
    """

    shares: Mapping[str, tuple[float, float]]
    psi: float
    interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class NumberChange:
    """How the distribution of a number changed.

    Attributes:
        before, now: values at `QUANTILES`.
        psi, interval: population stability index over the deciles of the reference.
        ks, p: two-sample Kolmogorov-Smirnov statistic, and its p of no change.
    """

    before: tuple[float, ...]
    now: tuple[float, ...]
    psi: float
    interval: Interval
    ks: float
    p: float


def share_change(
    before: Mapping[str, int],
    now: Mapping[str, int],
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> ShareChange:
    """Compare two counts of categories.

    Raises:
        ValueError: one of them is empty.
    """
    from scipy.stats import chi2_contingency

    totals = sum(before.values()), sum(now.values())
    if not all(totals):
        raise ValueError("nothing to compare")
    names = sorted(before.keys() | now.keys(), key=lambda n: (-before.get(n, 0) - now.get(n, 0), n))
    shares = {n: (before.get(n, 0) / totals[0], now.get(n, 0) / totals[1]) for n in names}
    first, second = table = pooled(before, now)
    p = 1.0 if table.shape[1] < 2 else float(chi2_contingency(table, correction=False).pvalue)
    interval = psi_interval(first, second, level, resamples)
    return ShareChange(shares, psi(first, second), interval, p)


def number_change(
    before: Sequence[float],
    now: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> NumberChange:
    """Compare two samples of a number.

    Raises:
        ValueError: one of them is empty, or holds what is not a finite number.
    """
    from scipy.stats import ks_2samp

    first, second = np.asarray(before, np.float64), np.asarray(now, np.float64)
    if not (first.size and second.size and np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("nothing to compare, or not finite")
    bins, bins_now = _binned(first, second)
    tested = ks_2samp(first, second)
    return NumberChange(
        quantiles(first),
        quantiles(second),
        psi(bins, bins_now),
        psi_interval(bins, bins_now, level, resamples),
        float(tested.statistic),
        float(tested.pvalue),
    )


def quantiles(values: Sequence[float] | Numbers) -> tuple[float, ...]:
    """Values at `QUANTILES`, interpolated."""
    return tuple(float(value) for value in np.quantile(values, QUANTILES))


def psi(before: Counts, now: Counts) -> float:
    """Population stability index: sum of (now - before) ln(now / before) over shares of bins.

    The symmetrised Kullback-Leibler divergence (Jeffreys 1946). Without any change its mean
    is about (bins - 1) (1 / total before + 1 / total now) (Yurdakul 2018, Western Michigan
    University, dissertation 3208), so a small sample alone makes it large.
    """
    return float(_psi(before, now))


def psi_interval(
    before: Counts, now: Counts, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Bootstrap interval of the index; both samples are drawn again.

    Each draw adds the bias of the index once more, so the percentiles are moved back by twice
    the bias that is seen. In simulation it covers the true index at least as often as its
    level says; plain percentiles cover an index of 0 never.
    """
    random = np.random.default_rng(0)
    drawn = _psi(
        random.multinomial(before.sum(), before / before.sum(), resamples),
        random.multinomial(now.sum(), now / now.sum(), resamples),
    )
    bias = float(drawn.mean()) - psi(before, now)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(max(0.0, float(low) - 2 * bias), max(0.0, float(high) - 2 * bias))


def pooled(before: Mapping[str, int], now: Mapping[str, int]) -> Counts:
    """Counts (2, bins) in which categories too rare for a test are one bin."""
    names = sorted(before.keys() | now.keys())
    table = np.array([[counts.get(name, 0) for name in names] for counts in (before, now)])
    totals = table.sum(axis=1)
    expected = table.sum(axis=0) / totals.sum() * totals.min()
    rare = expected < LEAST_EXPECTED
    kept = table[:, ~rare]
    rest = table[:, rare].sum(axis=1, keepdims=True)
    return np.hstack([kept, rest]) if rest.any() else kept


def _binned(first: Numbers, second: Numbers) -> Counts:
    values = np.union1d(first, second)
    if values.size <= MOST_VALUES:
        counts = [dict(zip(*_counted(sample), strict=True)) for sample in (first, second)]
        return pooled(*counts)
    edges = np.unique(np.quantile(first, np.arange(0.1, 0.95, 0.1)))
    return np.array(
        [
            np.bincount(np.searchsorted(edges, sample, side="right"), minlength=edges.size + 1)
            for sample in (first, second)
        ]
    )


def _counted(sample: Numbers) -> tuple[list[str], list[int]]:
    values, counts = np.unique(sample, return_counts=True)
    return [repr(float(value)) for value in values], [int(count) for count in counts]


def _psi(before: Counts, now: Counts) -> Numbers:
    first, second = _shares(before), _shares(now)
    found: Numbers = ((second - first) * np.log(second / first)).sum(axis=-1)
    return found


def _shares(counts: Counts) -> Numbers:
    filled = counts + PSEUDOCOUNT
    shares: Numbers = filled / filled.sum(axis=-1, keepdims=True)
    return shares
