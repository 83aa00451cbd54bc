"""The `fhir-ext` command: assembles the command groups, maps errors to exit codes."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError
from rich.console import Console

from fhir_ext import __version__
from fhir_ext.cli import demo, doctor, models_cmd, phantom_cmd, risk, run, token_cmd, work
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
        Console(stderr=True).print(
            f"[bold red]error[/] ({error.code}): {error.message}", highlight=False
        )
        sys.exit(1)
    except ValidationError as error:
        Console(stderr=True).print("[bold red]the settings are not valid:[/]")
        for problem in error.errors(include_url=False, include_input=False):
            name = "FHIR_EXT_" + "__".join(str(part).upper() for part in problem["loc"])
            Console(stderr=True).print(f"  {name}: {problem['msg']}", highlight=False, markup=False)
        sys.exit(2)
