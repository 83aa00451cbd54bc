"""The hash over everything in a manifest that changes numbers.

A manifest written before a field existed must keep its hash, because ids and UIDs derive
from it: a field counts while it differs from its default. Fields of the first edition of
the schema always count, as they did then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

#: Optional fields of the first edition, by the class that brings them.
_FIRST_EDITION = {
    "Inputs": {"min_slices"},
    "GateBase": {"applies_to"},
    "Bounded": {"min", "max", "unknown"},
    "SpacingGate": {"max_between_slices", "max_in_plane"},
    "BurnedInAnnotationGate": {"unknown"},
}
#: Words for people, wherever they stand.
_WORDS = frozenset({"because", "source", "licence", "display"})


def settings_hash(parts: dict[str, Any]) -> str:
    """sha256 (hex) of parts of a manifest: models, tuples and plain values."""
    canonical = json.dumps(
        {name: _plain(value) for name, value in parts.items()},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in _counting(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _counting(part: BaseModel) -> Iterable[str]:
    kind = type(part)
    always = set().union(*(_FIRST_EDITION.get(base.__name__, set()) for base in kind.__mro__))
    silent = _WORDS | getattr(kind, "operational", frozenset())
    for name, field in kind.model_fields.items():
        if name in silent:
            continue
        unset = not field.is_required() and getattr(part, name) == field.get_default(
            call_default_factory=True, validated_data={}
        )
        if name in always or not unset:
            yield name
