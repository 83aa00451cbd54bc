"""What one grant may do: its scopes against the table, worked out once per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_ext.auth.grant import Grant, SmartScope
from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.interaction import LETTERS, Interaction, Kind, Params
from fhir_ext.gateway.policy import Policy, Rule
from fhir_ext.resources.codes import MODEL_ALERT

#: From least to most.
_ORDER = {rule: place for place, rule in enumerate(Rule)}

#: What keeps a search for DetectedIssues to alerts about models.
_ALERTS: Params = (("patient:missing", "true"), ("code", f"{MODEL_ALERT.url}|model-drift"))

#: Cell of the table for a letter, where only reading as such is asked about.
_KIND_OF_LETTER = {
    "c": Kind.CREATE,
    "r": Kind.READ,
    "u": Kind.UPDATE,
    "d": Kind.DELETE,
    "s": Kind.SEARCH_TYPE,
}

#: Letters of operations that show or change what an interaction would.
OPERATION_LETTERS = {"everything": frozenset("r")}


@dataclass(frozen=True, slots=True)
class Decision:
    """What is allowed, and how it is confined.

    Attributes:
        rule: never DENY.
        restriction: search parameters to be added: those of the scope that allows it, and
            those that keep a search to alerts.
    """

    rule: Rule
    restriction: Params = ()

    @property
    def confined(self) -> bool:
        """Whether only some patients may be seen."""
        return self.rule is not Rule.OPEN

    @property
    def unlimited(self) -> bool:
        return self.rule is Rule.OPEN and not self.restriction


class Rights:
    """One grant against the table; remembers the cells it was asked about.

    Args:
        grant: a verified token.
        policy: the table.
    """

    __slots__ = ("_cells", "_policy", "_wide", "grant")

    def __init__(self, grant: Grant, policy: Policy) -> None:
        self.grant, self._policy = grant, policy
        self._cells: dict[tuple[str, str | None, frozenset[str]], Decision | str] = {}
        self._wide: bool | None = None

    def decide(self, interaction: Interaction) -> Decision:
        """What an interaction is allowed.

        Raises:
            ForbiddenError: no scope covers it (`scope`), or the table names no rule for it
                (`policy`).
        """
        if interaction.kind is Kind.OPERATION:
            name = interaction.operation or ""
            letters = OPERATION_LETTERS.get(name, frozenset())
            return self._cell(f"${name}", interaction.resource_type, letters)
        letters = LETTERS.get(interaction.kind, frozenset())
        return self._cell(interaction.kind.value, interaction.resource_type, letters)

    def may(self, letter: str, resource_type: str) -> bool:
        """Whether a letter of `cruds` is allowed on a type, for some patients at least."""
        return self.decision_on(letter, resource_type) is not None

    def readable(self, resource_type: str) -> bool:
        """Whether resources of a type may stand in an answer that was not asked for them.

        A scope with a restriction cannot be checked on a resource that came along, so it
        does not count.
        """
        return self.rule_of(resource_type) is not Rule.DENY

    def rule_of(self, resource_type: str) -> Rule:
        """The widest rule under which resources of a type may be read; see `readable`."""
        found = (self.decision_on(letter, resource_type) for letter in "rs")
        rules = [one.rule for one in found if one is not None and not one.restriction]
        return max(rules, key=_ORDER.__getitem__, default=Rule.DENY)

    def decision_on(self, letter: str, resource_type: str) -> Decision | None:
        """What a letter of `cruds` is allowed on a type; None when it is not."""
        kind = _KIND_OF_LETTER[letter].value
        cell = self._look(kind, resource_type, frozenset(letter))
        return cell if isinstance(cell, Decision) else None

    def wide(self) -> bool:
        """Whether a search may look at whatever it likes: every type, every patient."""
        if self._wide is None:
            self._wide = any(
                scope.resource_type == "*"
                and "s" in scope.letters
                and not scope.restriction
                and all(
                    self._rule(scope, Kind.SEARCH_TYPE.value, name) is Rule.OPEN
                    for name in ("Patient", "Observation", "Practitioner")
                )
                for scope in self.grant.scopes
            )
        return self._wide

    def _cell(self, kind: str, resource_type: str | None, letters: frozenset[str]) -> Decision:
        cell = self._look(kind, resource_type, letters)
        if isinstance(cell, Decision):
            return cell
        if cell == "scope":
            wanted = "".join(letter for letter in "cruds" if letter in letters)
            asked = f"'{wanted}' on {resource_type or '*'}" if wanted else "this operation"
            raise ForbiddenError(f"no scope of the token allows {asked}", code="scope")
        if cell == "restriction":
            raise ForbiddenError(
                "the scopes of this type have different restrictions; ask with one of them",
                code="scope",
            )
        raise ForbiddenError("this interaction is not open to this caller", code="policy")

    def _look(
        self, kind: str, resource_type: str | None, letters: frozenset[str]
    ) -> Decision | str:
        key = (kind, resource_type, letters)
        known = self._cells.get(key)
        if known is None:
            known = self._cells[key] = self._work_out(kind, resource_type, letters)
        return known

    def _work_out(
        self, kind: str, resource_type: str | None, letters: frozenset[str]
    ) -> Decision | str:
        if not letters:
            rules = [self._rule(scope, kind, resource_type) for scope in self.grant.scopes]
            if not rules:
                return "scope"
            rule = _sum(rules)
            return Decision(rule) if rule is not Rule.DENY else "policy"
        found: Decision | None = None
        for letter in letters:
            one = self._letter(kind, resource_type, letter)
            if isinstance(one, str):
                return one
            if found is not None and found.restriction != one.restriction:
                return "restriction"
            found = one if found is None or _ORDER[one.rule] < _ORDER[found.rule] else found
        assert found is not None
        return found

    def _letter(self, kind: str, resource_type: str | None, letter: str) -> Decision | str:
        covering = [
            scope
            for scope in self.grant.scopes
            if scope.covers(resource_type or "*", frozenset(letter))
        ]
        if not covering:
            return "scope"
        rules = [(self._rule(scope, kind, resource_type), scope) for scope in covering]
        best = max((rule for rule, _ in rules), key=_ORDER.__getitem__)
        if best is Rule.DENY:
            return "policy"
        free = [rule for rule, scope in rules if not scope.restriction]
        restrictions = {scope.restriction for rule, scope in rules if rule is best}
        alerts = _ALERTS if best is Rule.ALERTS else ()
        if () in restrictions:
            return Decision(_sum(free), alerts)
        merged = _merged(restrictions)
        return Decision(best, (*merged, *alerts)) if merged else "restriction"

    def _rule(self, scope: SmartScope, kind: str, resource_type: str | None) -> Rule:
        if scope.context == "patient" and self.grant.patient is None:
            return Rule.DENY
        rules = (
            self._policy.rule(persona, scope.context, kind, resource_type)
            for persona in self.grant.personas
        )
        best = max(rules, key=_ORDER.__getitem__)
        if best is Rule.PROGRAMS and not self.grant.programs:
            return Rule.DENY
        return best


def _sum(rules: Sequence[Rule]) -> Rule:
    """What several scopes allow together."""
    if Rule.OPEN not in rules and Rule.PROGRAMS in rules and Rule.COMPARTMENT in rules:
        return Rule.BOTH
    return max(rules, key=_ORDER.__getitem__)


def _merged(restrictions: set[Params]) -> Params:
    """Restrictions of several scopes as one: either of them, where FHIR search can say so."""
    if len(restrictions) == 1:
        return next(iter(restrictions))
    names = {tuple(name for name, _ in restriction) for restriction in restrictions}
    (first, *others) = names
    if others or len(first) != 1:
        return ()
    values = sorted(restriction[0][1] for restriction in restrictions)
    return ((first[0], ",".join(values)),)
