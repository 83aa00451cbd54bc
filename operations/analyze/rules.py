"""Planning rules: which service may look at which series, as data."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fhir_ext.errors import SettingsError
from fhir_ext.resources import codes
from models.gates.expressions import checked_expression
from models.manifest import Manifest


class Rule(BaseModel):
    """When one service applies to a series; see `rules.yaml` for the meaning of each key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str
    modality: tuple[str, ...]
    body_site: tuple[str, ...] = ()
    body_site_unknown: Literal["apply", "skip"] = "apply"
    exclude_description: tuple[str, ...] = ()
    min_instances: int = Field(1, ge=1)
    min_age_years: float | None = None
    max_age_years: float | None = None
    age_unknown: Literal["apply", "skip"] = "skip"
    program: str | None = None

    @field_validator("exclude_description")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(checked_expression, patterns))


class Rules(BaseModel):
    """A whole rules file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: tuple[Rule, ...]

    def completed(self, manifests: Iterable[Manifest]) -> Rules:
        """These rules, and the default ones of services that they do not name."""
        named = {rule.service for rule in self.services}
        more = tuple(default_rule(item) for item in manifests if item.id not in named)
        return Rules(services=(*self.services, *more))

    @property
    def programs(self) -> frozenset[str]:
        return frozenset(rule.program for rule in self.services if rule.program)


def default_rule(manifest: Manifest) -> Rule:
    """What holds for a service that the rules file does not name: its manifest's `inputs`."""
    inputs = manifest.inputs
    wanted = {part.strip().upper() for part in inputs.body_part}
    sites = {coding.code for part, coding in codes.BODY_PARTS.items() if part in wanted}
    return Rule(
        service=manifest.id,
        modality=inputs.modality,
        body_site=tuple(sorted(sites)),
        min_instances=inputs.min_slices,
    )


def load_rules(path: Path | None) -> Rules:
    """Read a rules file; the shipped one without a path.

    Raises:
        SettingsError: unreadable, not YAML, or not of this shape; says where.
    """
    try:
        if path is None:
            text = resources.files(__package__).joinpath("rules.yaml").read_text("utf-8")
        else:
            text = path.read_text("utf-8")
        return Rules.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise SettingsError(f"the rules file cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the rules file is not YAML: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"the rules file is not valid: {error}") from error
