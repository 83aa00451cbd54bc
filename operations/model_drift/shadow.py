"""A shadow beside the version that wrote, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from fhir_ext.store.sample_tables import TOP_SCORE, ModelSample
from models.monitoring.paired import (
    PairedRefusals,
    paired_categories,
    paired_numbers,
    paired_refusals,
)
from operations.model_drift.report import ShadowReport

Pair = tuple[ModelSample, ModelSample]
Value = TypeVar("Value")


def compare_pairs(service: str, first: str, second: str, pairs: Sequence[Pair]) -> ShadowReport:
    """Differences of pairs of samples, second minus first.

    Args:
        first, second: the version that wrote, and the shadow.
        pairs: their samples of the same images.
    """
    numbers, categories = _both(pairs, _numbers), _both(pairs, _categories)
    return ShadowReport(
        service,
        first,
        second,
        len(pairs),
        {
            name: paired_numbers([one for one, _ in found], [other for _, other in found])
            for name, found in numbers.items()
        },
        {name: paired_categories(found) for name, found in categories.items()},
        {**_refusals(pairs, _numbers), **_refusals(pairs, _categories)},
        (_mean([one for one, _ in pairs]), _mean([other for _, other in pairs])),
    )


def _numbers(sample: ModelSample) -> Mapping[str, float]:
    return sample.numbers


def _categories(sample: ModelSample) -> Mapping[str, str]:
    return sample.categories


def _both(
    pairs: Sequence[Pair], values: Callable[[ModelSample], Mapping[str, Value]]
) -> dict[str, list[tuple[Value, Value]]]:
    """What both gave, by output."""
    found: dict[str, list[tuple[Value, Value]]] = {}
    for one, other in pairs:
        for name in sorted(values(one).keys() & values(other).keys()):
            found.setdefault(name, []).append((values(one)[name], values(other)[name]))
    return found


def _refusals(
    pairs: Sequence[Pair], values: Callable[[ModelSample], Mapping[str, object]]
) -> dict[str, PairedRefusals]:
    names = sorted({name for pair in pairs for sample in pair for name in values(sample)})
    # Where nothing was found there is no highest score, and nothing was withheld.
    names = [name for name in names if not name.endswith(f"/{TOP_SCORE}")]
    return {
        name: paired_refusals(
            (name not in values(one), name not in values(other)) for one, other in pairs
        )
        for name in names
    }


def _mean(samples: Sequence[ModelSample]) -> float | None:
    known = [s.latency_seconds for s in samples if s.latency_seconds is not None]
    return fmean(known) if known else None
