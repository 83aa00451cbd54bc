"""JSON that is read, checked and written again without changing a number.

FHIR R4 (datatypes.html#decimal) keeps the precision of decimals: 1.50 is not 1.5. What is
written again is also exactly what was checked: a name that stands twice in an object, which
other parsers may read differently, is there once.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from fhir_ext.errors import BadRequestError

Json = dict[str, Any]


def loads_exact(body: bytes) -> Any:
    """Parse; decimals become opaque values that `dumps` writes as they stood.

    Raises:
        BadRequestError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(body, parse_float=orjson.Fragment, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is not JSON", code="not-json") from error


def _refuse(_name: str) -> None:
    raise ValueError("not a number of JSON")


def dumps(value: Any, *, pretty: bool = False) -> bytes:
    """Write what `loads_exact` read, in UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else 0)
