"""Invented samples of model versions whose distributions are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np

from fhir_ext.store.sample_tables import ModelSample
from fhir_ext.store.tables import ReviewOutcome

SERVICE, VERSION, SETTINGS_HASH = "lung-density", "1.0.0", "5e" * 32
DAY = timedelta(days=1)

#: Start of the reference of every test.
FIRST = datetime(2026, 1, 1, tzinfo=UTC)

SCANNERS = {"SOMATOM go.Top": 0.7, "Revolution CT": 0.3}
AGES = {"50-59": 0.3, "60-69": 0.5, "70-79": 0.2}


def today() -> datetime:
    """Where the window of a comparison ends: the whole days before now, whatever the hour is."""
    return datetime.combine(datetime.now(UTC).date(), time(), UTC)


def samples(
    count: int,
    begin: datetime = FIRST,
    days: float = 28,
    *,
    seed: int = 0,
    scanners: Mapping[str, float] = SCANNERS,
    shift: float = 0.0,
    refused: float = 0.1,
    densities: Sequence[float] = (0.4, 0.4, 0.2),
    **changes: Any,
) -> list[ModelSample]:
    """Samples spread evenly over some days.

    Args:
        scanners: name to probability.
        shift: of the number, in its standard deviations.
        refused: probability that the kernel is refused.
        densities: probabilities of the categories a, b and c.
        changes: further values of every sample.
    """
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        rule = ["kernel"] if random.random() < refused else []
        mix = {
            "scanner": _drawn(random, scanners),
            "age-band": _drawn(random, AGES),
            "sex": "F" if random.random() < 0.5 else "M",
        }
        value = float(random.normal(shift, 1))
        category = _drawn(random, dict(zip("abc", densities, strict=True)))
        said = {"numbers": {"laa-950/lungs": value}, "categories": {"density/breasts": category}}
        values: dict[str, Any] = {
            "inference_key": f"{seed}-{begin:%Y%m%d}-{number}",
            "role": "active",
            "pair": f"pair-{seed}-{begin:%Y%m%d}-{number}",
            "service": SERVICE,
            "version": VERSION,
            "settings_hash": SETTINGS_HASH,
            "at": begin + DAY * days * number / count,
            "status": "refused" if rule else "done",
            "rules": rule,
            "mix": mix,
            "latency_seconds": float(random.gamma(4, 0.5)),
            **({} if rule else said),
        }
        made.append(ModelSample(**{**values, **changes}))
    return made


def reviews(outcomes: Sequence[str], at: datetime, name: str = "r") -> list[ReviewOutcome]:
    """Decided reviews of the version, a minute apart."""
    return [
        ReviewOutcome(
            task_id=f"{name}-{at:%Y%m%d}-{number}",
            service=SERVICE,
            model_id=SERVICE,
            model_version=VERSION,
            settings_hash=SETTINGS_HASH,
            outcome=outcome,
            differences=[{"name": "laa-950", "region": "lungs", "difference": 1.5}]
            if outcome == "modify"
            else [],
            decided_at=at + timedelta(minutes=number),
        )
        for number, outcome in enumerate(outcomes)
    ]


def _drawn(random: np.random.Generator, chances: Mapping[str, float]) -> str:
    return str(random.choice(list(chances), p=list(chances.values())))
