"""Nothing that was planted may come out, whichever way it tries to reach the log."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from dbos._error import DBOSInitializationError
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext import logs
from fhir_ext.errors import BadRequestError, UpstreamTimeout
from fhir_ext.log_wording import place
from fhir_ext.logs import FIELDS, configure_logging, event, get_logger, incident, study_ref
from fhir_ext.settings import TelemetrySettings

NAME = "VANDERPLANTED^WILHELMINA"
MRN = "MRN-00482913"
UID = "1.2.826.0.1.3680043.8.498.45787841905188114249621"
FHIR_ID = "5f0c9d3e-77aa-4c1b-9d0a-planted00001"
PLANTED = (NAME, MRN, UID, FHIR_ID, "WILHELMINA", "00482913", "planted00001")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def restored() -> Iterator[None]:
    """Logging, warnings and hooks as they were."""
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = [item for item in known if isinstance(item, logging.Logger)]
    before = [(item, item.handlers[:], item.propagate, item.level) for item in loggers]
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
    key = logs._study_key
    yield
    for item in logging.root.manager.loggerDict.values():
        if isinstance(item, logging.Logger):
            item.handlers.clear()
            item.setLevel(logging.NOTSET)
            item.propagate = True
    for item, handlers, propagate, level in before:
        item.handlers[:], item.propagate = handlers, propagate
        item.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
    logs._study_key = key


@pytest.fixture(params=["json", "text"])
def written(request: pytest.FixtureRequest, restored: None) -> io.StringIO:
    stream = io.StringIO()
    settings = TelemetrySettings(log_level="DEBUG", log_format=request.param)
    configure_logging(settings, "worker", stream)
    return stream


@pytest.fixture
def written_json(restored: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(TelemetrySettings(log_level="DEBUG"), "worker", stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _fail() -> None:
    try:
        raise ValueError(f"could not parse {NAME}")
    except ValueError as error:
        raise KeyError(MRN) from error


def _caught() -> BaseException:
    try:
        _fail()
    except KeyError as error:
        error.add_note(UID)
        return error
    raise AssertionError


own = get_logger("subscriptions.workflow")
foreign = logging.getLogger("dbos")


def _own_allowed_keys() -> None:
    event(own, "step-retried", step=NAME, code=MRN, study=UID, service=FHIR_ID, count=NAME)
    event(
        own, "step-retried", step=UID, code=f"patient-{MRN.lower()}", version=UID, route=f"/{NAME}"
    )
    event(own, "step-retried", error=UID, method=NAME, at=f"{NAME}.py:1", incident=MRN)
    event(own, "step-retried", route=f"/{NAME}")


def _own_unknown_keys() -> None:
    event(own, "study-parked", patient=NAME, mrn=MRN, uid=UID, subject=FHIR_ID)


def _own_name() -> None:
    event(own, f"study-of-{NAME}")
    event(own, f"study-{UID}")
    event(own, "study-00482913")


def _own_plain_calls() -> None:
    own.info("study of %s", NAME)
    own.info(f"study of {NAME} {UID}")
    own.info("study of " + MRN)
    own.info("study", extra={"patient": NAME, logs._CHECKED: {"patient": NAME, "step": MRN}})
    own.info(NAME, extra={logs._CHECKED: NAME})


def _foreign_arguments() -> None:
    foreign.warning("workflow %s of %s failed", FHIR_ID, NAME)
    foreign.warning("workflow %(id)s", {"id": UID})
    foreign.log(logging.ERROR, "workflow %s", MRN)


def _foreign_f_strings() -> None:
    foreign.warning(f"workflow {FHIR_ID} of {NAME} failed")
    foreign.error("workflow {} of {}".format(FHIR_ID, NAME))  # noqa: UP032
    foreign.error("workflow %s" % FHIR_ID)  # noqa: UP031
    message = f"study {UID}"
    foreign.error(message)
    for text in (message, NAME):
        foreign.error(text)


def _foreign_exceptions() -> None:
    try:
        _fail()
    except KeyError:
        foreign.exception("step failed for %s", MRN)
    foreign.error("step failed", exc_info=_caught(), stack_info=True)


def _foreign_extra() -> None:
    foreign.warning("stored", extra={"operationUUID": UID, "patient": NAME})


def _foreign_logger_name() -> None:
    logging.getLogger(f"pydicom.{UID}").warning("odd")
    logging.getLogger(NAME).warning("odd")


def _record_without_source() -> None:
    record = logging.LogRecord("dbos", logging.ERROR, f"/{NAME}.py", 1, NAME, (), None)
    logging.getLogger("dbos").handle(record)


def _uvicorn_access() -> None:
    logging.getLogger("uvicorn.access").warning(
        '%s - "%s %s HTTP/%s" %d',
        "10.0.0.7:1",
        "PUT",
        f"/hooks/Patient/{FHIR_ID}/{NAME}?identifier={MRN}&name={NAME}",
        "1.1",
        204,
    )


def _incident() -> None:
    incident(own, "step-failed", _caught(), step="prepare")


def _grouped() -> None:
    parts = [ValueError(NAME), BadRequestError(UID, code=MRN)]
    incident(own, "step-failed", ExceptionGroup(MRN, parts))


def _our_own_error() -> None:
    incident(own, "step-failed", UpstreamTimeout(f"no answer about {NAME}"))


def _odd_exception_type() -> None:
    incident(own, "step-failed", type(NAME, (Exception,), {})(UID))


def _our_handler() -> logs.SafeHandler:
    return next(item for item in logging.root.handlers if isinstance(item, logs.SafeHandler))


def _broken_arguments() -> None:
    # Past pytest's own handler, which does not bear such a record.
    record = foreign.makeRecord("dbos", 30, __file__, 1, "%d studies", (NAME,), None)
    _our_handler().handle(record)


def _python_warning() -> None:
    warnings.warn(f"Invalid value for VR UI: '{UID}' {NAME}", UserWarning, stacklevel=1)


def _uncaught() -> None:
    error = _caught()
    sys.excepthook(type(error), error, error.__traceback__)


def _uncaught_in_thread() -> None:
    thread = threading.Thread(target=_fail, name=NAME)
    thread.start()
    thread.join()


def _unraisable() -> None:
    class Finalizer:
        def __del__(self) -> None:
            raise ValueError(NAME)

    Finalizer()


def _real_library() -> None:
    """pydicom quotes the value it does not like."""
    pydicom.DataElement(0x0020000D, "UI", NAME, validation_mode=pydicom.config.WARN)


WAYS = [
    _own_allowed_keys,
    _own_unknown_keys,
    _own_name,
    _own_plain_calls,
    _foreign_arguments,
    _foreign_f_strings,
    _foreign_exceptions,
    _foreign_extra,
    _foreign_logger_name,
    _record_without_source,
    _uvicorn_access,
    _incident,
    _grouped,
    _our_own_error,
    _odd_exception_type,
    _broken_arguments,
    _python_warning,
    _uncaught,
    _uncaught_in_thread,
    _unraisable,
    _real_library,
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_planted_text_does_not_come_out(
    way: Callable[[], None], written: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    way()
    printed = capfd.readouterr()
    output = written.getvalue() + printed.out + printed.err
    assert written.getvalue(), "the line itself must be written"
    assert [text for text in PLANTED if text.lower() in output.lower()] == []


@given(st.text(min_size=1))
def test_a_code_never_holds_a_long_number_a_space_or_an_upper_case_letter(text: str) -> None:
    if FIELDS["code"](text):
        assert text.islower()
        assert text.isascii()
        assert " " not in text
        assert not any(text[n : n + 4].isdigit() for n in range(len(text) - 3))


def test_event_shows_what_is_allowed(written_json: io.StringIO) -> None:
    event(own, "step-retried", step="prepare", code="upstream-timeout", attempt=3, leading=True)
    (line,) = lines(written_json)
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "program": "worker",
        "logger": "subscriptions.workflow",
        "event": "step-retried",
        "step": "prepare",
        "code": "upstream-timeout",
        "attempt": 3,
        "leading": True,
    }


def test_unknown_keys_are_counted(written_json: io.StringIO) -> None:
    event(own, "study-parked", patient=NAME, mrn=MRN, step="prepare")
    (line,) = lines(written_json)
    assert line["dropped"] == 2
    assert line["step"] == "prepare"


def test_foreign_lines_keep_their_wording(written_json: io.StringIO) -> None:
    _foreign_arguments()
    _foreign_f_strings()
    assert [line["message"] for line in lines(written_json)] == [
        "workflow … of … failed",
        "workflow …",
        "workflow …",
        "workflow … of … failed",
        "workflow … of …",
        "workflow …",
        "study …",
        "[withheld]",
        "[withheld]",
    ]


def test_access_lines_keep_method_route_and_status(written_json: io.StringIO) -> None:
    _uvicorn_access()
    (line,) = lines(written_json)
    assert line["event"] == "http-access"
    assert line["method"] == "PUT"
    assert line["route"] == "/hooks/Patient/{id}/{id}"
    assert line["http_status"] == 204


def test_exceptions_show_type_place_and_cause(written_json: io.StringIO) -> None:
    number = incident(own, "step-failed", _caught(), step="prepare")
    (line,) = lines(written_json)
    assert line["incident"] == number
    error = line["exception"]
    assert isinstance(error, dict)
    assert error["type"] == "KeyError"
    assert error["cause"]["type"] == "ValueError"
    here = place(__file__, _fail.__code__.co_firstlineno + 4)
    assert error["at"][-1] == here
    assert here.endswith(f"test_logs.py:{_fail.__code__.co_firstlineno + 4}")


def test_private_and_local_exception_types_are_named(
    written_json: io.StringIO,
) -> None:
    class LocalError(Exception):
        pass

    incident(own, "step-failed", DBOSInitializationError("x"))
    incident(own, "step-failed", LocalError("x"))
    private, local = (line["exception"] for line in lines(written_json))
    assert private == {"type": "dbos._error.DBOSInitializationError"}
    assert isinstance(local, dict)
    assert local["type"].endswith("named.<locals>.LocalError")


def test_our_errors_show_their_code(written_json: io.StringIO) -> None:
    incident(own, "step-failed", UpstreamTimeout("no answer in 30 s"))
    (line,) = lines(written_json)
    assert line["exception"] == {
        "type": "fhir_ext.errors.UpstreamTimeout",
        "code": "upstream-timeout",
    }


def test_a_chain_that_bites_its_tail_ends(written_json: io.StringIO) -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    incident(own, "step-failed", first)
    assert len(lines(written_json)) == 1


def test_text_is_one_readable_line(restored: None) -> None:
    stream = io.StringIO()
    configure_logging(TelemetrySettings(log_format="text"), "worker", stream)
    event(own, "step-retried", step="prepare", seconds=0.123456)
    assert stream.getvalue()[13:] == (
        "INFO    worker subscriptions.workflow  step-retried  step=prepare seconds=0.1235\n"
    )


def test_a_line_that_cannot_be_written_is_reported_without_its_content(
    restored: None, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    configure_logging(TelemetrySettings(), "worker", stream)
    stream.close()
    _our_handler().handle(foreign.makeRecord("dbos", 30, __file__, 1, NAME, (), None))
    assert capfd.readouterr().err == "a log line could not be written\n"


def test_levels_foreign_libraries_are_quiet(restored: None) -> None:
    stream = io.StringIO()
    configure_logging(TelemetrySettings(log_level="INFO"), "serve", stream)
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")
    own.debug("detail")
    event(own, "worker-ready")
    assert [line["event"] for line in lines(stream)] == ["worker-ready"]


def test_handlers_of_libraries_are_replaced(restored: None) -> None:
    leak = io.StringIO()
    logging.getLogger("dbos").addHandler(logging.StreamHandler(leak))
    stream = io.StringIO()
    configure_logging(TelemetrySettings(), "worker", stream)
    from dbos._logger import init_logger

    init_logger()
    foreign.warning("workflow %s", UID)
    assert leak.getvalue() == ""
    assert [line["message"] for line in lines(stream)] == ["workflow …"]


def test_study_ref_is_keyed_and_short(restored: None) -> None:
    salted = TelemetrySettings.model_validate({"log_salt": "a-salt-of-sixteen-or-more"})
    configure_logging(salted, "serve", io.StringIO())
    ref = study_ref(UID)
    configure_logging(salted, "worker", io.StringIO())
    assert study_ref(UID) == ref
    assert len(ref) == 12
    assert FIELDS["study"](ref)
    other = TelemetrySettings.model_validate({"log_salt": "another-salt-of-sixteen"})
    configure_logging(other, "worker", io.StringIO())
    assert study_ref(UID) != ref


def _calls(pattern: str) -> Iterator[tuple[Path, ast.Call]]:
    """Calls in our packages of what `pattern` matches, for example `event` or `log.info`."""
    for package in logs.OWN_PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and re.fullmatch(pattern, ast.unparse(node.func)):
                    yield path.relative_to(ROOT), node


def test_every_call_in_the_project_uses_constant_names_and_known_fields() -> None:
    """`fhir_ext.logs` and the workflow's generic step hand on names they were given."""
    calls = [
        (path, call)
        for path, call in _calls("event|incident|span|step_span")
        if path.name not in {"logs.py", "telemetry.py"}
    ]
    assert len(calls) >= 5
    wrong = []
    for path, call in calls:
        function = ast.unparse(call.func)
        name = call.args[0] if function == "span" else call.args[min(1, len(call.args) - 1)]
        if function != "step_span" and not isinstance(name, ast.Constant):
            wrong.append(f"{path}:{call.lineno} name")
        wrong += [
            f"{path}:{call.lineno} {keyword.arg}"
            for keyword in call.keywords
            if keyword.arg not in {*FIELDS, "level"}
        ]
    assert wrong == []


def test_no_module_of_ours_logs_around_event() -> None:
    methods = "debug|info|warning|error|exception|critical|log"
    calls = [
        f"{path}:{call.lineno}"
        for path, call in _calls(rf"(_?log|_?logger|logging)\.({methods})")
        if path.name != "logs.py"
    ]
    assert calls == []
