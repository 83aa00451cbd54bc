"""What pydantic and PyYAML say, in the words of somebody who writes a manifest."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from models.manifest.base import KEBAB, SEMVER, SHA256

#: By type of pydantic's error.
_REASONS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is no field here",
    "tuple_type": "must be a list, as [a, b]",
    "string_type": "must be text: put it in quotes",
    "model_type": "must be lines of `key: value`",
    "model_attributes_type": "must be lines of `key: value`",
    "dict_type": "must be lines of `key: value`",
}
_PATTERNS: Final = {
    KEBAB: "must be lower-case letters and digits, with hyphens between words",
    SEMVER: "must be three numbers, as 1.0.0 or 1.0.0-rc.1",
    SHA256: "must be 64 hex digits in lower case",
}

#: By words of PyYAML's.
_HINTS: Final = {
    "expected <block end>": "is a line above or below indented otherwise?",
    "mapping values are not allowed": "a text with a colon in it needs quotes",
    "'\\t' that cannot start": "indent with spaces, not with tabs",
}


def reason(error: Mapping[str, Any]) -> str:
    """One error of pydantic as a sentence without its subject."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "union_tag_invalid":
        return _not_one_of(context)
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        return _PATTERNS[context["pattern"]]
    return _REASONS.get(kind) or str(error["msg"]).removeprefix("Value error, ")


def causes(errors: Sequence[Any]) -> Iterator[Any]:
    """Errors without those that only follow from others: a list is too short without bad items."""
    places = [tuple(error["loc"]) for error in errors]
    for error in errors:
        at = tuple(error["loc"])
        inside = any(place[: len(at)] == at and len(place) > len(at) for place in places)
        if not (error["type"] == "too_short" and inside):
            yield error


def yaml_problem(text: str) -> str:
    """What PyYAML says, with what it mostly means."""
    hint = next((hint for words, hint in _HINTS.items() if words in text), None)
    return f"{text}: {hint}" if hint else text


def _not_one_of(context: Mapping[str, Any]) -> str:
    field, tag = context["discriminator"].strip("'"), context["tag"]
    known = [item.strip(" '") for item in context["expected_tags"].split(",")]
    near = difflib.get_close_matches(tag, known, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{field} must be one of {', '.join(known)}{meant}"
