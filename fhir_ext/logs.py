"""Structured logs that cannot carry patient data.

Everything is refused unless it is known to be harmless:

- Our own lines are an event name and fields. A field is written only when its key is in
  `FIELDS` and its value has the shape that the key allows (`event`).
- Lines of other libraries keep their wording, taken from the library's source code and
  never from the record, so that neither arguments nor f-strings reach the log
  (`fhir_ext.log_wording`).
- Exceptions become their types and the places in the code they came through; their
  texts, which quote whatever they choked on, are left out.
- A study appears under `study_ref`, never under its UID.

Not covered: what somebody prints; ruff's T20 forbids that in this project.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from opentelemetry import trace

from fhir_ext.errors import FhirExtError
from fhir_ext.log_wording import (
    PLACE,
    WITHHELD,
    access_line,
    place,
    shown_logger_name,
    wording,
)
from fhir_ext.settings import TelemetrySettings

#: Packages whose loggers follow `telemetry.log_level`; all others start at WARNING.
OWN_PACKAGES: Final = ("fhir_ext", "operations", "subscriptions", "models")

#: Loggers of libraries whose INFO lines an operator wants (start, stop, bind address).
CHATTY_ENOUGH: Final = ("uvicorn.error",)

_SLUG = re.compile(r"[a-z][a-z0-9]*(?:[-_.][a-z0-9]{1,24}){0,7}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TYPE = re.compile(r"[A-Za-z_]\w{0,60}(?:\.(?:<locals>|[A-Za-z_]\w{0,60})){0,10}", re.ASCII)
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4}){1,2}(?:[-+.][a-z]{1,8}\d{0,3})?")
_HEX = re.compile(r"[0-9a-f]{8,12}")
_ROUTE = re.compile(r"/|(?:/(?:[A-Za-z][a-zA-Z.-]{0,40}|\{[a-z_]{1,40}\}|\$[a-z-]{1,40})){1,12}/?")
_METHOD = re.compile(r"[A-Z]{3,7}")
#: Longer numbers could be record numbers.
_LARGEST_INTEGER = 10**12
#: A run of digits as long as in a UID or record number is never part of a code of ours.
_DIGITS = re.compile(r"\d{4}")


def _slug(value: object) -> bool:
    return isinstance(value, str) and bool(_SLUG.fullmatch(value)) and not _DIGITS.search(value)


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


def _number(value: object) -> bool:
    return isinstance(value, bool | int | float) and abs(value) < _LARGEST_INTEGER


#: Every field that may be logged or put on a span, and the shape its value must have.
#: Codes are ours (kebab-case); numbers are counts, sizes and times.
FIELDS: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(
        (
            "channel",
            "code",
            "kind",
            "loop",
            "model",
            "operation",
            "part",
            "program",
            "reason",
            "rule",
            "service",
            "state",
            "status",
            "step",
            "topic",
        ),
        _slug,
    ),
    **dict.fromkeys(
        (
            "attempt",
            "bytes",
            "count",
            "delay_seconds",
            "depth",
            "exit_status",
            "failed",
            "http_status",
            "instances",
            "leading",
            "pid",
            "port",
            "seconds",
            "series",
            "studies",
        ),
        _number,
    ),
    "at": _matches(PLACE),
    "error": _matches(_WORD),
    "incident": _matches(_HEX),
    "method": _matches(_METHOD),
    "route": _matches(_ROUTE),
    "study": _matches(_HEX),
    "version": _matches(_VERSION),
}

_EVENT_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

#: Keys under which a record carries what `event` has already checked.
_CHECKED = "fhir_ext_checked_fields"

#: Deepest chain of causes and of grouped exceptions that is described.
_DEEPEST_CHAIN = 8
_FRAMES = 12

_study_key = secrets.token_bytes(32)


def get_logger(name: str) -> logging.Logger:
    """Logger of one of our modules; write to it with `event` and `incident` only."""
    return logging.getLogger(name)


def study_ref(study_instance_uid: str) -> str:
    """Short opaque name of a study for logs and traces: 12 hex digits.

    Keyed with `telemetry.log_salt`, so that nobody without the key can find out by trying
    UIDs; the same in all programs that share the setting.
    """
    return hmac.new(_study_key, study_instance_uid.encode(), hashlib.sha256).hexdigest()[:12]


def safe_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that may leave the process.

    A value of the wrong shape becomes `[withheld]`; an unknown key is dropped and counted
    in `dropped`. It does not raise: a line that is written only when something breaks
    must not break it further. A test checks the keys of every call in the project.
    """
    kept: dict[str, object] = {}
    dropped = 0
    for key, value in fields.items():
        shape = FIELDS.get(key)
        if shape is None:
            dropped += 1
        elif value is not None:
            kept[key] = value if shape(value) else WITHHELD
    return {**kept, "dropped": dropped} if dropped else kept


