"""The `fhir-ext` command: assembles the command groups, maps errors to exit codes."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext import __version__
from fhir_ext.cli import demo, doctor, models_cmd, phantom_cmd, risk, run, token_cmd, work
from fhir_ext.cli.parts import is_configured
from fhir_ext.errors import FhirExtError

app = typer.Typer(
    name="fhir-ext",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Put imaging models behind a FHIR server.

A study arrives in a DICOMweb archive; results appear in HAPI FHIR and, as DICOM SR, in the
archive. Configuration comes from `FHIR_EXT_*` variables or the YAML file that
`FHIR_EXT_CONFIG` names (see `docs/configuration.md`).

**Start here:** `fhir-ext demo` shows everything on this machine; `fhir-ext up` starts the
same parts and leaves them to you; `fhir-ext doctor` says what is wrong and what to do.
""",
)
run.register(app)
work.register(app)
doctor.register(app)
models_cmd.register(app)
risk.register(app)
demo.register(app)
token_cmd.register(app)
phantom_cmd.register(app)


@app.command(rich_help_panel="About")
def version() -> None:
    """Print the version. Example: `fhir-ext version`"""
    typer.echo(__version__)


def main() -> None:
    """Entry point: a known error is one line and exit code 1, never a traceback."""
    try:
        app(standalone_mode=True)
    except FhirExtError as error:
        _say(f"[bold red]error[/] ({error.code}):", error.message)
        sys.exit(1)
    except SQLAlchemyError as error:
        # Its message holds the statement with its values.
        name = type(error).__name__
        _say("[bold red]error[/] (database):", f"{name}; run `fhir-ext migrate`, then doctor")
        sys.exit(1)
    except ValidationError as error:
        _say("[bold red]the settings are not valid:[/]")
        for problem in error.errors(include_url=False, include_input=False):
            name = "FHIR_EXT_" + "__".join(str(part).upper() for part in problem["loc"])
            _say(f"  {name}:", problem["msg"])
        if not is_configured():
            _say("nothing is configured, and nothing runs in this folder:")
            _say("  go where `fhir-ext up` or `demo` runs, start it here, or set FHIR_EXT_CONFIG")
        sys.exit(2)


def _say(label: str, text: str = "") -> None:
    """One line on stderr, however long: a command in it is copied as a whole."""
    console = Console(stderr=True)
    console.print(label, end=" " if text else "\n", highlight=False, soft_wrap=True)
    if text:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
