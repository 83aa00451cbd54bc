"""Searches kept within what a token may see: parameters that are added, and forms refused.

A confined search gets one more parameter, which HAPI combines with the caller's by AND. What
could tell something about other patients in spite of it is refused with its name: reverse
chains, stored queries, filters, chains that do not go through the confined patient.
"""

from __future__ import annotations

import re

from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.compartment import confinement_param, deciding_elements
from fhir_ext.gateway.interaction import Params
from fhir_ext.gateway.policy import Rule
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight

#: Parameters whose meaning depends on more than the type that is searched.
_SPECIAL = frozenset(
    {"_has", "_filter", "_contained", "_containedType", "_query", "_list", "_text", "_content"}
)

#: `_summary` values that leave in what says whose a resource is.
_SUMMARIES = frozenset({"true", "false", "data", "count"})

#: Id that no resource has; ids of ours are UUIDs or begin with `fhir-ext-`.
NOBODY = "fhir-ext-nobody"

_INCLUDES = frozenset({"_include", "_revinclude"})

#: A chain through the patient: `patient.name`, `subject:Patient.birthdate`.
_PATIENT_CHAIN = re.compile(r"(?:patient|subject)(?::Patient)?\.[A-Za-z\-]+(?::[A-Za-z\-]+)?")


def includes(params: Params) -> bool:
    """Whether other types come along."""
    return any(name.partition(":")[0] in _INCLUDES for name, _ in params)


def confined_params(
    params: Params, resource_type: str, decision: Decision, rights: Rights, sight: Sight
) -> Params:
    """The caller's parameters with what confines them.

    Raises:
        ForbiddenError: a parameter that cannot be confined, or a type that belongs to no
            patient.
    """
    check_params(params, decision, rights)
    added = (*decision.restriction, *confinement(resource_type, params, decision, sight))
    if decision.confined:
        params = tuple(_with_owner(name, value, resource_type) for name, value in params)
    return (*params, *added)


def confinement(resource_type: str, params: Params, decision: Decision, sight: Sight) -> Params:
    """The parameter that confines a search to the patients of a decision; () when open.

    The patients are named one by one. A reverse chain over the Group would say the same in
    fewer words, but HAPI 8.8.0 loses matches of it, and takes seconds once the patients have
    many AuditEvents.

    Raises:
        ForbiddenError: the type belongs to no patient.
    """
    if resource_type == "Device" and decision.rule is Rule.OPEN:
        return _affixed(params, sight)
    if not decision.confined or decision.rule is Rule.ALERTS:
        # The restriction says which alerts.
        return ()
    if resource_type == "Provenance" and any(name == "target" for name, _ in params):
        # R4 files it under nobody when its targets are results: what it targets is looked at.
        return ()
    name = confinement_param(resource_type)
    if name is None:
        raise ForbiddenError("resources of this type belong to no patient", code="policy")
    return _named(name, sight.patients(decision.rule))


def _affixed(params: Params, sight: Sight) -> Params:
    """What keeps a search for Devices from telling about those of other patients.

    Whoever asks by patient is answered for patients within sight, others for Devices that
    are affixed to nobody.
    """
    rule = sight.patients_rule()
    if rule is Rule.OPEN:
        return ()
    if any(re.split("[:.]", name)[0] == "patient" for name, _ in params):
        return _named("patient", sight.patients(rule))
    return (("patient:missing", "true"),)


def _named(name: str, allowed: frozenset[str]) -> Params:
    patients = sorted(allowed)
    if not patients:
        return (("_id", NOBODY),)
    prefix = "" if name == "_id" else "Patient/"
    return ((name, ",".join(prefix + patient for patient in patients)),)


def check_params(params: Params, decision: Decision, rights: Rights) -> None:
    """Refuse parameters that look past what the token may see.

    Raises:
        ForbiddenError: names the parameter; never its value.
    """
    everything = decision.unlimited and rights.wide()
    for name, value in params:
        base = name.partition(":")[0]
        if base == "_method" or name == "_method":
            raise ForbiddenError("_method is not understood here", code="parameter")
        if everything:
            continue
        if base in _SPECIAL or "_has" in name:
            raise _refused(base if base in _SPECIAL else "_has")
        if "." in name and not _chain_allowed(name, rights):
            raise _refused("a chained parameter")
        if base == "_sort" and "." in value:
            raise _refused("a chained _sort")
        if decision.confined and base == "_summary" and value not in _SUMMARIES:
            raise _refused("this _summary")
        if base == "_type":
            raise _refused("_type")


def _chain_allowed(name: str, rights: Rights) -> bool:
    searched = rights.decision_on("s", "Patient")
    allowed = searched is not None and not searched.restriction
    return allowed and bool(_PATIENT_CHAIN.fullmatch(name))


def _refused(what: str) -> ForbiddenError:
    return ForbiddenError(f"{what} may not be used with this token", code="parameter")


def _with_owner(name: str, value: str, resource_type: str) -> tuple[str, str]:
    """`_elements` that also asks for what says whose a resource is."""
    if name != "_elements":
        return name, value
    wanted = [item for item in value.split(",") if item]
    owners = deciding_elements(resource_type) - set(wanted)
    return name, ",".join([*wanted, *sorted(owners)])