def event(
    logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: object
) -> None:
    """Log one event.

    Args:
        logger: from `get_logger`.
        name: constant in kebab-case.
        level: of the standard library.
        fields: see `FIELDS`.
    """
    _write(logger, level, name, fields, None)


def incident(logger: logging.Logger, name: str, error: BaseException, **fields: object) -> str:
    """Log an unexpected exception under an opaque number that may be shown to anyone.

    Returns:
        The incident's number, 12 hex digits.
    """
    number = secrets.token_hex(6)
    _write(logger, logging.ERROR, name, {**fields, "incident": number}, error)
    return number


def _write(
    logger: logging.Logger,
    level: int,
    name: str,
    fields: Mapping[str, object],
    error: BaseException | None,
) -> None:
    shown = name if _EVENT_NAME.fullmatch(name) and not _DIGITS.search(name) else WITHHELD
    logger.log(level, shown, exc_info=error, extra={_CHECKED: safe_fields(fields)})


def describe(error: BaseException, depth: int = 0) -> dict[str, object]:
    """Type, places and causes of an exception, without any of its text.

    Args:
        error: any exception; the code of one of ours is kept.
        depth: how many causes lie above.
    """
    told: dict[str, object] = {"type": _type_name(type(error))}
    if isinstance(error, FhirExtError):
        told["code"] = error.code if _slug(error.code) else WITHHELD
    if places := _places(error.__traceback__):
        told["at"] = places
    if depth >= _DEEPEST_CHAIN:
        return told
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        told["cause"] = describe(cause, depth + 1)
    if isinstance(error, BaseExceptionGroup):
        told["group"] = [describe(part, depth + 1) for part in error.exceptions[:_DEEPEST_CHAIN]]
    return told


