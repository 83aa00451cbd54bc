"""Metrics and traces, without patient data.

Metrics live in one registry per process, built at the start and handed on. Label values
are codes of ours from small sets; whatever does not look like one becomes `other`.

Spans follow one event: the hook opens one, its context travels in the queue's message
(`inject`), and each step of the workflow continues it (`step_span`). They are made by a
tracer of our own, not by the global one of OpenTelemetry, so that no instrumentation of
a library can export what it saw.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fhir_ext import __version__
from fhir_ext.errors import FhirExtError
from fhir_ext.logs import FIELDS, safe_fields
from fhir_ext.settings import TelemetrySettings

OTHER: Final = "other"

#: Most distinct values of one label; a code that is new after that is counted as `other`.
MOST_LABEL_VALUES = 100

#: Seconds: from a metadata query to the longest inference on a CPU.
STEP_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

#: Facts about images whose values are bands of ours. Names of scanners and kernels come from
#: headers and stay in our tables.
INPUT_FACTS: Final = frozenset({"age-band", "sex", "slice-thickness"})
_BAND: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9])?(?:-[0-9]{1,3}|\+)?|[FMO]|unknown")
_DEVICE = re.compile(r"cpu|remote|cuda:\d{1,2}")


class Metrics:
    """Everything one process counts.

    Attributes:
        registry: what `/metrics` shows.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seen: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._queue_depth = Gauge(
            "fhir_ext_queue_depth", "Studies that wait in the queue.", registry=self.registry
        )
        self._queue_age = Gauge(
            "fhir_ext_queue_oldest_seconds",
            "Age of the study that has waited longest; 0 when none waits.",
            registry=self.registry,
        )
        self._parked = Gauge(
            "fhir_ext_parked_studies",
            "Studies that need a human before they go on.",
            registry=self.registry,
        )
        self._chore_depth = Gauge(
            "fhir_ext_chore_depth",
            "Chores (audit entries, new scores) that wait or are worked on.",
            registry=self.registry,
        )
        self._chore_age = Gauge(
            "fhir_ext_chore_oldest_seconds",
            "Age of the chore that has waited longest; 0 when none waits.",
            registry=self.registry,
        )
        self._steps = Histogram(
            "fhir_ext_step_seconds",
            "Duration of one try of a workflow step.",
            ["step", "outcome"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self._studies = self._counter("fhir_ext_studies", "Passes over a study.", "outcome")
        self._services = self._counter(
            "fhir_ext_services", "Services on series.", "service", "outcome"
        )
        self._refusals = self._counter(
            "fhir_ext_refusals", "Numbers withheld, or services not applied.", "service", "rule"
        )
        self._retries = self._counter("fhir_ext_retries", "Steps tried again.", "step", "kind")
        self._deliveries = self._counter(
            "fhir_ext_deliveries", "Notifications to subscribers.", "channel", "outcome"
        )
        self._reviews = self._counter(
            "fhir_ext_reviews", "Results that a human decided.", "service", "outcome"
        )

        self._accesses = self._counter(
            "fhir_ext_accesses", "Requests to the gateway.", "interaction", "outcome"
        )
        version = ("service", "version")
        self._model_results = self._counter(
            "fhir_ext_model_results", "Results of model versions.", *version, "role", "outcome"
        )
        self._model_refusals = self._counter(
            "fhir_ext_model_refusals", "Results that withhold something.", *version, "role", "rule"
        )
        self._model_seconds = Histogram(
            "fhir_ext_model_seconds",
            "Time of one model version over one set of images.",
            version,
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        at = (*version, "device")
        self._model_batches = self._counter(
            "fhir_ext_model_batches", "Batches through networks.", *at, "outcome"
        )
        self._model_items = self._counter("fhir_ext_model_items", "Items in these batches.", *at)
        self._model_busy = self._counter("fhir_ext_model_busy_seconds", "Time in networks.", *at)
        self._model_waited = self._counter(
            "fhir_ext_model_waited_seconds", "Time of all items in the queue of a device.", *at
        )
        self._model_inputs = self._counter(
            "fhir_ext_model_inputs", "Images that were shown.", *version, "fact", "value"
        )
        self._model_psi = self._gauge(
            "fhir_ext_model_psi", "Population stability index of the last window.", "subject"
        )
        self._model_outputs = self._gauge(
            "fhir_ext_model_output", "Quantiles in the last window.", "output", "quantile"
        )
        self._model_reviews = self._gauge(
            "fhir_ext_model_reviews", "Reviews decided in the last window.", "outcome"
        )
        self._model_alerts = self._gauge(
            "fhir_ext_model_alerts", "Kinds of change that are alerted now.", "kind"
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A number of each model version, set by the leading worker."""
        return Gauge(name, text, ("service", "version", *labels), registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def queue(self, depth: int, oldest_seconds: float | None) -> None:
        """What waits now; `oldest_seconds` is None when nothing does."""
        self._queue_depth.set(depth)
        self._queue_age.set(oldest_seconds or 0.0)

    def chores(self, depth: int, oldest_seconds: float | None) -> None:
        """Like `queue`, for chores."""
        self._chore_depth.set(depth)
        self._chore_age.set(oldest_seconds or 0.0)

    def parked(self, studies: int) -> None:
        """How many studies wait for a human now."""
        self._parked.set(studies)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one try of a step; its outcome is `done`, or the code of what was raised."""
        begin = time.perf_counter()
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = error.code if isinstance(error, FhirExtError) else "internal"
            raise
        finally:
            labels = (self._label("step", name), self._label("outcome", outcome))
            self._steps.labels(*labels).observe(time.perf_counter() - begin)

    def access(self, interaction: str, http_status: int) -> None:
        """A request to the gateway ended; its outcome is the class of its status (`4xx`)."""
        shown = self._label("interaction", interaction)
        self._accesses.labels(shown, f"{http_status // 100}xx").inc()

    def study(self, outcome: str) -> None:
        """A pass over a study ended: `done`, `nothing-to-do`, `parked`."""
        self._studies.labels(self._label("outcome", outcome)).inc()

    def outcome(self, service: str, status: str, rules: Iterable[str] = ()) -> None:
        """A service ended on a series, and the rules by which it withheld numbers."""
        shown = self._label("service", service)
        self._services.labels(shown, self._label("outcome", status)).inc()
        for rule in rules:
            self._refusals.labels(shown, self._label("rule", rule)).inc()

    def retry(self, step: str, kind: str) -> None:
        """A step will be tried again because of `kind`, an error's code."""
        self._retries.labels(self._label("step", step), self._label("kind", kind)).inc()

    def delivery(self, channel: str, outcome: str) -> None:
        """A notification was sent, or was not."""
        labels = (self._label("channel", channel), self._label("outcome", outcome))
        self._deliveries.labels(*labels).inc()

    def review(self, service: str, outcome: str) -> None:
        """A human accepted, modified or rejected a result of a service."""
        labels = (self._label("service", service), self._label("outcome", outcome))
        self._reviews.labels(*labels).inc()

    def model_result(
        self,
        service: str,
        version: str,
        role: str,
        outcome: str,
        rules: Iterable[str] = (),
        seconds: float | None = None,
    ) -> None:
        """A model version ended on one set of images.

        Args:
            role: `active`, `canary` or `shadow`.
            outcome: `done`, `refused` or `failed`.
            rules: by which it withheld something; each counts once.
            seconds: how long it took.
        """
        of = self._version(service, version)
        shown = self._label("role", role)
        self._model_results.labels(*of, shown, self._label("outcome", outcome)).inc()
        for rule in rules:
            self._model_refusals.labels(*of, shown, self._label("rule", rule)).inc()
        if seconds is not None:
            self._model_seconds.labels(*of).observe(seconds)

    def model_batch(
        self,
        service: str,
        version: str,
        device: str,
        *,
        items: int,
        busy_seconds: float,
        waited_seconds: float,
        failed: bool,
    ) -> None:
        """A batch ran through the network of a model version.

        Args:
            device: `cpu`, `cuda:0` and so on, or `remote` for a model server.
            items: how many, perhaps of several studies.
            busy_seconds: time in the network.
            waited_seconds: time of all items in the queue, added up.
            failed: it gave no outputs.
        """
        shown = device if _DEVICE.fullmatch(device) else OTHER
        of = (*self._version(service, version), self._bounded("device", shown))
        self._model_batches.labels(*of, "failed" if failed else "done").inc()
        self._model_items.labels(*of).inc(items)
        self._model_busy.labels(*of).inc(busy_seconds)
        self._model_waited.labels(*of).inc(waited_seconds)

    def model_inputs(self, service: str, version: str, mix: Mapping[str, str]) -> None:
        """What a model version was shown; only facts whose values are ours (`INPUT_FACTS`)."""
        of = self._version(service, version)
        for fact in INPUT_FACTS & mix.keys():
            value = mix[fact]
            shown = value if _BAND.fullmatch(value) else OTHER
            self._model_inputs.labels(*of, fact, self._bounded(fact, shown)).inc()

    def model_window(
        self,
        service: str,
        version: str,
        *,
        psi: Mapping[str, float],
        quantiles: Mapping[tuple[str, str], float],
        reviews: Mapping[str, int],
        alerts: Mapping[str, int],
    ) -> None:
        """How a model version stands in the last window.

        Args:
            psi: by fact or output.
            quantiles: by output and quantile (`0.5`).
            reviews: by outcome.
            alerts: by kind; 0 where there is none.
        """
        of = self._version(service, version)
        for subject, value in psi.items():
            self._model_psi.labels(*of, self._path("subject", subject)).set(value)
        for (output, quantile), value in quantiles.items():
            self._model_outputs.labels(*of, self._path("subject", output), quantile).set(value)
        for outcome, count in reviews.items():
            self._model_reviews.labels(*of, self._label("outcome", outcome)).set(count)
        for kind, count in alerts.items():
            self._model_alerts.labels(*of, self._label("kind", kind)).set(count)

    def _version(self, service: str, version: str) -> tuple[str, str]:
        known = version if FIELDS["version"](version) else OTHER
        return self._label("service", service), self._bounded("version", known)

    def _path(self, name: str, value: str) -> str:
        """`name/region`, each of them a code."""
        parts = value.split("/")
        shown = len(parts) <= 2 and all(FIELDS["code"](part) for part in parts)
        return self._bounded(name, value if shown else OTHER)

    def _label(self, name: str, value: str) -> str:
        return self._bounded(name, value if FIELDS["code"](value) else OTHER)

    def _bounded(self, name: str, value: str) -> str:
        with self._lock:
            seen = self._seen.setdefault(name, set())
            if value not in seen and len(seen) >= MOST_LABEL_VALUES:
                return OTHER
            seen.add(value)
        return value


_propagator = TraceContextTextMapPropagator()
_tracer: Tracer = NoOpTracer()


def configure_tracing(settings: TelemetrySettings, program: str) -> None:
    """Start making spans in this process; they are exported only to `otlp_endpoint`.

    Without an endpoint spans still exist, so that the lines an event causes in several
    programs' logs share one trace id.
    """
    global _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(
        resource=Resource(
            {
                "service.name": "fhir-ext",
                "service.version": __version__,
                "service.instance.program": program,
            }
        )
    )
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(traces_endpoint(settings.otlp_endpoint), timeout=5)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("fhir_ext", __version__)


def traces_endpoint(endpoint: str) -> str:
    """URL of the traces signal below an OTLP/HTTP base URL (OTLP 1.x, "OTLP/HTTP Request")."""
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"


def inject() -> dict[str, str]:
    """W3C trace context of the current span, to be put into a message; empty without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    # tracestate may hold whatever an upstream vendor put there.
    return {key: value for key, value in carrier.items() if key == "traceparent"}


def extract(carrier: Mapping[str, str]) -> Context:
    """The context that `inject` put into a message; a malformed one starts a new trace."""
    kept = {key: value for key, value in carrier.items() if key == "traceparent"}
    return _propagator.extract(kept, Context())


@contextmanager
def span(name: str, **fields: object) -> Iterator[Span]:
    """A span inside the current one.

    Args:
        name: constant in kebab-case.
        fields: attributes; those that `fhir_ext.logs.FIELDS` allows.
    """
    with _open(name, context.get_current(), SpanKind.INTERNAL, fields) as opened:
        yield opened


@contextmanager
def step_span(name: str, carrier: Mapping[str, str], **fields: object) -> Iterator[Span]:
    """The span of a workflow step, a child of the span whose context is in `carrier`."""
    with _open(name, extract(carrier), SpanKind.CONSUMER, fields) as opened:
        yield opened


@contextmanager
def _open(
    name: str, parent: Context, kind: SpanKind, fields: Mapping[str, object]
) -> Iterator[Span]:
    attributes = {f"fhir_ext.{key}": _attribute(v) for key, v in safe_fields(fields).items()}
    opened = _tracer.start_span(
        name if FIELDS["code"](name) else OTHER, parent, kind, attributes=attributes
    )
    # OpenTelemetry would record the exception's text.
    with trace.use_span(
        opened, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield opened
        except BaseException as error:
            code = error.code if isinstance(error, FhirExtError) else "internal"
            opened.set_status(Status(StatusCode.ERROR))
            opened.set_attribute("error.type", code if FIELDS["code"](code) else OTHER)
            raise


def _attribute(value: object) -> str | bool | int | float:
    return value if isinstance(value, str | bool | int | float) else str(value)
