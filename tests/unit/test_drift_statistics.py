"""Statistics of monitoring against scipy, published examples, and simulations of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ks_2samp

from models.monitoring.paired import (
    LEAST_PAIRS,
    paired_categories,
    paired_numbers,
    paired_refusals,
)
from models.monitoring.rates import holm, newcombe, rate_change, wilson
from models.monitoring.stability import number_change, pooled, psi, psi_interval, share_change


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (81, 263), (1, 29)])
def test_wilson_is_that_of_scipy(count: int, total: int) -> None:
    theirs = binomtest(count, total).proportion_ci(method="wilson")
    ours = wilson(count, total)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


@pytest.mark.parametrize(("count", "total"), [(0, 0), (-1, 4), (5, 4)])
def test_a_rate_of_nothing_is_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(count, total)


def test_newcombe_is_as_published() -> None:
    """Table II of Newcombe 1998, method 10: 56/70 against 48/80, and 10/10 against 0/10."""
    low, high = newcombe(56, 70, 48, 80)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    low, high = newcombe(10, 10, 0, 10)
    assert (round(low, 4), round(high, 4)) == (0.6075, 1.0)


def test_the_interval_of_a_difference_covers_it() -> None:
    random = np.random.default_rng(1)
    covered = sum(
        low <= 0.2 <= high
        for low, high in (
            newcombe(int(now), 80, int(before), 120)
            for now, before in zip(
                random.binomial(80, 0.3, 1000), random.binomial(120, 0.1, 1000), strict=True
            )
        )
    )
    # 95 % of 1000 within four standard errors.
    assert 922 <= covered <= 978


def test_a_changed_rate_has_a_small_p_and_an_unchanged_one_none() -> None:
    changed = rate_change(5, 200, 30, 100)
    assert changed.difference == pytest.approx(0.275)
    assert changed.p < 1e-6
    assert changed.interval.low > 0.15
    assert rate_change(10, 100, 10, 100).p == pytest.approx(1.0)


def test_holm_multiplies_and_never_falls() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_psi_of_known_shares() -> None:
    """Large counts, where half a count in each bin does not matter."""
    before, now = np.array([300_000, 700_000]), np.array([500_000, 500_000])
    expected = 0.2 * math.log(0.5 / 0.3) - 0.2 * math.log(0.5 / 0.7)
    assert psi(before, now) == pytest.approx(expected, rel=1e-4)
    assert psi(before, before) == 0
    assert psi(before, now) == psi(now, before)


def test_an_empty_bin_makes_a_large_and_finite_index() -> None:
    assert 2 < psi(np.array([100, 0]), np.array([50, 50])) < 4


@pytest.mark.parametrize(
    ("shift", "sizes"), [(0.0, (300, 300)), (0.5, (300, 200)), (0.8, (100, 60))]
)
def test_the_interval_covers_the_true_index(shift: float, sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    before = np.full(10, 0.1)
    now = before * np.exp(shift * np.linspace(-1, 1, 10))
    now /= now.sum()
    true = float(((now - before) * np.log(now / before)).sum())
    covered = 0
    for _ in range(200):
        drawn = random.multinomial(sizes[0], before), random.multinomial(sizes[1], now)
        low, high = psi_interval(*drawn, resamples=300)
        covered += low <= true <= high
    assert covered >= 186, "95 % less two standard errors"


def test_rare_categories_are_one_bin() -> None:
    table = pooled({"a": 90, "b": 8, "c": 1, "d": 1}, {"a": 45, "e": 3, "b": 2})
    assert table.tolist() == [[90, 10], [45, 5]]
    assert pooled({"a": 9}, {"a": 7}).tolist() == [[9], [7]]


def test_shares_are_shown_as_they_are() -> None:
    found = share_change({"GE": 80, "X": 1, "SIEMENS": 19}, {"SIEMENS": 50})
    assert list(found.shares) == ["GE", "SIEMENS", "X"]
    assert found.shares["SIEMENS"] == (0.19, 1.0)
    assert found.psi > 1
    assert found.p < 1e-10
    same = share_change({"GE": 50}, {"GE": 70})
    assert (same.psi, same.p) == (0, 1)
    with pytest.raises(ValueError, match="nothing"):
        share_change({}, {"GE": 1})


def test_kolmogorov_smirnov_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    before, now = random.normal(0, 1, 150), random.normal(0.7, 1, 80)
    found, theirs = number_change(before, now), ks_2samp(before, now)
    assert (found.ks, found.p) == (theirs.statistic, theirs.pvalue)
    assert found.before == tuple(np.quantile(before, (0.05, 0.25, 0.5, 0.75, 0.95)))
    # Two normal distributions: the index over many bins tends to the squared difference.
    assert found.interval.low < 0.7**2 < found.interval.high


def test_numbers_of_few_values_are_counted_by_value() -> None:
    """A count that is nearly always 0 has no deciles."""
    same = number_change([0.0] * 90 + [1.0] * 10, [0.0] * 45 + [1.0] * 5)
    more = number_change([0.0] * 90 + [1.0] * 10, [0.0] * 25 + [1.0] * 25)
    assert same.psi < 0.01
    assert more.psi > 0.25
    assert number_change([0.0] * 50, [0.0] * 40 + [3.0] * 10).psi > 0.25


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_number_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        number_change(bad, [1.0])


def test_tests_keep_their_level_without_a_change_and_find_a_change() -> None:
    random = np.random.default_rng(4)
    level, runs = 0.05, 400
    false = true = by_share = 0
    for _ in range(runs):
        before, now = random.gamma(2, 3, 200), random.gamma(2, 3, 100)
        false += number_change(before, now, resamples=10).p < level
        true += number_change(before, now + 3, resamples=10).p < level
        counts = [dict(enumerate(random.multinomial(size, [0.5, 0.3, 0.2]))) for size in (200, 100)]
        named = [{str(key): int(n) for key, n in count.items()} for count in counts]
        by_share += share_change(*named, resamples=10).p < level
    most = runs * level + 3 * math.sqrt(runs * level * (1 - level))
    assert false <= most
    assert 0 < by_share <= most
    assert true >= 0.99 * runs


def test_paired_numbers_are_those_of_bland_and_altman() -> None:
    """Peak flow by two meters, Bland and Altman 1986, Lancet, table 1: first readings."""
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = paired_numbers(mini, wright)
    assert found.count == 17
    assert round(found.bias, 1) == -2.1
    assert found.limits is not None
    deviation = (found.limits.high - found.limits.low) / 2 / 1.96
    assert round(deviation, 1) == 38.8
    assert found.interval is not None
    assert [round(end, 1) for end in found.interval] == [-22.0, 17.8]


def test_few_pairs_have_no_limits() -> None:
    found = paired_numbers([1.0, 2.0], [1.0, 2.5])
    assert (found.bias, found.equal, found.smallest, found.largest) == (0.25, 1, 0, 0.5)
    assert found.limits is None
    assert found.limits_error is None
    assert paired_numbers([1.0], [2.0]).interval is None
    enough = paired_numbers([0.0] * LEAST_PAIRS, [1.0] * LEAST_PAIRS)
    assert enough.limits == (1, 1)
    with pytest.raises(ValueError, match="pairs"):
        paired_numbers([], [])


def test_agreement_of_categories() -> None:
    """Cohen's kappa of a table whose value is known: 20 5 / 10 15 is 0.4."""
    pairs = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    found = paired_categories(pairs)
    assert found.kappa == pytest.approx(0.4)
    assert (found.count, found.agree) == (50, 35)
    assert found.changes == (("b", "a", 10), ("a", "b", 5))
    assert paired_categories([("a", "a")]).kappa is None
    with pytest.raises(ValueError, match="at least one"):
        paired_categories([])


def test_refusals_are_compared_by_mcnemar() -> None:
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 9 + [(False, False)] * 40
    found = paired_refusals(pairs)
    assert (found.count, found.both, found.first_only, found.second_only) == (53, 3, 1, 9)
    assert found.p == pytest.approx(22 / 1024)
    assert paired_refusals([(False, False)]).p == 1
