"""References in what is written: to whom they may point, and which of them are searches.

The FHIR server reads more spellings as a local reference than FHIR has (`/Patient/1`,
`x/Patient/1`), and takes `Patient?name=x` for a search over everything that it stores, whose
only match it writes into the resource. So a confined caller writes references in the forms of
FHIR alone, names no Patient outside of its sight anywhere in a resource, and searches nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import BadRequestError, ForbiddenError
from fhir_ext.gateway.confine import check_params
from fhir_ext.gateway.interaction import Interaction, Kind, Params
from fhir_ext.gateway.paths import parse_params
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight

_ID = r"[A-Za-z0-9\-.]{1,64}"
#: A relative reference (FHIR R4 references.html#literal).
_LOCAL = re.compile(rf"([A-Z][A-Za-z]{{1,63}})/({_ID})(?:/_history/{_ID})?")
#: To what is contained, to another entry of a Bundle, or to another server.
_ELSEWHERE = re.compile(r"#[^/\s]*|urn:(?:uuid|oid):[A-Za-z0-9\-.]+|https?://[^\s]+", re.IGNORECASE)

#: Conditions of conditional writes that begin with `_`; others shape an answer or do more
#: than was asked (`_cascade`, `_expunge`).
_CONDITIONS = frozenset(
    {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source", "_has", "_filter"}
)
#: Parameters that shape the answer of a write.
_SHAPING = frozenset({"_format", "_pretty", "_summary", "_elements"})


def check_shape(value: object) -> None:
    """Refuse JSON that the FHIR server reads in another way than it stands there.

    HAPI takes a list within a list for its items, and a list for the only value of an element.

    Raises:
        BadRequestError: a list directly in a list, or a `reference` that is no text.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if not isinstance(item.get("reference", ""), str | dict):
                raise BadRequestError("a reference is no text", code="not-a-resource")
            waiting += item.values()
        elif isinstance(item, list):
            if any(isinstance(inner, list) for inner in item):
                raise BadRequestError("a list stands in a list", code="not-a-resource")
            waiting += item


def references(value: object) -> Iterator[str]:
    """Every `Reference.reference` in a resource or a part of one, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            reference = item.get("reference")
            if isinstance(reference, str):
                yield reference
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def check_reference(reference: str, decision: Decision, rights: Rights, sight: Sight) -> None:
    """Check one reference that is to be written.

    Raises:
        ForbiddenError: it points to a patient of others, searches what the token may not
            search, or has a form that FHIR does not know.
    """
    if "?" in reference:
        _check_search(reference, decision, rights)
    elif decision.confined:
        found = _LOCAL.fullmatch(reference)
        if found is None and not _ELSEWHERE.fullmatch(reference):
            raise ForbiddenError("a reference is none of FHIR's forms", code="confinement")
        if found and found[1] == "Patient" and not sight.patient(found[2], decision.rule):
            raise ForbiddenError(
                "a reference names a patient that this token may not see", code="confinement"
            )


def _check_search(reference: str, decision: Decision, rights: Rights) -> None:
    if decision.confined:
        raise ForbiddenError("references may not be searches", code="confinement")
    if rights.wide():
        return
    address, _, query = reference.partition("?")
    kind = address.rpartition("/")[2]
    params = parse_params(query)
    if kind not in RESOURCE_TYPES:
        raise ForbiddenError("a reference searches no type of R4", code="confinement")
    search = rights.decide(Interaction(Kind.SEARCH_TYPE, "GET", kind, params=params))
    if not search.unlimited:
        raise ForbiddenError("references may not be searches", code="confinement")
    check_params(params, search, rights)


def condition_of_create(text: str, resource_type: str) -> Params:
    """Parameters of an If-None-Exist (FHIR R4 http.html#ccreate).

    Raises:
        BadRequestError: it has none, or speaks of another type.
    """
    address, mark, query = text.strip().rpartition("?")
    if mark and address.rpartition("/")[2] not in ("", resource_type):
        raise BadRequestError("If-None-Exist speaks of another type", code="parameter")
    params = parse_params(query)
    if not params:
        raise BadRequestError("If-None-Exist has no parameters", code="parameter")
    return params


def check_write_params(
    interaction: Interaction, conditions: Params, decision: Decision, rights: Rights
) -> None:
    """Check the parameters of a write and its conditions.

    Raises:
        ForbiddenError: a parameter that does more than say what is written and how it is
            answered, or a condition that looks past what the token may see.
    """
    conditional = interaction.resource_id is None and interaction.kind is not Kind.CREATE
    for name, _ in interaction.params:
        if name.partition(":")[0] not in _SHAPING and not conditional:
            raise ForbiddenError("a write has no such parameter", code="parameter")
    for name, _ in conditions:
        base = name.partition(":")[0]
        if base.startswith("_") and base not in _CONDITIONS and base not in _SHAPING:
            raise ForbiddenError(f"{base} may not be used with a write", code="parameter")
    check_params(conditions, decision, rights)
