"""The command line reads like a manual: every command has an example and a panel."""

from __future__ import annotations

import subprocess
import sys

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


def test_missing_settings_name_the_variable(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fhir_ext", "doctor"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "FHIR_EXT_INTAKE" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_http_side_imports_no_torch() -> None:
    code = (
        "import sys, fhir_ext.app, fhir_ext.cli;"
        "print([m for m in ('torch', 'highdicom', 'monai', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
