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

#: Largest exponent of a decimal; far beyond what a measurement has.
_LARGEST_EXPONENT = 100
#: Digits and sign that fit into 64 bits; a longer number goes on as it stands.
_LONGEST_INTEGER = 18


def loads_exact(body: bytes) -> Any:
    """Parse; decimals become opaque values that `dumps` writes as they stood.

    Raises:
        BadRequestError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(body, parse_float=_decimal, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is not JSON", code="not-json") from error


def _decimal(text: str) -> orjson.Fragment:
    exponent = text.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > _LARGEST_EXPONENT:
        # Whoever writes it without an exponent would need gigabytes.
        raise ValueError("not a number of FHIR")
    return orjson.Fragment(text)


def _integer(text: str) -> int | orjson.Fragment:
    return int(text) if len(text) <= _LONGEST_INTEGER else orjson.Fragment(text)


def _refuse(_name: str) -> None:
    raise ValueError("not a number of JSON")


def dumps(value: Any, *, pretty: bool = False) -> bytes:
    """Write what `loads_exact` read, in UTF-8.

    Raises:
        BadRequestError: nested too deeply, or a text holds half of a surrogate pair.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else 0)
    except orjson.JSONEncodeError as error:
        raise BadRequestError("the body is not JSON", code="not-json") from error
