"""Metrics and traces: what they say, and that patient data stay out."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import generate_latest

from fhir_ext import telemetry
from fhir_ext.errors import UpstreamTimeout
from fhir_ext.settings import TelemetrySettings
from fhir_ext.telemetry import (
    MOST_LABEL_VALUES,
    Metrics,
    configure_tracing,
    extract,
    inject,
    span,
    step_span,
    traces_endpoint,
)

NAME = "VANDERPLANTED^WILHELMINA"
UID = "1.2.826.0.1.3680043.8.498.45787841905188114249621"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Spans of this test, as an exporter would get them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {item.name: item for item in exporter.get_finished_spans()}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_queue_and_parked_show_the_present() -> None:
    metrics = Metrics()
    metrics.queue(7, 12.5)
    metrics.parked(2)
    assert value(metrics, "fhir_ext_queue_depth") == 7
    assert value(metrics, "fhir_ext_queue_oldest_seconds") == 12.5
    assert value(metrics, "fhir_ext_parked_studies") == 2
    metrics.queue(0, None)
    assert value(metrics, "fhir_ext_queue_oldest_seconds") == 0


def test_steps_are_timed_with_their_outcome() -> None:
    metrics = Metrics()
    with metrics.step("prepare"):
        pass
    with pytest.raises(UpstreamTimeout), metrics.step("prepare"):
        raise UpstreamTimeout("no answer in 30 s")
    with pytest.raises(ZeroDivisionError), metrics.step("prepare"):
        _ = 1 // 0
    for outcome in ("done", "upstream-timeout", "internal"):
        labels = {"step": "prepare", "outcome": outcome}
        assert value(metrics, "fhir_ext_step_seconds_count", **labels) == 1


def test_counters_count() -> None:
    metrics = Metrics()
    metrics.study("done")
    metrics.outcome("lung-density", "refused", ["kernel", "kernel", "thickness"])
    metrics.retry("publish", "upstream-timeout")
    metrics.delivery("rest-hook", "delivered")
    samples = {
        "fhir_ext_studies_total": ({"outcome": "done"}, 1),
        "fhir_ext_services_total": ({"service": "lung-density", "outcome": "refused"}, 1),
        "fhir_ext_refusals_total": ({"service": "lung-density", "rule": "kernel"}, 2),
        "fhir_ext_retries_total": ({"step": "publish", "kind": "upstream-timeout"}, 1),
        "fhir_ext_deliveries_total": ({"channel": "rest-hook", "outcome": "delivered"}, 1),
    }
    for name, (labels, expected) in samples.items():
        assert value(metrics, name, **labels) == expected


def test_labels_hold_codes_only() -> None:
    metrics = Metrics()
    for text in (NAME, UID, "mrn-00482913", "two words"):
        metrics.outcome(text, text, [text])
        metrics.retry(text, text)
        metrics.study(text)
        with metrics.step(text):
            pass
    page = generate_latest(metrics.registry).decode()
    assert [text for text in (NAME, UID, "00482913", "two words") if text in page] == []
    assert value(metrics, "fhir_ext_refusals_total", service="other", rule="other") == 4


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    codes = [f"code-{a}{b}" for a in "abcdefghijkl" for b in "abcdefghijkl"]
    for code in codes:
        metrics.retry("prepare", code)
    page = generate_latest(metrics.registry).decode()
    assert page.count("fhir_ext_retries_total{") == MOST_LABEL_VALUES + 1
    others = value(metrics, "fhir_ext_retries_total", step="prepare", kind="other")
    assert others == len(codes) - MOST_LABEL_VALUES


def test_two_programs_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.study("done")
    assert value(second, "fhir_ext_studies_total", outcome="done") is None


def test_one_event_is_one_trace_across_the_queue(finished: InMemorySpanExporter) -> None:
    with span("hook"):
        carrier = inject()
    assert set(carrier) == {"traceparent"}
    thread = threading.Thread(target=lambda: _steps(carrier))
    thread.start()
    thread.join()
    spans = by_name(finished)
    hook = spans["hook"].context
    assert hook is not None
    for name in ("prepare", "publish"):
        step = spans[name]
        assert step.context is not None
        assert step.context.trace_id == hook.trace_id
        assert step.parent is not None
        assert step.parent.span_id == hook.span_id


def _steps(carrier: dict[str, str]) -> None:
    with step_span("prepare", carrier):
        pass
    with step_span("publish", carrier):
        pass


def test_a_step_without_a_context_starts_a_trace(finished: InMemorySpanExporter) -> None:
    with span("outer"), step_span("prepare", {}):
        pass
    with step_span("publish", {"traceparent": NAME}):
        pass
    spans = by_name(finished)
    assert spans["prepare"].parent is None
    assert spans["publish"].parent is None


def test_spans_hold_no_patient_data(finished: InMemorySpanExporter) -> None:
    with (
        pytest.raises(ValueError, match="WILHELMINA"),
        step_span("prepare", {}, service=NAME, patient=NAME, study=UID),
    ):
        raise ValueError(f"{NAME} {UID}")
    with span(f"study {UID}"):
        pass
    written = " ".join(item.to_json() for item in finished.get_finished_spans())
    assert [text for text in (NAME, UID, "WILHELMINA") if text in written] == []
    failed = by_name(finished)["prepare"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "internal"


def test_our_errors_appear_by_code(finished: InMemorySpanExporter) -> None:
    with pytest.raises(UpstreamTimeout), span("fetch", count=3, service="lung-density"):
        raise UpstreamTimeout("no answer in 30 s")
    attributes = by_name(finished)["fetch"].attributes
    assert attributes == {
        "fhir_ext.count": 3,
        "fhir_ext.service": "lung-density",
        "error.type": "upstream-timeout",
    }


def test_other_carrier_entries_are_left_behind(finished: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context = extract({"traceparent": parent, "tracestate": f"vendor={UID}", "baggage": f"p={UID}"})
    assert UID not in str(context)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that takes what an OTLP exporter sends: its URL, and (path, body) received."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_the_collector(
    collector: tuple[str, list[tuple[str, bytes]]],
) -> None:
    """In a process of its own, whose end must send what is still in memory."""
    url, received = collector
    program = (
        "from fhir_ext.settings import TelemetrySettings\n"
        "from fhir_ext.telemetry import configure_tracing, span\n"
        f"configure_tracing(TelemetrySettings(otlp_endpoint={url!r}), 'worker')\n"
        "with span('prepare', service='lung-density'): pass\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"prepare" in body
    assert b"lung-density" in body


def test_without_an_endpoint_no_exporter_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys\n"
        "from fhir_ext.settings import TelemetrySettings\n"
        "from fhir_ext.telemetry import configure_tracing, inject, span\n"
        "assert not any(name.startswith('opentelemetry.sdk.trace') for name in sys.modules)\n"
        "configure_tracing(TelemetrySettings(), 'serve')\n"
        "with span('hook'): assert 'traceparent' in inject()\n"
        "assert not any(name.startswith('opentelemetry.exporter') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_configure_tracing_leaves_the_global_provider_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry import trace

    monkeypatch.setattr(telemetry, "_tracer", telemetry._tracer)
    before = trace.get_tracer_provider()
    configure_tracing(TelemetrySettings(), "serve")
    assert trace.get_tracer_provider() is before


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:4318", "http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"],
)
def test_the_traces_signal_has_its_path(endpoint: str) -> None:
    assert traces_endpoint(endpoint) == "http://127.0.0.1:4318/v1/traces"


def test_batches_of_networks() -> None:
    metrics = Metrics()
    at = {"service": "some-model", "version": "1.0.0", "device": "cuda:1"}
    for failed in (False, False, True):
        metrics.model_batch(**at, items=4, busy_seconds=0.5, waited_seconds=2.0, failed=failed)
    metrics.model_batch(NAME, UID, UID, items=1, busy_seconds=1.0, waited_seconds=1.0, failed=False)
    assert value(metrics, "fhir_ext_model_batches_total", **at, outcome="done") == 2
    assert value(metrics, "fhir_ext_model_batches_total", **at, outcome="failed") == 1
    assert value(metrics, "fhir_ext_model_items_total", **at) == 12
    assert value(metrics, "fhir_ext_model_busy_seconds_total", **at) == 1.5
    assert value(metrics, "fhir_ext_model_waited_seconds_total", **at) == 6.0
    shown = generate_latest(metrics.registry).decode()
    assert NAME not in shown
    assert UID not in shown