def _type_name(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return name if _TYPE.fullmatch(name) else WITHHELD


def _places(traceback: TracebackType | None) -> list[str]:
    """Where the exception passed, innermost last, as `package/file.py:line`."""
    places = []
    while traceback is not None:
        places.append(place(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return places[-_FRAMES:]


class SafeFormatter(logging.Formatter):
    """Turns any log record, ours or foreign, into one line without patient data.

    Args:
        program: name of the program that writes.
        as_json: one JSON object per line; else text for a terminal.
    """

    def __init__(self, program: str, *, as_json: bool) -> None:
        super().__init__()
        self._program = program
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        line = self.content(record)
        return json.dumps(line, ensure_ascii=False) if self._as_json else _as_text(line)

    def content(self, record: logging.LogRecord) -> dict[str, object]:
        """What is written of a record, before it becomes JSON or text."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname if _WORD.fullmatch(record.levelname) else str(record.levelno),
            "program": self._program,
            "logger": shown_logger_name(record.name),
        }
        checked = record.__dict__.get(_CHECKED)
        if isinstance(checked, dict):
            line["event"] = record.msg
            # Checked again: `extra` is open to anyone.
            line |= safe_fields({key: value for key, value in checked.items() if key != "dropped"})
            if isinstance(checked.get("dropped"), int):
                line["dropped"] = checked["dropped"]
        elif record.name == "uvicorn.access":
            line["event"] = "http-access"
            line |= safe_fields(access_line(record.args))
        else:
            line["message"] = wording(record)
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace"] = trace.format_trace_id(context.trace_id)
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None:
            line["exception"] = describe(error)
        return line


def _as_text(line: dict[str, object]) -> str:
    shown = dict(line)
    moment, level, program, logger = (
        str(shown.pop(k)) for k in ("time", "level", "program", "logger")
    )
    said = str(shown.pop("event", "") or shown.pop("message", ""))
    error = shown.pop("exception", None)
    fields = " ".join(f"{key}={_plain(value)}" for key, value in shown.items())
    head = f"{moment[11:23]} {level:<7} {program:<6} {logger}  {said}"
    text = f"{head}  {fields}" if fields else head
    return f"{text}\n{_exception_text(error)}" if isinstance(error, dict) else text


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _exception_text(error: dict[str, Any], indent: str = "    ") -> str:
    code = f" ({error['code']})" if "code" in error else ""
    lines = [f"{indent}{error['type']}{code}"]
    lines += [f"{indent}  {where}" for where in error.get("at", ())]
    if "cause" in error:
        lines += [f"{indent}caused by", _exception_text(error["cause"], indent)]
    for part in error.get("group", ()):
        lines.append(_exception_text(part, indent + "  | "))
    return "\n".join(lines)


class SafeHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream; a record that cannot be written is reported without its content."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  name of the base class
        # The base class prints the record's message and arguments.
        sys.stderr.write("a log line could not be written\n")


def configure_logging(
    settings: TelemetrySettings, program: str, stream: TextIO | None = None
) -> None:
    """Send every log line of this process through `SafeFormatter`; safe to call again.

    Also catches what Python itself would print: warnings, and exceptions that nobody
    caught in the main thread, in other threads and in finalizers.

    Args:
        settings: level, format and key.
        program: `serve`, `worker`, ...; part of every line.
        stream: standard error without it.
    """
    global _study_key
    if settings.log_salt is not None:
        _study_key = settings.log_salt.get_secret_value().encode()
    handler = SafeHandler(stream)
    handler.setFormatter(SafeFormatter(program, as_json=settings.log_format == "json"))
    _take_over_handlers(handler)
    logging.getLogger().setLevel(logging.WARNING)
    for name in OWN_PACKAGES:
        logging.getLogger(name).setLevel(settings.log_level)
    for name in CHATTY_ENOUGH:
        logging.getLogger(name).setLevel(
            max(logging.INFO, logging.getLevelName(settings.log_level))
        )
    _catch_what_python_prints()


def _take_over_handlers(handler: logging.Handler) -> None:
    """Leave `handler` as the only one in the process."""
    root = logging.getLogger()
    for existing in [root, *logging.root.manager.loggerDict.values()]:
        if isinstance(existing, logging.Logger):
            existing.handlers.clear()
            existing.propagate = True
    root.addHandler(handler)
    # DBOS brings its own handler unless its logger has one already.
    queue = logging.getLogger("dbos")
    queue.addHandler(handler)
    queue.propagate = False


def _catch_what_python_prints() -> None:
    log = get_logger(__name__)

    def on_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        kind, where = category.__name__, place(filename, lineno)
        event(log, "python-warning", level=logging.WARNING, error=kind, at=where)

    def on_exception(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        number = incident(log, "uncaught-exception", error)
        sys.stderr.write(f"stopped by an unexpected error; incident {number} in the log\n")

    def on_thread_exception(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            incident(log, "uncaught-exception", args.exc_value)

    def on_unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            incident(log, "unraisable-exception", args.exc_value)

    warnings.showwarning = on_warning
    sys.excepthook = on_exception
    threading.excepthook = on_thread_exception
    sys.unraisablehook = on_unraisable
