"""What a service asks of its own manifest, beyond what every manifest must be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from fhir_ext.results import Region
from models.manifest.base import ManifestError, Problem
from models.manifest.model import Manifest
from models.manifest.outputs import MeasurementOutput

Numbers = TypeVar("Numbers", bound=BaseModel)


def unfit(manifest: Manifest, field: str, reason: str) -> ManifestError:
    """The error of a manifest that is right as such, and cannot be run."""
    problems = (Problem(1, field, reason),)
    return ManifestError(f"manifest of {manifest.id}: {field}: {reason}", problems)


def without_numbers(manifest: Manifest) -> None:
    """Refuse settings and thresholds of a manifest whose service has a use for none.

    Raises:
        ManifestError: for the first one.
    """
    for field in ("settings", "thresholds"):
        for name in sorted(getattr(manifest, field)):
            raise unfit(manifest, field, f"{name} is not known")


def measures_only(manifest: Manifest, known: Collection[tuple[str, Region]]) -> None:
    """Refuse outputs that a service which is code does not measure.

    Args:
        known: name and region of each that it does.

    Raises:
        ManifestError: for the first one.
    """
    for index, output in enumerate(manifest.outputs):
        if not isinstance(output, MeasurementOutput) or (output.name, output.region) not in known:
            raise unfit(manifest, f"outputs.{index}", f"{output.name} is not measured")


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
