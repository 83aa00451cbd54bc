"""What of the scopes that an app asks for is granted, and how a person is told.

Resource scopes are read as the gateway reads them (`fhir_ext.auth.scopes`): what the gateway
does not understand is not granted. Restrictions stay as they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fhir_ext.auth.grant import SmartScope
from fhir_ext.auth.scopes import parse_scopes

#: Scopes that name no resource (SMART App Launch 2.2, "Scopes for requesting context data"
#: and "identity data"; OpenID Connect Core 1.0 section 3.1.2.1), and what they mean.
SPECIAL: Final = {
    "openid": "Know who you are",
    "fhirUser": "Read your own entry in the directory",
    "profile": "Know your name",
    "launch": "Know which patient is open in the record system",
    "launch/patient": "Know which patient you choose",
    "launch/encounter": "Know which encounter is open",
    "offline_access": "Keep its access while you are away",
    "online_access": "Keep its access while you are logged in",
}

_VERBS: Final = {"c": "create", "r": "read", "u": "change", "d": "delete", "s": "search"}

_WHOSE: Final = {
    "patient": "of the chosen patient",
    "user": "that you may see",
    "system": "of everybody",
}


def granted(asked: str | None, allowed: Iterable[str], *, system: bool) -> str:
    """The scopes that a client gets.

    Args:
        asked: `scope` of its request.
        allowed: what the client is registered for; a restriction there is not looked at.
        system: whether no user is there: `system/` scopes then, and nothing else.

    Returns:
        The granted ones as they were asked for, with spaces between; maybe empty.
    """
    allowed_words = set(allowed)
    limits = parse_scopes(" ".join(allowed_words))

    def allows(word: str) -> bool:
        if word in SPECIAL:
            return not system and word in allowed_words
        parsed = parse_scopes(word)
        return bool(parsed) and _within(parsed[0], limits, system=system)

    return " ".join(dict.fromkeys(word for word in (asked or "").split(" ") if allows(word)))


def _within(scope: SmartScope, limits: tuple[SmartScope, ...], *, system: bool) -> bool:
    if (scope.context == "system") is not system:
        return False
    return any(
        limit.context == scope.context and limit.covers(scope.resource_type, scope.letters)
        for limit in limits
    )


def needs_patient(scope: str) -> bool:
    """Whether a patient must be in context for these scopes."""
    words = scope.split(" ")
    return "launch/patient" in words or any(word.startswith("patient/") for word in words)


def described(scope: str) -> list[tuple[str, str]]:
    """Each scope with the sentence that the consent page shows."""
    return [(word, SPECIAL.get(word) or _described(word)) for word in scope.split(" ") if word]


def _described(word: str) -> str:
    parsed = parse_scopes(word)[0]
    verbs = [verb for letter, verb in _VERBS.items() if letter in parsed.letters]
    what = "all data" if parsed.resource_type == "*" else parsed.resource_type
    limits = ", ".join(f"{name} = {value}" for name, value in parsed.restriction)
    suffix = f", only where {limits}" if limits else ""
    return f"{_listed(verbs).capitalize()} {what} {_WHOSE[parsed.context]}{suffix}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
