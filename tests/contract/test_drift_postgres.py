"""The tables of monitoring on a real Postgres: the same as on SQLite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drift_samples import DAY, FIRST, SERVICE, reviews, samples

from fhir_ext.embedded.postgres import PostgresServer
from fhir_ext.settings import MonitoringSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from fhir_ext.store.samples import SampleStore
from operations.model_drift.alerts import alerts_of
from operations.model_drift.report import Span
from operations.model_drift.service import DriftService


@pytest.fixture(scope="module")
def service() -> Iterator[DriftService]:
    with PostgresServer.temporary(print) as server:
        engine = create_store_engine(server.create_database("fhir_ext"))
        migrate(engine)
        yield DriftService(SampleStore(engine), Repository(engine), MonitoringSettings())
        engine.dispose()


def test_a_shift_is_found_kept_once_and_forgotten(service: DriftService) -> None:
    window = Span(FIRST + 28 * DAY, FIRST + 35 * DAY)
    made = [*samples(200), *samples(80, window.begin, 7, seed=1, shift=1.5)]
    service.samples.record(made)
    service.samples.record([*samples(200), *samples(80, window.begin, 7, seed=1, shift=1.5)])
    shadow = samples(80, window.begin, 7, seed=1, version="1.1.0", role="shadow", shift=2.0)
    for sample in shadow:
        sample.inference_key = f"shadow-{sample.inference_key}"
        sample.result = {"status": "done"}
    service.samples.record(shadow)
    for row in reviews(["accept"] * 5, window.begin):
        service.repository.record_review(row)
    (version,) = service.at_work(window)
    report = service.report(version, window)
    assert (report.before, report.now) == (200, 80)
    (alert,) = alerts_of(report, "Lung density", window.end)
    assert service.samples.add_alert(alert)
    (again,) = alerts_of(report, "Lung density", window.end + DAY)
    assert not service.samples.add_alert(again)
    (kept,) = service.samples.alerts(window.begin)
    assert (kept.at, kept.findings) == (window.end, alert.findings)
    compared = service.compare_shadow(SERVICE, "1.1.0")
    assert compared.pairs == 80
    assert compared.numbers["laa-950/lungs"].bias == pytest.approx(0.5)
    assert service.samples.delete_before(window.end + DAY) == 360
    assert service.samples.alerts(FIRST) == []
