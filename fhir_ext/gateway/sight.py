"""What one request may show: every resource of an answer is asked about, whatever the query was."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fhir_ext.errors import NotFoundError
from fhir_ext.gateway.compartment import patients_of, subjects_of
from fhir_ext.gateway.policy import Rule
from fhir_ext.gateway.rights import Rights

Json = dict[str, Any]

#: Say how an answer came about, not something about a patient; part of answers to anybody.
_ABOUT_ANSWERS = frozenset({"CapabilityStatement", "OperationOutcome", "Parameters"})


class Sight:
    """Decides for each resource of an answer whether it may be shown.

    Args:
        rights: of the grant.
        members: patients of the grant's programs; needed where a rule says PROGRAMS.
    """

    __slots__ = ("_allowed", "_members", "_rights", "_trails", "_types", "restricted")

    def __init__(self, rights: Rights, members: frozenset[str] = frozenset()) -> None:
        self._rights, self._members = rights, members
        self._types: dict[str, Rule] = {}
        self._trails: frozenset[str] = frozenset()
        #: Type that was asked for under a scope with a restriction.
        self.restricted = ""
        patient = rights.grant.patient
        self._allowed = frozenset((patient,)) if patient else frozenset()

    def patient(self, patient_id: str, rule: Rule) -> bool:
        """Whether a patient is within what a rule allows."""
        return rule is Rule.OPEN or patient_id in self.patients(rule)

    def patients(self, rule: Rule) -> frozenset[str]:
        """Ids of the patients that a confining rule allows."""
        if rule is Rule.COMPARTMENT:
            return self._allowed
        if rule is Rule.PROGRAMS:
            return self._members
        return self._members | self._allowed if rule is Rule.BOTH else frozenset()

    def follow(self, provenances: frozenset[str]) -> None:
        """Show these Provenances too: everything that they target may be seen."""
        self._trails |= provenances

    def shows(self, resource: Json) -> bool:
        """Whether a resource may be shown to the grant.

        The people a resource is about must all be within sight; that another patient appears
        in it otherwise, for example as a performer, does not hide it.
        """
        kind = resource.get("resourceType", "")
        return kind in _ABOUT_ANSWERS or self._within(resource, kind, self._rule(kind))

    def shows_asked(self, resource: Json, letter: str) -> bool:
        """Like `shows`, for what was asked for itself and did not come along.

        The FHIR server keeps it to the restriction of the scope.

        Args:
            letter: `r` or `s`, by which it was asked for.
        """
        kind = resource.get("resourceType", "")
        decision = self._rights.decision_on(letter, kind) if kind == self.restricted else None
        if decision is None:
            return self.shows(resource)
        return self._within(resource, kind, decision.rule)

    def _within(self, resource: Json, kind: str, rule: Rule) -> bool:
        if kind == "Device" and rule is not Rule.DENY:
            # A model or a scanner belongs to nobody; one that is affixed to a patient is
            # shown to who may see the patient.
            affixed = patients_of(resource) or _subsetted(resource)
            rule = self._rule("Patient") if affixed else Rule.OPEN
        if rule is Rule.OPEN:
            return True
        if rule is Rule.DENY:
            return False
        if rule is Rule.ALERTS:
            # The FHIR server kept it to alerts; to it a patient without an address is none.
            return not ("patient" in resource or _subsetted(resource))
        owners = subjects_of(resource)
        if not owners:
            return kind == "Provenance" and resource.get("id") in self._trails
        return all(self.patient(owner, rule) for owner in owners)

    def concerns(self, resource: Json) -> bool:
        """Whether everybody that a resource is about is within what Provenances may tell."""
        rule = self._rule("Provenance")
        owners = subjects_of(resource)
        return bool(owners) and all(self.patient(owner, rule) for owner in owners)

    def may(self, letter: str, resource_type: str, patients: Collection[str]) -> bool:
        """Whether a letter of `cruds` is allowed on a type for all of some patients.

        A scope with a restriction does not allow writing.
        """
        decision = self._rights.decision_on(letter, resource_type)
        if decision is None or (decision.restriction and letter in "cud"):
            return False
        return all(self.patient(who, decision.rule) for who in patients)

    def patients_rule(self) -> Rule:
        """How far Patients themselves may be read."""
        return self._rule("Patient")

    def everything(self) -> bool:
        """Whether nothing has to be kept from the caller."""
        return self._rights.wide()

    def owned(self, resource: Json, rule: Rule) -> bool:
        """Whether a resource that is to be written is about patients within a rule alone."""
        if rule is Rule.OPEN:
            return True
        everyone = patients_of(resource) | subjects_of(resource)
        return bool(subjects_of(resource)) and all(self.patient(who, rule) for who in everyone)

    def _rule(self, kind: str) -> Rule:
        rule = self._types.get(kind)
        if rule is None:
            rule = self._types[kind] = self._rights.rule_of(kind)
        return rule


def _subsetted(resource: Json) -> bool:
    """Whether elements were left out (R4 search.html#elements, #summary): maybe the patient."""
    tags = resource.get("meta", {}).get("tag", [])
    return any(tag.get("code") == "SUBSETTED" for tag in tags)


def unseen() -> NotFoundError:
    """What is said, in the same words, of what is not there and of what may not be seen."""
    return NotFoundError("no such resource for this token", code="resource-not-found")
