"""Reads who may ask and who may log in: demo.yaml, and the files that the settings name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fhir_ext.errors import SettingsError
from fhir_ext.issuer.clients import Client, Clients
from fhir_ext.issuer.users import User, Users
from fhir_ext.settings import IssuerSettings

Kind = TypeVar("Kind", User, Client)


def load_directory(settings: IssuerSettings) -> tuple[Clients, Users]:
    """Clients and users of the demo, completed or replaced by the files of the settings.

    A client of the further file that the demo has too takes over what it does not say
    itself. A client of the demo that needs a key is there only once a file brings one.

    Raises:
        SettingsError: a file is missing or malformed; names the setting and the field.
    """
    demo = yaml.safe_load(resources.files("fhir_ext.issuer").joinpath("demo.yaml").read_text())
    users = demo["users"]
    if settings.personas is not None:
        users = _part(settings.personas, "personas", "users")
    return _clients(demo["clients"], settings.clients), Users(
        _built(User, {"user_id": name, **_entry(data, "personas")}, "personas")
        for name, data in users.items()
    )


def _clients(demo: Mapping[str, Any], path: Path | None) -> Clients:
    further = {} if path is None else _part(path, "clients", "clients")
    found = {}
    for name in [*demo, *(name for name in further if name not in demo)]:
        data = {**demo.get(name, {}), **_entry(further.get(name, {}), "clients")}
        if name not in further and "client_credentials" in data.get("grants", ()):
            continue
        if path is not None and (file := data.pop("jwks_file", None)):
            data["jwks"] = _parsed(path.parent / str(file), "clients")
        found[name] = _built(Client, {"client_id": name, **data}, "clients")
    return Clients(found)


def _part(path: Path, setting: str, name: str) -> dict[str, Any]:
    return _entry(_entry(_parsed(path, setting), setting).get(name), setting)


def _parsed(path: Path, setting: str) -> Any:
    """A YAML or JSON file."""
    try:
        text = path.read_text()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"issuer.{setting} names a file that cannot be read") from error


def _entry(data: Any, setting: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise SettingsError(f"issuer.{setting} names a file without what belongs into it")
    return data


def _built(kind: type[Kind], data: dict[str, Any], setting: str) -> Kind:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fields = sorted({".".join(map(str, item["loc"])) or "entry" for item in error.errors()})
        raise SettingsError(f"issuer.{setting}: not valid: {', '.join(fields)}") from error
