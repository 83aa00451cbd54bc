"""Words of anybody on a terminal, in the database and in files that name patients."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_samples import LUNG, OPERATOR, Desk, lung_folder

from fhir_ext.cli import models_change, models_cmd, recall_cmd
from fhir_ext.errors import UnprocessableError
from models.lifecycle import State
from models.manifest import ManifestError, read_manifest
from operations.model_registry.recall_report import RecallReport, Receiver, Subscriber


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def report(reason: str) -> RecallReport:
    asked = {"status": "completed", "reason": reason, "who": "ann", "asked": "2026-01-01"}
    return RecallReport(
        service="s",
        version="1.0.0",
        devices=(),
        recall=asked,
        results=(),
        receivers=(Receiver("[/] app", "Patient/p-1", 1, 0, {"Patient/p-1"}, "", ""),),
        subscribers=(Subscriber("[/a]", "Observation?code=[/]", "https://[/]", 1),),
        made="2026-01-01",
    )


@pytest.mark.parametrize("reason", ["a\0b", "a\x1b]0;b\x07", "a\u202eb", "\ud800", " ", "a" * 501])
def test_reasons_that_a_database_or_a_terminal_stumbles_over(desk: Desk, reason: str) -> None:
    version = desk.tested("1.1.0")
    for do in (desk.service.retire, lambda s, v, a, r: desk.service.recall(s, v, r, a)):
        with pytest.raises(UnprocessableError) as caught:
            do(LUNG, version, OPERATOR, reason)
        assert caught.value.code == "model-reason"
    assert desk.service.version(LUNG, version).state is State.DRAFT


def test_a_reason_of_several_lines_becomes_one(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    desk.service.retire(LUNG, version, OPERATOR, " too\nmany\tfalse alarms ")
    assert desk.service.history(LUNG)[0].reason == "too many false alarms"


@pytest.mark.parametrize("escape", [r"\e[31m", r"\0", r"\u202E", r"\uD800", r"\x9b"])
def test_manifests_hold_no_control_characters(tmp_path: Path, escape: str) -> None:
    folder = lung_folder(tmp_path, "1.1.0", title="TITLE")
    path = folder / "manifest.yaml"
    path.write_text(path.read_text("utf-8").replace("TITLE", f'"a{escape}b"'), "utf-8")
    with pytest.raises(ManifestError, match="control character"):
        read_manifest(path)


def test_markup_in_reasons_and_titles_is_shown_as_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = desk.tested("1.1.0", title="Lungs [/bold]")
    desk.service.retire(LUNG, version, OPERATOR, "wrong [/] numbers")
    monkeypatch.setattr(models_cmd, "registry_service", lambda: desk.service)
    models_cmd.model_list()
    models_cmd.model_history(LUNG)
    shown = capsys.readouterr().out
    assert "Lungs [/bold]" in shown
    assert "wrong [/] numbers" in shown


def test_markup_in_the_report_of_a_test_is_shown_as_it_is(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    row = desk.service.version(LUNG, desk.tested("1.1.0"))
    assert row.test_report is not None
    row.test_report["cases"][0]["checks"][0]["seen"] = "[/] seen"
    models_change._print_report(row)
    assert "[/] seen" in capsys.readouterr().out


def test_the_recall_report_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    recall_cmd._show(report("[/] wrong"))
    shown = capsys.readouterr().out
    assert "[/] wrong" in shown
    assert "a patient" in shown
    assert "p-1" not in shown


def test_the_file_of_a_recall_is_new_whoever_holds_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "recall.json"
    path.write_text("old")
    path.chmod(0o666)
    with path.open() as held:
        recall_cmd._write(path, "names patients")
        assert held.read() == "old"
    assert path.read_text() == "names patients"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_of_a_recall_follows_no_link(tmp_path: Path) -> None:
    other = tmp_path / "shared"
    other.write_text("of somebody else")
    path = tmp_path / "recall.json"
    path.symlink_to(other)
    recall_cmd._write(path, "names patients")
    assert other.read_text() == "of somebody else"
    assert not path.is_symlink()
