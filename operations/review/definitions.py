"""OperationDefinitions of this folder, as the JSON files beside this module hold them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

Json = dict[str, Any]

NAMES: Final = ("review", "claim", "release")


def _read(name: str) -> Json:
    path = resources.files(__package__).joinpath(f"definition-{name}.json")
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


DEFINITIONS: Final[tuple[Json, ...]] = tuple(_read(name) for name in NAMES)
