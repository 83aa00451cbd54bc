"""What all commands about model versions share: arguments, who gives them, and the service."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.errors import SettingsError

if TYPE_CHECKING:
    from operations.model_registry.service import ModelRegistryService

Service = Annotated[str, typer.Argument(help="A name that `model list` shows.")]
Version = Annotated[str, typer.Argument(help="One of its versions.")]
Folder = Annotated[Path, typer.Argument(help="A model's folder, or its manifest.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def folder_of(given: Path) -> Path:
    """A model's folder, of which people also name the manifest."""
    from models.registry import MANIFEST

    return given.parent if given.name == MANIFEST else given


def operator() -> str:
    """The account of this machine that gives the command, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user that no file names.
        return f"uid-{os.getuid()}"


def registry_service() -> ModelRegistryService:
    """Commands about model versions in the installation of the settings.

    Raises:
        SettingsError: its database has no rows of models.
    """
    from fhir_ext.cli.parts import Parts, load_settings

    service = Parts(load_settings()).models
    try:
        service.store.states()
    except SQLAlchemyError as error:
        raise SettingsError(
            "the database has no table of models: run `fhir-ext migrate`"
        ) from error
    return service
