"""What may be shown of a log record that another library wrote.

A record's message may have been put together from patient data before it reached the
logger (an f-string), so nothing of it is trusted. The wording is read from the source
code of the call instead, with `…` where a value would stand.
"""

from __future__ import annotations

import ast
import logging
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

#: Stands where something was left out.
WITHHELD: Final = "[withheld]"
_HOLE: Final = "…"

#: How `place` shows a line of source code.
PLACE: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_-]{0,60}/){0,12}[A-Za-z_]\w{0,60}\.py:\d{1,6}")

_LOG_METHODS = frozenset(
    {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
)
_MAX_WORDING = 300

#: printf-style conversions, as the standard library's `%` formatting has them.
_CONVERSION = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[a-zA-Z]")

_LOGGER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}(?:\.[A-Za-z_][A-Za-z0-9_]{0,40}){0,8}")

#: Path segments that are names of ours or of FHIR; every other one may be an id.
_PATH_WORDS = frozenset(
    {
        "assets",
        "hooks",
        "fhir",
        "health",
        "live",
        "metrics",
        "ready",
        "status.json",
        "studies",
        "ImagingStudy",
        "Observation",
        "Patient",
        "Subscription",
        "Task",
    }
)


def wording(record: logging.LogRecord) -> str:
    """The constant part of a foreign log line, or `[withheld]` where no source tells it."""
    return _calls(record.pathname).get(record.lineno, WITHHELD)


def shown_logger_name(name: str) -> str:
    """A logger's name when it looks like a module path."""
    return name if _LOGGER_NAME.fullmatch(name) else WITHHELD


def access_line(args: object) -> dict[str, object]:
    """Fields of a line of uvicorn's access log: method, route, status; no address, no query.

    Args:
        args: the record's (client address, method, path with query, HTTP version, status).
    """
    if not isinstance(args, tuple) or len(args) != 5:
        return {}
    _client, method, path, _version, status = args
    segments = str(path).partition("?")[0].strip("/").split("/")
    shown = "/".join(part if part in _PATH_WORDS else "{id}" for part in segments if part)
    return {"method": method, "route": f"/{shown}" if shown else None, "http_status": status}


@lru_cache(maxsize=4096)
def place(filename: str, line: int) -> str:
    """`package/module.py:line`, without the folders of this machine."""
    path = Path(filename)
    parents = [root for root in map(Path, sys.path) if path.is_relative_to(root)]
    nearest = max(parents, key=lambda root: len(root.parts), default=path.parent)
    shown = f"{path.relative_to(nearest)}:{line}"
    return shown if PLACE.fullmatch(shown) else WITHHELD


@lru_cache(maxsize=256)
def _calls(filename: str) -> dict[int, str]:
    """Wording of every log call of a source file, by each line that the call covers."""
    try:
        with tokenize.open(filename) as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[int, str] = {}
    assigned = dict(_assigned(tree))
    for call in _log_calls(tree):
        text = _wording_of(call, assigned)
        found.update(dict.fromkeys(range(call.lineno, (call.end_lineno or call.lineno) + 1), text))
    return found


def _log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=method), args=[_, *_]) if method in _LOG_METHODS:
                yield node


def _assigned(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """A variable that is a call's first argument, and what its block assigned to it before."""
    for node in ast.walk(tree):
        values: dict[str, ast.expr] = {}
        # Of a lambda and of a conditional expression the body is an expression.
        block = getattr(node, "body", None)
        for statement in block if isinstance(block, list) else ():
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = value
                case ast.Expr(value=ast.Call(args=[ast.Name(id=name) as used, *_])):
                    if name in values:
                        yield used, values[name]


def _wording_of(call: ast.Call, assigned: Mapping[ast.expr, ast.expr]) -> str:
    assert isinstance(call.func, ast.Attribute)
    arguments = call.args[1:] if call.func.attr == "log" else call.args
    if not arguments:
        return WITHHELD
    text = _constant_part(assigned.get(arguments[0], arguments[0]))
    if text is None:
        return WITHHELD
    return " ".join(_CONVERSION.sub(_HOLE, text).split())[:_MAX_WORDING] or WITHHELD


def _constant_part(node: ast.expr) -> str | None:
    """Text of a literal, f-string, sum, `%` or `.format` expression with holes for values."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_constant_part(part) or _HOLE for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_constant_part(left) or _HOLE) + (_constant_part(right) or _HOLE)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _constant_part(left)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return re.sub(r"\{[^{}]*\}", _HOLE, text)
        case _:
            return None
