"""A folder holds one running tree, and nobody's data are deleted by accident."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fhir_ext.cli import app, tree
from fhir_ext.cli.tree import RESTARTS_PER_MINUTE, Supervised, Tree
from fhir_ext.errors import SettingsError


def quiet(line: str) -> None:
    """Nobody watches."""


def test_a_second_tree_in_a_folder_deletes_nothing(tmp_path: Path) -> None:
    first = Tree(tmp_path, quiet)
    (tmp_path / "db").mkdir()
    with pytest.raises(SettingsError, match="already"):
        Tree(tmp_path, quiet, fresh=True)
    assert (tmp_path / "db").exists()
    first.stop()
    Tree(tmp_path, quiet, fresh=True).stop()
    assert not (tmp_path / "db").exists()


def test_fresh_leaves_no_version_behind_whose_row_is_gone(tmp_path: Path) -> None:
    (tmp_path / "models" / "some-model" / "1.0.0").mkdir(parents=True)
    Tree(tmp_path, quiet, fresh=True).stop()
    assert not (tmp_path / "models").exists()


def test_the_demo_does_not_delete_what_lies_in_the_folder_of_up(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    done = CliRunner().invoke(app, ["demo", "--dir", str(tmp_path)])
    assert isinstance(done.exception, SettingsError)
    assert (tmp_path / "db").exists()


def test_a_program_that_ended_often_is_started_again_a_minute_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(tree.time, "monotonic", lambda: clock.now)
    running, started = Tree(tmp_path, quiet), []
    dead: Any = SimpleNamespace(alive=lambda: False, exit_code=1, pid=1)

    def start() -> Any:
        started.append(clock.now)
        return dead

    running._programs.append(Supervised("worker", start, dead))
    for _ in range(80):
        running.watch_once()
        clock.now += 0.5
    assert len(started) == RESTARTS_PER_MINUTE
    clock.now += 30
    running.watch_once()
    assert len(started) == RESTARTS_PER_MINUTE + 1
    running._programs.clear()
    running.stop()


def test_up_knows_the_patients_of_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FHIR_EXT_CONFIG", raising=False)
    monkeypatch.delenv("FHIR_EXT_BRIDGE__ISSUERS", raising=False)
    (issuers,) = tree._phantoms().values()
    assert "FHIR-EXT-DEMO" in json.loads(issuers)
    monkeypatch.setenv("FHIR_EXT_BRIDGE__ISSUERS", '{"HOSPITAL": "https://example.org/mrn"}')
    assert json.loads(*tree._phantoms().values()) == {"HOSPITAL": "https://example.org/mrn"}
