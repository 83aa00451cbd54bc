"""Agreement of reviewers with model versions, counted from `ReviewOutcome` rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fhir_ext.store.tables import ReviewOutcome


@dataclass(frozen=True, slots=True)
class ChangedNumber:
    """How reviewers changed one number of a model version.

    Attributes:
        name, region: which number.
        count: reviews that changed or supplied it.
        compared: of these, how many replaced a number of the machine.
        mean_difference: machine minus human over those; 0 when there are none.
    """

    name: str
    region: str
    count: int
    compared: int
    mean_difference: float


@dataclass(frozen=True, slots=True)
class VersionAgreement:
    """What reviewers decided about one model version.

    Attributes:
        outcomes: code in the CodeSystem `review-outcome` to number of reviews.
        changed: sorted by name and region.
    """

    model_id: str
    model_version: str
    settings_hash: str
    outcomes: Mapping[str, int]
    changed: tuple[ChangedNumber, ...]


def agreement(rows: Iterable[ReviewOutcome]) -> tuple[VersionAgreement, ...]:
    """Counts per model version, sorted by model and version."""
    grouped: dict[tuple[str, str, str], list[ReviewOutcome]] = {}
    for row in rows:
        key = (row.model_id, row.model_version, row.settings_hash)
        grouped.setdefault(key, []).append(row)
    return tuple(
        VersionAgreement(*key, Counter(row.outcome for row in group), _changed(group))
        for key, group in sorted(grouped.items())
    )


def _changed(rows: Sequence[ReviewOutcome]) -> tuple[ChangedNumber, ...]:
    numbers: dict[tuple[str, str], list[float | None]] = {}
    for row in rows:
        for item in row.differences:
            key = (item["name"], item["region"])
            numbers.setdefault(key, []).append(item["difference"])
    found = []
    for (name, region), differences in sorted(numbers.items()):
        known = [value for value in differences if value is not None]
        mean = fmean(known) if known else 0.0
        found.append(ChangedNumber(name, region, len(differences), len(known), mean))
    return tuple(found)
