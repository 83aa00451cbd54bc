"""`fhir-ext token` and `fhir-ext where`: what one needs to try things with curl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fhir_ext.cli.parts import RUN_DIRECTORY, load_settings
from fhir_ext.errors import SettingsError

PANEL = "Try it out"

APP_CLIENT = "demo-app"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel=PANEL)(token)
    app.command(rich_help_panel=PANEL)(where)


def where(
    part: Annotated[str, typer.Argument(help="gateway, issuer, …; all of them without.")] = "",
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder of the running `up` or `demo`.")
    ] = RUN_DIRECTORY,
) -> None:
    """Print the address of a part of the running tree.

    Example: `fhir-ext where gateway`
    """
    state = directory / "state.json"
    if not state.is_file():
        raise SettingsError("nothing is running here; start it with `fhir-ext up`")
    urls: dict[str, str] = json.loads(state.read_text())["urls"]
    if part and part not in urls:
        raise SettingsError(f"there is no such part; there are: {', '.join(urls)}")
    if part:
        typer.echo(urls[part])
        return
    for name, url in urls.items():
        typer.echo(f"{name:15} {url}")


def token(
    scope: Annotated[str, typer.Option(help="SMART scopes, with blanks between them.")],
    persona: Annotated[
        str, typer.Option(help="Who logs in, such as radiologist; nobody: a backend service.")
    ] = "",
    patient: Annotated[str, typer.Option(help="Id of the Patient of a patient/ scope.")] = "",
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder of the running `up` or `demo`.")
    ] = RUN_DIRECTORY,
) -> None:
    """Print an access token of the running development issuer. Never for production.

    Example: `fhir-ext token --persona radiologist --scope "user/*.rs"`
    """
    from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
    from fhir_ext.issuer.flows import backend_token, login

    settings = load_settings()
    issuer = settings.auth.issuer
    if issuer is None or not settings.auth.development_issuer:
        raise SettingsError("the running installation has no development issuer")
    if not persona:
        typer.echo(backend_token(issuer, BACKEND_CLIENT, backend_key(directory), scope))
        return
    if patient and "launch/patient" not in scope.split():
        scope = f"launch/patient {scope}"
    answer = login(
        issuer,
        APP_CLIENT,
        persona,
        scope,
        patient=patient or None,
        audience=settings.server.fhir_base,
    )
    typer.echo(answer["access_token"])
