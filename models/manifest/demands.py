"""What a service asks of its own manifest, beyond what every manifest must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from models.manifest.base import ManifestError
from models.manifest.model import Manifest

Numbers = TypeVar("Numbers", bound=BaseModel)


def unfit(manifest: Manifest, field: str, reason: str) -> ManifestError:
    """The error of a manifest that is right as such, and cannot be run."""
    return ManifestError(f"manifest of {manifest.id}: {field}: {reason}")


def checked(manifest: Manifest, kind: type[Numbers], values: Mapping[str, object]) -> Numbers:
    """Settings and thresholds of a manifest as a service's own type.

    Args:
        kind: says which there must be.
        values: of the manifest, by the names of `kind`.

    Raises:
        ManifestError: one is missing, unknown or of the wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise unfit(manifest, field, first["msg"]) from error
