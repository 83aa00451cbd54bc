"""Searches kept within what a token may see: parameters that are added, and forms refused.

A confined search gets one more parameter, which HAPI combines with the caller's by AND. What
could tell something about other patients in spite of it is refused with its name: reverse
chains, stored queries, filters, chains that do not go through the confined patient.
"""

from __future__ import annotations

import re

from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.compartment import (
    COMPARTMENT_TYPES,
    confinement_param,
    deciding_elements,
)
from fhir_ext.gateway.interaction import Params
from fhir_ext.gateway.policy import Rule
from fhir_ext.gateway.rights import Decision, Rights

#: Parameters whose meaning depends on more than the type that is searched.
_SPECIAL = frozenset(
    {"_has", "_filter", "_contained", "_containedType", "_query", "_list", "_text", "_content"}
)

#: `_summary` values that leave in what says whose a resource is.
_SUMMARIES = frozenset({"true", "false", "data", "count"})

_INCLUDES = frozenset({"_include", "_revinclude"})

#: A chain through the patient: `patient.name`, `subject:Patient.birthdate`.
_PATIENT_CHAIN = re.compile(r"(?:patient|subject)(?::Patient)?\.[A-Za-z\-]+(?::[A-Za-z\-]+)?")


def includes(params: Params) -> bool:
    """Whether other types come along."""
    return any(name.partition(":")[0] in _INCLUDES for name, _ in params)


def confined_params(
    params: Params, resource_type: str, decision: Decision, rights: Rights
) -> Params:
    """The caller's parameters with what confines them.

    Raises:
        ForbiddenError: a parameter that cannot be confined, or a type that belongs to no
            patient.
    """
    check_params(params, resource_type, decision, rights)
    added = (*decision.restriction, *confinement(resource_type, decision, rights))
    if decision.confined:
        params = tuple(_with_owner(name, value, resource_type) for name, value in params)
    return (*params, *added)


def confinement(resource_type: str, decision: Decision, rights: Rights) -> Params:
    """The parameter that confines a search to the patients of a decision; () when open.

    Raises:
        ForbiddenError: the type belongs to no patient.
    """
    if not decision.confined:
        return ()
    name = "_id" if resource_type == "Patient" else confinement_param(resource_type)
    if name is None or resource_type not in COMPARTMENT_TYPES:
        raise ForbiddenError("resources of this type belong to no patient", code="policy")
    if decision.rule is Rule.COMPARTMENT:
        patient = rights.grant.patient or ""
        return ((name, patient if resource_type == "Patient" else f"Patient/{patient}"),)
    chain = "" if resource_type == "Patient" else f"{name}:Patient."
    if name == "patient":
        chain = "patient."
    return ((f"{chain}_has:Group:member:_id", ",".join(sorted(rights.grant.programs))),)


def check_params(
    params: Params, resource_type: str | None, decision: Decision, rights: Rights
) -> None:
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
    return bool(_PATIENT_CHAIN.fullmatch(name)) and rights.may("s", "Patient")


def _refused(what: str) -> ForbiddenError:
    return ForbiddenError(f"{what} may not be used with this token", code="parameter")


def _with_owner(name: str, value: str, resource_type: str) -> tuple[str, str]:
    """`_elements` that also asks for what says whose a resource is."""
    if name != "_elements":
        return name, value
    wanted = [item for item in value.split(",") if item]
    owners = deciding_elements(resource_type) - set(wanted)
    return name, ",".join([*wanted, *sorted(owners)])
