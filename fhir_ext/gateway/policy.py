"""The policy: which interaction is open to whom, read from `policy.yaml`. Deny by default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fhir_ext.auth.grant import Persona, ScopeContext
from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import SettingsError
from fhir_ext.gateway.interaction import Kind


class Rule(StrEnum):
    """What a cell of the table says, from least to most."""

    #: Not named by any rule: 403.
    DENY = "deny"
    #: Only alerts about model versions, which are about nobody.
    ALERTS = "alerts"
    #: Only the compartment of the patient in the launch context.
    COMPARTMENT = "compartment"
    #: Only patients that are members of the user's programs.
    PROGRAMS = "programs"
    #: Patients of either: what two scopes of one token add up to. Never in the table.
    BOTH = "both"
    #: Whatever the scopes name.
    OPEN = "open"


#: (persona, context of the scope, interaction, type or None)
Cell = tuple[str, str, str, str | None]

_CONTEXTS: tuple[ScopeContext, ...] = ("patient", "user", "system")


class Policy:
    """The table, one dictionary entry for each cell that is not denied.

    Args:
        cells: what each cell says.
        classes: class names to their types; every type of R4 is in exactly one.
        shared: types whose resources belong to nobody.
    """

    __slots__ = ("_cells", "classes", "shared")

    def __init__(
        self,
        cells: Mapping[Cell, Rule],
        classes: Mapping[str, frozenset[str]],
        shared: frozenset[str],
    ) -> None:
        self._cells = dict(cells)
        self.classes, self.shared = dict(classes), shared

    @classmethod
    def load(cls) -> Policy:
        """The table that is shipped."""
        text = resources.files(__package__).joinpath("policy.yaml").read_text("utf-8")
        return cls.from_text(text)

    @classmethod
    def from_text(cls, text: str) -> Policy:
        """A table from YAML.

        Raises:
            SettingsError: not YAML, not of this shape, an unknown name, a type in no class or
                in two, or two rules that disagree; says what and where.
        """
        try:
            document = _Document.model_validate(yaml.load(text, _Loader))  # noqa: S506 - a SafeLoader
        except yaml.YAMLError as error:
            raise SettingsError(f"the policy is not YAML: {error}") from error
        except ValidationError as error:
            raise SettingsError(f"the policy is not valid: {error}") from error
        return _Builder(document).policy()

    def rule(
        self,
        persona: Persona,
        context: ScopeContext,
        interaction: str,
        resource_type: str | None,
    ) -> Rule:
        """What the table says of one cell.

        Args:
            persona: one of the token's.
            context: of the scope that is asked about.
            interaction: value of a `Kind`, or `$name` of an operation.
            resource_type: type that is asked for, also of an operation on the type or an
                instance; None on the system level.
        """
        return self._cells.get((persona, context, interaction, resource_type), Rule.DENY)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value}' is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _RuleLine(_Shape):
    who: tuple[Persona, ...] = Field(min_length=1)
    may: tuple[str, ...] = Field(min_length=1)
    of: tuple[str, ...] = Field(min_length=1)
    rule: Literal["own", "open", "alerts"]
    contexts: tuple[ScopeContext, ...] | None = Field(None, min_length=1)


class _Document(_Shape):
    personas: dict[Persona, tuple[ScopeContext, ...]]
    own: dict[ScopeContext, Rule]
    classes: dict[str, tuple[str, ...]]
    shared: tuple[str, ...]
    interactions: dict[str, tuple[str, ...]]
    always: tuple[Kind, ...]
    rules: tuple[_RuleLine, ...]


class _Builder:
    """Checks the names of a document and unfolds its rules into cells."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._kinds = {kind.value for kind in Kind} - {Kind.OPERATION.value}
        self._class_of: dict[str, str] = {}

    def policy(self) -> Policy:
        """The checked table."""
        document = self._document
        self._check_classes()
        _check_complete("personas", {p.value for p in Persona}, map(str, document.personas))
        _check_complete("own", set(_CONTEXTS), document.own)
        for name in document.interactions:
            if name in self._kinds:
                raise SettingsError(f"policy: interactions.{name} is itself an interaction")
        cells: dict[Cell, Rule] = {
            (persona.value, context, kind.value, None): Rule.OPEN
            for persona in Persona
            for context in _CONTEXTS
            for kind in document.always
        }
        for number, line in enumerate(document.rules):
            for cell, rule in self._cells(line, f"rules[{number}]"):
                if cells.setdefault(cell, rule) is not rule:
                    raise SettingsError(
                        f"policy: rules[{number}] says '{rule}' of {cell}, "
                        f"another one '{cells[cell]}'"
                    )
        classes = {name: frozenset(types) for name, types in document.classes.items()}
        shared = frozenset(one for name in document.shared for one in self._types(name, "shared"))
        return Policy(cells, classes, shared)

    def _check_classes(self) -> None:
        for name, types in self._document.classes.items():
            if name in RESOURCE_TYPES:
                raise SettingsError(f"policy: classes.{name} has the name of a type")
            for one in types:
                if one not in RESOURCE_TYPES:
                    raise SettingsError(f"policy: classes.{name} names '{one}', no type of R4")
                if (before := self._class_of.setdefault(one, name)) != name or (
                    types.count(one) > 1
                ):
                    raise SettingsError(f"policy: '{one}' is in {before} and in {name}")
        _check_complete("classes", RESOURCE_TYPES, self._class_of)

    def _cells(self, line: _RuleLine, where: str) -> Iterator[tuple[Cell, Rule]]:
        kinds = [kind for name in line.may for kind in self._interactions(name, where)]
        types = [one for name in line.of for one in self._types(name, where)]
        for persona in line.who:
            known = self._document.personas[persona]
            for context in line.contexts or known:
                if context not in known:
                    if len(line.who) == 1:
                        raise SettingsError(f"policy: {where}: {persona} has no {context}/")
                    continue
                rule = self._document.own[context] if line.rule == "own" else Rule(line.rule)
                for kind in kinds:
                    for one in types:
                        yield (persona.value, context, kind, one), rule

    def _interactions(self, name: str, where: str) -> tuple[str, ...]:
        if name in self._kinds or (name.startswith("$") and len(name) > 1):
            return (name,)
        named = self._document.interactions.get(name)
        if named is None:
            raise SettingsError(f"policy: {where}: '{name}' is no interaction")
        found = (one for item in named for one in self._interactions(item, f"interactions.{name}"))
        return tuple(found)

    def _types(self, name: str, where: str) -> tuple[str, ...]:
        if name in RESOURCE_TYPES:
            return (name,)
        named = self._document.classes.get(name)
        if named is None:
            raise SettingsError(f"policy: {where}: '{name}' is neither a class nor a type of R4")
        return named


def _check_complete(where: str, wanted: Iterable[str], given: Iterable[str]) -> None:
    if missing := set(wanted) - set(given):
        raise SettingsError(f"policy: {where} lacks {', '.join(sorted(missing))}")
