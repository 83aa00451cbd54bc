"""`fhir-ext model …` and the doctor's look at models, over a real database and queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_samples import LUNG, lung_folder, lung_manifest, write_model
from typer.testing import CliRunner

from fhir_ext.cli import app, doctor
from fhir_ext.cli.parts import Parts
from fhir_ext.errors import ConflictError, NotFoundError
from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.models import ModelStore
from models.registry import Registry
from operations.model_registry.states import seed
from subscriptions.queue import WorkQueue, migrate_queue


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """An installation without servers; the commands find it in the environment."""
    url = f"sqlite:///{tmp_path}/db/t.sqlite"
    for name, value in {
        "INTAKE__HOOK_SECRET": "a-secret-that-is-long-enough-for-this-test",
        "INTAKE__HOOK_URL": "http://127.0.0.1:1/hooks",
        "FHIR__BASE_URL": "http://127.0.0.1:1/fhir",
        "ARCHIVE__QIDO_URL": "http://127.0.0.1:1/dicom-web",
        "DATABASE__URL": url,
        "MODELS__FOLDER": str(tmp_path / "site"),
        "MODELS__INBOX": str(tmp_path / "inbox"),
    }.items():
        monkeypatch.setenv(f"FHIR_EXT_{name}", value)
    engine = create_store_engine(url)
    migrate(engine)
    migrate_queue(url)
    queue = WorkQueue(url)
    seed(ModelStore(engine), Registry(), queue)
    queue.close()
    engine.dispose()
    yield Parts(Settings())


def call(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["model", *arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def data(*arguments: str) -> Any:
    return json.loads(call(*arguments, "--json"))


def test_all_the_way_by_commands(parts: Parts, tmp_path: Path) -> None:
    assert call("install", str(lung_folder(tmp_path, "1.1.0"))) == f"{LUNG} 1.1.0 is draft\n"
    with pytest.raises(ConflictError):
        call("activate", LUNG, "1.1.0")
    assert "the test passed" in call("test", LUNG, "1.1.0")
    call("shadow", LUNG, "1.1.0")
    assert "canary for 10% of the studies" in call("canary", LUNG, "1.1.0", "--share", "0.1")
    assert data("activate", LUNG, "1.1.0")["state"] == "active"
    rows = {row["version"]: row for row in data("list") if row["service"] == LUNG}
    assert (rows["1.0.0"]["state"], rows["1.1.0"]["state"]) == ("retired", "active")
    assert "# active; test: passed" in call("show", LUNG)
    call("rollback", LUNG, "--reason", "too many findings")
    call("recall", LUNG, "1.1.0", "--reason", "wrong side")
    events = [event for event in data("history", LUNG, "1.1.0") if event["how"] == "cli"]
    actions = ["install", "test", "shadow", "canary", "activate", "rollback", "recall"]
    assert [event["action"] for event in events][::-1] == actions
    assert "too many findings" in call("history", LUNG)
    waiting = [status.workflow_id for status in parts.queue.waiting_chores()]
    assert sum(name.startswith("model-changed/") for name in waiting) >= len(actions)
    assert sum(name.startswith("recall/") for name in waiting) == 1


def test_a_test_that_fails_exits_with_1(parts: Parts, tmp_path: Path) -> None:
    wrong = {"output": "laa-950", "region": "lungs", "value": 30.0, "tolerance": 1.0}
    case = {"name": "wrong", "input": {"kind": "phantom"}, "expect": [wrong]}
    call("install", str(lung_folder(tmp_path, "1.1.0", cases=[case])))
    assert "the test failed" in call("test", LUNG, "1.1.0", code=1)
    report = data("show", LUNG, "1.1.0")["report"]
    assert report["cases"][0]["checks"][0]["expected"] == "30 within 1"


def test_validate_prints_lines_and_hashes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", lung_manifest("1.1.0", review="often"))
    said = call("validate", str(folder), code=1)
    line = next(
        number
        for number, text in enumerate((folder / "manifest.yaml").read_text().splitlines(), 1)
        if text.startswith("review:")
    )
    assert f"{folder}/manifest.yaml:{line}: review: " in said
    write_model(folder, lung_manifest("1.1.0"))
    assert "is valid; 1 cases" in call("validate", str(folder / "manifest.yaml"))


def models_of(parts: Parts) -> dict[str, doctor.Finding]:
    return {finding.part: finding for finding in doctor._models(parts)}


def test_the_doctor_finds_nothing_wrong(parts: Parts) -> None:
    found = models_of(parts)
    assert found[f"model {LUNG}"].seen == "version 1.0.0, active"
    assert all(finding.ok for finding in found.values())


def test_the_doctor_sees_files_that_changed_or_went(parts: Parts, tmp_path: Path) -> None:
    call("install", str(lung_folder(tmp_path, "1.1.0")))
    call("test", LUNG, "1.1.0")
    call("shadow", LUNG, "1.1.0")
    manifest = tmp_path / "site" / LUNG / "1.1.0" / "manifest.yaml"
    manifest.write_text(manifest.read_text() + "\n")
    said = [finding for finding in doctor._models(parts) if not finding.ok]
    assert "files of this version differ" in said[0].seen
    manifest.unlink()
    assert not all(finding.ok for finding in doctor._models(parts))


def test_the_doctor_names_what_was_taken_up_and_what_could_not_be(
    parts: Parts, tmp_path: Path
) -> None:
    site = tmp_path / "site" / LUNG
    write_model(site / "1.1.0", lung_manifest("1.1.0"))
    write_model(site / "1.2.0", lung_manifest("1.2.0")).joinpath("manifest.yaml").write_text("no")
    seed(ModelStore(parts.repository.engine), parts.models.registry, parts.queue)
    said = [finding for finding in doctor._models(parts) if not finding.ok]
    assert [finding.seen for finding in said] == [
        "version 1.1.0, draft: taken up from its folder",
        "version 1.2.0: its folder is damaged, or was not taken up yet",
    ]
    assert f"validate {site / '1.2.0'}" in said[1].advice
    assert "1.1.0" in call("list")
    call("retire", LUNG, "1.1.0", "--reason", "was off")
    assert len([finding for finding in doctor._models(parts) if not finding.ok]) == 1


def test_the_doctor_says_that_two_versions_are_active(parts: Parts, tmp_path: Path) -> None:
    call("install", str(lung_folder(tmp_path, "1.1.0")))
    with parts.repository.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX model_version_one_active")
        connection.exec_driver_sql("UPDATE model_version SET state = 'active'")
    (finding,) = doctor._models(parts)
    assert not finding.ok
    assert LUNG in finding.seen
    call("retire", LUNG, "1.1.0", "--reason", "entered by hand")
    assert all(finding.ok for finding in doctor._models(parts))


def test_a_manifest_stands_for_its_folder(parts: Parts, tmp_path: Path) -> None:
    folder = lung_folder(tmp_path / "with a space", "1.1.0")
    call("validate", str(folder / "manifest.yaml"))
    assert call("install", str(folder / "manifest.yaml")) == f"{LUNG} 1.1.0 is draft\n"


def test_a_service_without_an_active_version_names_those_it_has(
    parts: Parts, tmp_path: Path
) -> None:
    call("retire", LUNG, "1.0.0")
    with pytest.raises(NotFoundError, match=r"say which one: 1\.0\.0 \(retired\)"):
        call("show", LUNG)
    assert "# retired" in call("show", LUNG, "1.0.0")


def test_a_history_of_nothing_is_said(parts: Parts) -> None:
    assert "nothing has been done" in call("history", "no-such-model")
    assert data("history", "no-such-model") == []
