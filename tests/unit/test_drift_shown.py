"""Drift as people see it: tables and JSON of the commands, the status page, doctor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from drift_samples import DAY, SERVICE, VERSION, reviews, samples, today
from fastapi.testclient import TestClient
from status_fixture import Example, filled
from typer.testing import CliRunner

from fhir_ext.cli import app
from fhir_ext.cli.doctor import _drift
from fhir_ext.errors import BadRequestError, NotFoundError
from fhir_ext.settings import MonitoringSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.sample_tables import ModelAlert
from fhir_ext.store.samples import SampleStore

RUN = CliRunner()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SampleStore]:
    """An installation's database, which the commands read too."""
    url = f"sqlite:///{tmp_path}/t.sqlite"
    monkeypatch.setenv("FHIR_EXT_DATABASE__URL", url)
    monkeypatch.setenv("FHIR_EXT_INTAKE__HOOK_SECRET", "a secret of the unit test")
    engine = create_store_engine(url)
    migrate(engine)
    yield SampleStore(engine)
    engine.dispose()


def shifted(store: SampleStore) -> None:
    store.record(samples(200, today() - 40 * DAY))
    hostile = {"[red]Aquilion[/]": 0.5, "Revolution CT": 0.5}
    store.record(samples(80, today() - 7 * DAY, 7, seed=1, scanners=hostile))
    repository = Repository(store._engine)
    for row in reviews(["accept", "modify"] * 20, now() - DAY):
        repository.record_review(row)


def run(*arguments: str) -> str:
    done = RUN.invoke(app, ["model", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_tables_show_what_changed_and_say_where_there_is_too_little(store: SampleStore) -> None:
    shifted(store)
    shown = run("drift", SERVICE)
    assert f"{SERVICE} {VERSION}" in shown
    lines = [line for line in shown.splitlines() if "scanner" in line]
    assert "major" in lines[0]
    assert "[red]Aquilion[/]" in shown, "names from headers are not markup"
    assert "stable" in next(line for line in shown.splitlines() if "laa-950/lungs" in line)
    assert "too few" in next(line for line in shown.splitlines() if "accept" in line)
    assert "20, +1.5" in shown


def test_a_new_shadow_shows_what_it_said(store: SampleStore) -> None:
    hostile = {"[red]Aquilion[/]": 1.0}
    store.record(samples(3, now() - DAY / 2, 0.2, scanners=hostile, refused=0, role="shadow"))
    shown = run("drift", SERVICE, VERSION)
    assert "nothing to compare with yet" in shown
    said = [number.numbers["laa-950/lungs"] for number in samples(3, refused=0, scanners=hostile)]
    row = next(line for line in shown.splitlines() if "laa-950/lungs" in line)
    assert f"{sorted(said)[1]:.4g}" in row
    assert "[red]Aquilion[/]: 3" in shown
    assert "0 of 3" in shown
    assert "too few" not in shown


def test_thresholds_and_spans_are_given_and_not_hidden(store: SampleStore) -> None:
    shifted(store)
    (found,) = json.loads(run("drift", SERVICE, VERSION, "--json", "--psi-moderate", "50"))
    by_name = {row["name"]: row["verdict"] for row in found["mix"]}
    assert by_name["scanner"] == "major", "the larger threshold still stands"
    (found,) = json.loads(
        run("drift", SERVICE, "--json", "--psi-moderate", "50", "--psi-major", "60")
    )
    assert {row["verdict"] for row in found["mix"]} == {"stable"}
    last, first = now().date(), (now() - 41 * DAY).date()
    span = f"{first}..{(now() - 30 * DAY).date()}"
    (found,) = json.loads(
        run("drift", SERVICE, "--json", "--window", "3d", "--reference", span, "--until", f"{last}")
    )
    assert found["reference"]["begin"] == f"{first}T00:00:00+00:00"
    assert found["window"]["end"] == f"{last + DAY}T00:00:00+00:00"
    assert 15 <= found["now"] <= 40


@pytest.mark.parametrize(
    "wrong",
    [("--reference", "2026-01-31..2026-01-01"), ("--reference", "2026-13-01..2026-13-02"),
     ("--reference", "x"), ("--window", "0d"), ("--window", "week")],
)  # fmt: skip
def test_spans_that_cannot_be_are_refused(store: SampleStore, wrong: tuple[str, str]) -> None:
    with pytest.raises(BadRequestError):
        run("drift", SERVICE, *wrong)


def test_a_version_that_was_never_sampled_is_not_found(store: SampleStore) -> None:
    for arguments in (("drift", SERVICE), ("compare", SERVICE, "--shadow", "1.1.0")):
        with pytest.raises(NotFoundError):
            run(*arguments)


def test_a_shadow_is_shown_beside_what_wrote(store: SampleStore) -> None:
    active = samples(30)
    shadow = samples(30, version="1.1.0", role="shadow", shift=0.5, densities=(0, 0.5, 0.5))
    for sample in shadow:
        sample.inference_key = f"shadow-{sample.inference_key}"
    store.record([*active, *shadow])
    shown = run("compare", SERVICE, "--shadow", "1.1.0")
    assert "shadow 1.1.0 minus 1.0.0, on 30 sets of images" in shown
    assert "+0.5" in next(line for line in shown.splitlines() if "laa-950/lungs" in line)
    found = json.loads(run("compare", SERVICE, "--shadow", "1.1.0", "--json"))
    assert found["numbers"]["laa-950/lungs"]["bias"] == pytest.approx(0.5)
    assert found["categories"]["density/breasts"]["agree"] < 30


def alert(age: int = 1) -> ModelAlert:
    spans = dict.fromkeys(("reference_from", "reference_to", "window_from", "window_to"), now())
    return ModelAlert(
        id="5c1f", service=SERVICE, version="1.0.0 <b>", settings_hash="h", title="t",
        kind="output-drift", severity="high", findings=[{"text": "laa-950/lungs PSI 0.41"}],
        at=now() - age * DAY, **spans,
    )  # fmt: skip


def test_the_status_page_shows_alerts_and_a_command(tmp_path: Path) -> None:
    example: Example = filled(tmp_path)
    client = TestClient(example.app())
    assert client.get("/status.json").json()["alerts"] == []
    before = client.get("/").text
    SampleStore(example.repository.engine).add_alert(alert())
    (shown,) = client.get("/status.json").json()["alerts"]
    assert shown["kind_words"] == "Output changed"
    assert shown["issue"].endswith("/DetectedIssue/5c1f")
    assert shown["command"] == f"fhir-ext model drift {SERVICE} '1.0.0 <b>'"
    page = client.get("/").text
    assert "laa-950/lungs PSI 0.41" in page
    assert "laa-950/lungs PSI 0.41" not in before
    assert "<b>" not in page
    example.repository.engine.dispose()


@pytest.mark.parametrize(("age", "well"), [(1, False), (8, True)])
def test_doctor_names_the_alerts_of_the_last_window(
    store: SampleStore, age: int, well: bool
) -> None:
    settings = SimpleNamespace(monitoring=MonitoringSettings())
    parts = SimpleNamespace(repository=Repository(store._engine), settings=settings)
    store.add_alert(alert(age))
    (finding,) = _drift(parts)
    assert finding.ok is well
    assert ("output-drift" in finding.seen) is not well


def test_doctor_says_nothing_of_a_database_without_tables(tmp_path: Path) -> None:
    engine = create_store_engine(f"sqlite:///{tmp_path}/empty.sqlite")
    settings = SimpleNamespace(monitoring=MonitoringSettings())
    assert _drift(SimpleNamespace(repository=Repository(engine), settings=settings)) == []
    engine.dispose()
