"""Resource scopes of SMART App Launch 2.2 and their v1 forms.

Whatever is not understood to the last character grants nothing: an unknown type, letters out
of order, or a restriction that the FHIR server could overlook drops the whole scope. It is
never read as a wider one.
"""

from __future__ import annotations

import re
from typing import Final, cast
from urllib.parse import unquote

from fhir_ext.auth.grant import ScopeContext, SmartScope
from fhir_ext.auth.resource_types import RESOURCE_TYPES

#: SMART 1.0 access in letters of 2.2 (section "Scopes for requesting FHIR Resources").
_V1: Final = {"read": frozenset("rs"), "write": frozenset("cud"), "*": frozenset("cruds")}

_SCOPE = re.compile(r"(patient|user|system)/([A-Za-z]+|\*)\.([a-z]+|\*)(?:\?(.*))?", re.DOTALL)
#: Letters in the order of the standard.
_LETTERS = re.compile(r"c?r?u?d?s?")

#: Name of a search parameter with its modifier. Of those with an underscore only the ones
#: that filter: the others shape the answer (`_include`, `_elements`) or reach further (`_has`).
_NAME = r"(?:[a-z][A-Za-z0-9-]*|_(?:id|lastUpdated|tag|profile|security|source))(?::[A-Za-z-]+)?"
#: Also a chain: `subject:Patient.birthdate`.
_PARAMETER = re.compile(rf"{_NAME}(?:\.{_NAME})*")
#: Between the alternatives of one value; an escaped comma is part of one (search.html#escaping).
_COMMA = re.compile(r"(?<!\\),")
#: `%` that is not followed by two hex digits.
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_scopes(text: str) -> tuple[SmartScope, ...]:
    """The resource scopes of a `scope` value.

    Args:
        text: scopes with spaces between them (RFC 6749 section 3.3).

    Returns:
        Each resource scope once, in the order of the text; others (`openid`, `launch`, ...)
        and malformed ones are left out.
    """
    found = (_parse(word) for word in text.split(" "))
    return tuple(dict.fromkeys(scope for scope in found if scope is not None))


def _parse(word: str) -> SmartScope | None:
    match = _SCOPE.fullmatch(word)
    if match is None:
        return None
    context, resource_type, access, query = match.groups()
    if resource_type != "*" and resource_type not in RESOURCE_TYPES:
        return None
    letters = _letters(access, restricted=query is not None)
    restriction = () if query is None else _restriction(query)
    if letters is None or restriction is None:
        return None
    return SmartScope(cast(ScopeContext, context), resource_type, letters, restriction)


def _letters(access: str, *, restricted: bool) -> frozenset[str] | None:
    """What the part after the dot grants; v1 forms know no restriction."""
    if access in _V1:
        return None if restricted else _V1[access]
    return frozenset(access) if _LETTERS.fullmatch(access) else None


def _restriction(query: str) -> tuple[tuple[str, str], ...] | None:
    """The parameters after `?`; None when one of them might not restrict.

    A FHIR server ignores a parameter without a value, so such a scope would grant more than
    its text says.
    """
    found = []
    for pair in query.split("&"):
        encoded_name, _, encoded_value = pair.partition("=")
        name, value = _decoded(encoded_name), _decoded(encoded_value)
        if not name or not value or not _restricts(name, value):
            return None
        found.append((name, value))
    return tuple(found)


def _restricts(name: str, value: str) -> bool:
    if not _PARAMETER.fullmatch(name):
        return False
    return all(any(map(str.isalnum, item)) for item in _COMMA.split(value))


def _decoded(text: str) -> str | None:
    """Percent-decoded UTF-8 without control characters, or None."""
    if _BAD_PERCENT.search(text):
        return None
    try:
        value = unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() and value.strip() == value else None
