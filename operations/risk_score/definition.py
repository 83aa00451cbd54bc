"""The OperationDefinition of `$risk-score`, as the JSON file beside this module holds it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

Json = dict[str, Any]


def _read() -> Json:
    path = resources.files(__package__).joinpath("definition.json")
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


DEFINITION: Final[Json] = _read()
