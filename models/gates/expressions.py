"""Regular expressions of manifests and rules, which are matched against headers of anybody.

Python's matcher tries one way after another, and some expressions have more ways than there
is time: `(a+)+$` takes minutes for 32 letters. Those are refused when they are written.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

#: Longest value that is matched, in characters; LO of DICOM has 64 (PS3.5 section 6.2).
LONGEST_VALUE: Final = 128
_LONGEST_EXPRESSION: Final = 1000
#: Most ways in which an expression may match one value: a fraction of a second.
_MOST_WAYS: Final = 3e6
#: A repetition of what has several ways itself has that many to this power.
_MOST_TIMES: Final = 16


def checked_expression(text: str) -> str:
    """A regular expression that can be compiled and that ends in time.

    Raises:
        ValueError: it is none, or it may take too long.
    """
    if len(text) > _LONGEST_EXPRESSION:
        raise ValueError(f"a regular expression has at most {_LONGEST_EXPRESSION} characters")
    try:
        re.compile(text)
        ways = _ways(importlib.import_module("re._parser").parse(text))
    except (re.error, OverflowError) as error:
        raise ValueError(f"bad regular expression: {error}") from error
    except RecursionError as error:
        raise ValueError("the regular expression is nested too deeply") from error
    if ways > _MOST_WAYS:
        raise ValueError("the regular expression may take too long: repetitions that overlap")
    return text


def matched_part(value: str) -> str:
    """What of a value is matched."""
    return value[:LONGEST_VALUE]


def _ways(parsed: Any) -> float:
    """In how many ways a sequence of parts can match one value, at most."""
    ways = 1.0
    for operation, argument in parsed:
        ways *= _ways_of(str(operation), argument)
    return ways


def _ways_of(operation: str, argument: Any) -> float:
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inner = argument
        inside = _ways(inner)
        lengths = min(int(most) - int(least) + 1, LONGEST_VALUE)
        if inside == 1:
            return lengths
        return float(lengths * inside ** int(most)) if int(most) <= _MOST_TIMES else float("inf")
    if operation == "BRANCH":
        return float(sum(_ways(item) for item in argument[1]))
    if operation == "SUBPATTERN":
        return _ways(argument[-1])
    if operation in ("ASSERT", "ASSERT_NOT"):
        return _ways(argument[1])
    if operation == "ATOMIC_GROUP":
        return _ways(argument)
    if operation == "GROUPREF_EXISTS":
        return float(sum(_ways(item) for item in argument[1:] if item))
    return 1.0
