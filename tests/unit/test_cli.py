"""The command line reads like a manual: every command has an example and a panel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fhir_ext import __version__
from fhir_ext.cli import app


def _commands(group: typer.Typer, prefix: tuple[str, ...] = ()):
    for command in group.registered_commands:
        name = command.name or command.callback.__name__
        yield (*prefix, name), command.callback
    for nested in group.registered_groups:
        yield from _commands(nested.typer_instance, (*prefix, nested.name))


COMMANDS = dict(_commands(app))


def test_commands_of_the_design_are_there() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert {
        "serve", "worker", "up", "demo", "doctor", "migrate", "analyze", "reconcile", "sweep",
        "patients list", "patients link", "tasks list", "tasks resume", "model list", "model show",
    } <= names  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example(path: tuple[str, ...]) -> None:
    text = COMMANDS[path].__doc__ or ""
    assert "Example: `" in text
    assert f"fhir-ext {' '.join(path)}" in text
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0


def test_version() -> None:
    assert CliRunner().invoke(app, ["version"]).stdout.strip() == __version__


def test_model_commands_need_no_settings() -> None:
    shown = CliRunner().invoke(app, ["model", "show", "lung-density"])
    assert "intended_use" in shown.stdout
    assert "lung-density" in CliRunner().invoke(app, ["model", "list"]).stdout


def _called(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fhir_ext", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_missing_settings_name_the_variable_and_say_where_to_go(tmp_path: Path) -> None:
    done = _called(tmp_path, "doctor")
    assert done.returncode == 2
    assert "FHIR_EXT_INTAKE" in done.stderr
    assert "fhir-ext up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_up_to_date_is_one_line_without_its_values(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    settings = {
        "FHIR_EXT_DATABASE__URL": url,
        "FHIR_EXT_INTAKE__HOOK_SECRET": "a-secret-of-tests",
        "FHIR_EXT_INTAKE__HOOK_URL": "http://127.0.0.1:1/hooks",
        "FHIR_EXT_FHIR__BASE_URL": "http://127.0.0.1:1/fhir",
        "FHIR_EXT_ARCHIVE__QIDO_URL": "http://127.0.0.1:1/dicom-web",
        "FHIR_EXT_ARCHIVE__WADO_URL": "http://127.0.0.1:1/dicom-web",
        "FHIR_EXT_ARCHIVE__STOW_URL": "http://127.0.0.1:1/dicom-web",
    }
    done = _called(tmp_path, "tasks", "list", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith("error (database): OperationalError; run `fhir-ext migrate`")
    assert len(done.stderr.splitlines()) == 1


def test_errors_are_one_line_however_narrow_the_terminal(tmp_path: Path) -> None:
    done = _called(tmp_path, "model", "show", "x" * 60, "1.0.0", COLUMNS="40")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_the_http_side_imports_no_torch() -> None:
    code = (
        "import sys, fhir_ext.app, fhir_ext.cli;"
        "print([m for m in ('torch', 'highdicom', 'monai', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
