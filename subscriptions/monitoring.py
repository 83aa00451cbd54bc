"""The leader's look at model versions: what changed is kept, and told by two chores.

`model-alert` writes the DetectedIssue, `model-alert-webhook` posts the alert. Either is tried
again while its server is down, and neither waits for the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson

import fhir_ext
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.clients.http import transport_errors
from fhir_ext.errors import NotFoundError, SettingsError, UpstreamUnavailable
from fhir_ext.logs import event, get_logger
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.resources.device import model_device, software_device
from fhir_ext.resources.drift_issue import drift_issue
from fhir_ext.resources.ids import device_id, software_device_id
from fhir_ext.results import ModelIdentity
from fhir_ext.settings import HttpAuth, MonitoringSettings, OutgoingSettings, Settings
from fhir_ext.store.repository import now
from fhir_ext.store.sample_tables import ModelAlert
from fhir_ext.store.samples import SampledVersion, SampleStore
from fhir_ext.telemetry import Metrics
from models.monitoring.stability import QUANTILES
from models.registry import Registry
from operations.model_drift.alerts import KINDS, alerts_of, spans_in_words
from operations.model_drift.report import DriftReport, NumberRow, ShareRow, Span
from operations.model_drift.service import DriftService
from subscriptions.chores import Handler
from subscriptions.queue import WorkQueue

log = get_logger(__name__)

Json = dict[str, Any]

#: Names of the chores.
ALERT: Final = "model-alert"
WEBHOOK: Final = "model-alert-webhook"

#: Type of what is posted.
EVENT_TYPE: Final = "model.drift"

#: How an operator knows the receiver.
RECEIVER: Final = "the receiver of alerts"

#: An alert that is not known to be told is told again for so long; longer than a worker that
#: died in between is away, and shorter than the queue remembers what it did.
TELL_FOR: Final = timedelta(days=1)

#: Before a key in base64 (Standard Webhooks 1.0, "Signature scheme").
_BASE64_KEY: Final = "whsec_"


@dataclass(frozen=True, slots=True)
class Monitor:
    """Compares every version at work, and keeps and tells what changed.

    Attributes:
        drift: the comparison, with its settings.
        registry: titles of the versions.
        queue: takes the chores.
    """

    drift: DriftService
    registry: Registry
    queue: WorkQueue
    metrics: Metrics

    def look(self) -> int:
        """One round; what was found before in the same period is not told again.

        Returns:
            How many alerts are new.
        """
        settings, window = self.drift.settings, self.drift.window()
        fresh = 0
        for version in self.drift.at_work(window):
            report = self.drift.report(version, window)
            alerts = alerts_of(report, self._title(version), now())
            self._count(report, alerts)
            fresh += sum(self._tell(alert) for alert in alerts)
        self.drift.samples.delete_before(now() - settings.retention)
        return fresh

    def _tell(self, alert: ModelAlert) -> bool:
        """Keep an alert and queue what tells of it; whether it is new."""
        samples = self.drift.samples
        fresh = samples.add_alert(alert)
        if fresh:
            event(log, "model-drift", service=alert.service, kind=alert.kind)
        kept = samples.alert(alert.id)
        if kept is not None and kept.at > now() - TELL_FOR:
            self.queue.enqueue_chore(ALERT, alert.id, {"alert_id": alert.id})
            if self.drift.settings.webhook_url:
                self.queue.enqueue_chore(WEBHOOK, alert.id, {"alert_id": alert.id})
        return fresh

    def _title(self, version: SampledVersion) -> str:
        try:
            return self.registry.manifest(version.service, version.version).title
        except (NotFoundError, SettingsError):
            return version.service

    def _count(self, report: DriftReport, alerts: list[ModelAlert]) -> None:
        raised = [alert.kind for alert in alerts]
        rows: list[ShareRow | NumberRow] = [*report.mix, *report.numbers, *report.categories]
        self.metrics.model_window(
            report.version.service,
            report.version.version,
            psi={row.name: row.change.psi for row in rows if row.change is not None},
            quantiles={
                (row.name, f"{quantile:g}"): value
                for row in report.numbers
                if row.change is not None
                for quantile, value in zip(QUANTILES, row.change.now, strict=True)
            },
            reviews={row.name: row.now for row in report.reviews},
            alerts={kind: raised.count(kind) for kind in KINDS},
        )


@dataclass(frozen=True, slots=True)
class WriteAlert:
    """Handler of the chore `model-alert`: payload `{"alert_id": …}`. Idempotent."""

    fhir: FhirClient
    samples: SampleStore

    def __call__(self, payload: Json) -> None:
        """Write the DetectedIssue, and the Devices that it names where they are missing.

        Raises:
            UpstreamError: the server is down.
            UnprocessableError: it refuses what is written.
        """
        alert = self.samples.alert(str(payload["alert_id"]))
        if alert is None:
            # Forgotten by the retention before it could be told.
            return
        model = identity_of(alert)
        # A Device that stands may say more of the version than is known here.
        if self.fhir.find("Device", device_id(model)) is None:
            self.fhir.put(model_device(model))
        if self.fhir.find("Device", software_device_id(fhir_ext.__version__)) is None:
            self.fhir.put(software_device(fhir_ext.__version__))
        self.fhir.put(issue_of(alert))


@dataclass(frozen=True, slots=True)
class PostAlert:
    """Handler of the chore `model-alert-webhook`: payload `{"alert_id": …}`.

    Attributes:
        samples: where the alert is kept.
        settings: address and secret.
        outgoing: which addresses may be called.
        fhir_base: public FHIR base of the gateway, for the link to the DetectedIssue.
    """

    samples: SampleStore
    settings: MonitoringSettings
    outgoing: OutgoingSettings
    fhir_base: str

    def __call__(self, payload: Json) -> None:
        """Post the alert; the receiver knows a repeat by `webhook-id`.

        Raises:
            UpstreamError: the receiver is down, slow, redirects, or answers anything but 2xx.
            RefusedAddress: the address may not be called.
        """
        alert = self.samples.alert(str(payload["alert_id"]))
        url, secret = self.settings.webhook_url, self.settings.webhook_secret
        if alert is None or url is None or secret is None:
            return
        body = orjson.dumps(alert_body(alert, self.fhir_base))
        headers = signed(alert.id, int(time.time()), body, secret.get_secret_value())
        session = OutgoingGuard(self.outgoing).session(HttpAuth(), self.settings.webhook_timeout)
        with (
            session,
            transport_errors(RECEIVER),
            session.post(url, data=body, headers=headers, stream=True) as response,
        ):
            if not 200 <= response.status_code < 300:
                raise UpstreamUnavailable(f"{RECEIVER} answered {response.status_code}")
        event(log, "model-alert-posted", service=alert.service, kind=alert.kind)


def monitoring_handlers(
    settings: Settings, fhir: FhirClient, samples: SampleStore
) -> dict[str, Handler]:
    """What tells of an alert, by the name of its chore."""
    post = PostAlert(samples, settings.monitoring, settings.outgoing, settings.server.fhir_base)
    return {ALERT: WriteAlert(fhir, samples), WEBHOOK: post}


def identity_of(alert: ModelAlert) -> ModelIdentity:
    """The version that an alert is about."""
    return ModelIdentity(alert.service, alert.version, alert.title, alert.settings_hash)


def issue_of(alert: ModelAlert) -> Json:
    """The DetectedIssue of an alert."""
    return drift_issue(
        alert.id,
        identity_of(alert),
        kind=alert.kind,
        severity="high" if alert.severity == "high" else "moderate",
        findings=[str(finding["text"]) for finding in alert.findings],
        spans=_spans(alert),
        identified=alert.at,
    )


def alert_body(alert: ModelAlert, fhir_base: str) -> Json:
    """What is posted; no patient data, no ids of images."""
    return {
        "type": EVENT_TYPE,
        "timestamp": alert.at.isoformat(),
        "data": {
            "id": alert.id,
            "service": alert.service,
            "version": alert.version,
            "settings_hash": alert.settings_hash,
            "title": alert.title,
            "kind": alert.kind,
            "severity": alert.severity,
            "compared": _spans(alert),
            "findings": alert.findings,
            "detected_issue": f"{fhir_base}/DetectedIssue/{alert.id}",
        },
    }


def signed(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Headers of a signed message (Standard Webhooks 1.0, "Signature scheme").

    Args:
        timestamp: seconds since 1970.
        secret: `whsec_` and base64, or text whose UTF-8 bytes are the key.
    """
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _key(secret: str) -> bytes:
    if not secret.startswith(_BASE64_KEY):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_BASE64_KEY), validate=True)
    except binascii.Error as error:
        raise SettingsError("monitoring.webhook_secret is no base64 after whsec_") from error


def _spans(alert: ModelAlert) -> str:
    return spans_in_words(
        Span(alert.reference_from, alert.reference_to), Span(alert.window_from, alert.window_to)
    )
