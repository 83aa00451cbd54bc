"""Comparisons of a version with its reference: shifts are found, chance is not, few say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from drift_samples import DAY, FIRST, SERVICE, SETTINGS_HASH, VERSION, reviews, samples

from fhir_ext.errors import NotFoundError
from fhir_ext.settings import MonitoringSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from fhir_ext.store.sample_tables import ModelSample
from fhir_ext.store.samples import SampledVersion, SampleStore
from operations.model_drift.alerts import KINDS, alerts_of, rows_by_kind, sentence
from operations.model_drift.compare import Seen, compare
from operations.model_drift.report import DriftReport, Span, as_json
from operations.model_drift.service import DriftService

OF = SampledVersion(SERVICE, VERSION, SETTINGS_HASH)
SETTINGS = MonitoringSettings()
REFERENCE, WINDOW = Span(FIRST, FIRST + 28 * DAY), Span(FIRST + 28 * DAY, FIRST + 35 * DAY)
BEFORE = samples(400)


def report(
    now: Sequence[ModelSample],
    before: Sequence[ModelSample] = BEFORE,
    settings: MonitoringSettings = SETTINGS,
    outcomes: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> DriftReport:
    first = Seen(before, reviews(outcomes[0], REFERENCE.begin))
    second = Seen(now, reviews(outcomes[1], WINDOW.begin))
    return compare(OF, (REFERENCE, WINDOW), first, second, settings)


def later(count: int = 100, **changes: object) -> list[ModelSample]:
    return samples(count, WINDOW.begin, 7, seed=changes.pop("seed", 1), **changes)


def raised(found: DriftReport) -> list[str]:
    return [alert.kind for alert in alerts_of(found, "Lung density", WINDOW.end)]


def test_the_same_distributions_are_stable() -> None:
    found = report(later())
    rows = [row for kind in rows_by_kind(found).values() for row in kind]
    assert {row.verdict for row in rows} == {"stable", "too-few"}
    assert {row.name for row in rows if row.verdict == "too-few"} == {"accept", "modify", "reject"}
    assert raised(found) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"scanners": {"Revolution CT": 0.9, "Aquilion": 0.1}}, "input-drift"),
        ({"shift": 1.0}, "output-drift"),
        ({"densities": (0.1, 0.2, 0.7)}, "output-drift"),
        ({"refused": 0.4}, "refusal-drift"),
    ],
)
def test_a_shift_is_found_where_it_is_and_nowhere_else(
    change: dict[str, object], kind: str
) -> None:
    assert raised(report(later(150, **change))) == [kind]


def test_reviewers_who_accept_less_are_noticed() -> None:
    before = ["accept"] * 90 + ["modify"] * 10
    found = report(later(), outcomes=(before, ["accept"] * 25 + ["modify"] * 20))
    assert raised(found) == ["agreement-drift"]
    assert [(r.name, r.now, r.of_now, r.verdict) for r in found.reviews] == [
        ("accept", 25, 45, "major"),
        ("modify", 20, 45, "major"),
        ("reject", 0, 45, "stable"),
    ]
    assert [(c.count, c.mean_difference) for c in found.changed] == [(20, 1.5)]


def test_false_alarms_are_as_rare_as_alpha_says() -> None:
    """With thresholds so low that only the tests decide."""
    settings = MonitoringSettings(
        alpha=0.05, psi_moderate=1e-9, psi_major=9.0, rate_moderate=1e-9, rate_major=0.9
    )
    runs = 120
    alarms = sum(
        bool(raised(report(later(60, seed=2 * n + 1), samples(120, seed=2 * n), settings)))
        for n in range(1, runs + 1)
    )
    # Three standard errors above alpha.
    assert alarms <= 0.05 * runs + 3 * (0.05 * 0.95 * runs) ** 0.5


def test_a_large_index_by_chance_raises_nothing() -> None:
    """Of 30 and 30 results the index is often above its threshold without any change."""
    few = [report(later(34, seed=n), samples(34, seed=100 + n)) for n in range(20)]
    numbers = [row.change.psi for found in few for row in found.numbers if row.change is not None]
    assert len(numbers) >= 5
    assert max(numbers) > SETTINGS.psi_major
    assert [raised(found) for found in few if raised(found)] == []


def test_a_small_change_in_many_results_raises_nothing() -> None:
    many = report(later(8_000, shift=0.1), samples(8_000))
    (number,) = many.numbers
    assert number.p is not None
    assert number.p < 0.001
    assert number.verdict == "stable"


def test_too_few_are_counted_and_not_compared() -> None:
    found = report(later(29, shift=5))
    rows = [row for kind in rows_by_kind(found).values() for row in kind]
    assert {row.verdict for row in rows} == {"too-few"}
    assert {row.change for row in rows} == {None}
    assert found.numbers[0].now > 20
    assert found.latency.now is None
    assert found.latency.before is not None
    with pytest.raises(ValueError, match="too little"):
        sentence(found.mix[0])
    lower = SETTINGS.model_copy(update={"least": 20})
    assert report(later(29, shift=5), settings=lower).numbers[0].verdict == "major"
    assert report([], []).mix == ()


def test_alerts_say_what_changed_in_words_and_numbers() -> None:
    (alert,) = alerts_of(report(later(shift=1.0)), "Lung density", WINDOW.end)
    (finding,) = alert.findings
    assert finding["text"].startswith("laa-950/lungs PSI ")
    assert 0 < finding["low"] < finding["value"] < finding["high"]
    assert (alert.severity, alert.kind) == ("high", "output-drift")
    refused = report(later(refused=0.5))
    (alert,) = alerts_of(refused, "Lung density", WINDOW.end)
    whole = refused.refusals[0]
    assert alert.findings[0]["text"].startswith(
        f"any {whole.now} of 100, was {whole.before} of 400"
    )
    assert alert.findings[0]["measure"] == "difference"


def test_an_alert_has_one_id_in_a_period_and_another_in_the_next() -> None:
    found = report(later(shift=1.0))

    def shown(days: int, of: SampledVersion = OF) -> str:
        window = Span(WINDOW.begin + days * DAY, WINDOW.end + days * DAY)
        moved = replace(found, window=window, version=of)
        (alert,) = alerts_of(moved, "Lung density", window.end)
        return alert.id

    ids = [shown(days) for days in range(21)]
    assert len(set(ids)) in (3, 4), "a new one each week"
    assert ids == sorted(ids, key=ids.index), "never an old one again"
    assert shown(0, replace(OF, version="2.0.0")) not in ids


def test_reports_are_json() -> None:
    found = json.loads(json.dumps(as_json(report(later()))))
    assert found["window"]["begin"] == "2026-01-29T00:00:00+00:00"
    assert found["mix"][0]["change"]["shares"]["60-69"][0] == pytest.approx(0.5, abs=0.1)
    assert found["version"]["service"] == SERVICE


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DriftService]:
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield DriftService(SampleStore(engine), Repository(engine), SETTINGS)
    engine.dispose()


def test_a_window_is_whole_days_and_its_reference_the_first_ones(service: DriftService) -> None:
    window = service.window(FIRST + 35 * DAY + timedelta(hours=9))
    assert window == WINDOW
    assert service.reference(OF, window) == Span(window.begin, window.begin), "nothing is known"
    service.samples.record(BEFORE)
    assert service.reference(OF, window) == REFERENCE
    young = Span(FIRST + 10 * DAY, FIRST + 17 * DAY)
    assert service.reference(OF, young) == Span(FIRST, FIRST + 10 * DAY)


def test_versions_are_compared_by_their_rows(service: DriftService) -> None:
    service.samples.record([*BEFORE, *later(shift=1.0), *later(40, seed=5, version="2.0.0")])
    for row in (*reviews(["accept"] * 40, FIRST), *reviews(["reject"] * 40, WINDOW.begin)):
        service.repository.record_review(row)
    assert [v.version for v in service.at_work(WINDOW)] == ["1.0.0", "2.0.0"]
    assert service.named(SERVICE, "2.0.0", WINDOW) == [replace(OF, version="2.0.0")]
    with pytest.raises(NotFoundError):
        service.named(SERVICE, "3.0.0", WINDOW)
    found = service.report(OF, WINDOW)
    assert (found.before, found.now) == (400, 100)
    assert raised(found) == [KINDS[1], KINDS[3]]
    given = service.report(OF, WINDOW, Span(WINDOW.begin, WINDOW.begin + 4 * DAY))
    assert raised(given) == []


def test_a_shadow_is_compared_on_the_images_that_both_saw(service: DriftService) -> None:
    active = later(50)
    shadow = later(50, version="1.1.0", role="shadow", shift=0.25, refused=0.5)
    for one, other in zip(active, shadow, strict=True):
        one.inference_key, other.inference_key = f"a{one.pair}", f"s{other.pair}"
    unseen = later(5, seed=9, version="1.1.0", role="shadow")
    service.samples.record([*active, *shadow, *unseen])
    found = service.compare_shadow(SERVICE, "1.1.0")
    assert (found.first, found.second, found.pairs) == ("1.0.0", "1.1.0", 50)
    number = found.numbers["laa-950/lungs"]
    assert number.bias == pytest.approx(0.25)
    assert number.limits is not None
    assert number.limits.high - number.limits.low == pytest.approx(0, abs=1e-9)
    who = found.refusals["laa-950/lungs"]
    assert who.first_only == 0
    assert who.second_only > 10
    assert number.count + who.second_only + who.both == 50
    assert json.dumps(as_json(found))
    with pytest.raises(NotFoundError, match="shadow"):
        service.compare_shadow(SERVICE, "9.9.9")
    service.samples.record(later(5, seed=10, version="2.0.0", role="shadow"))
    with pytest.raises(NotFoundError, match="both"):
        service.compare_shadow(SERVICE, "2.0.0")
