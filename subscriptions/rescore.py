"""New scores when an imaging finding becomes final: notice, chore, and the sweep behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.logs import event, get_logger
from fhir_ext.store.repository import Repository
from operations.risk_score.chart_codes import chart_table
from operations.risk_score.rescore import Rescorer
from subscriptions.intake.sweep import Swept, sweep_changed, version_of

log = get_logger(__name__)

#: Name of the chore.
RESCORE: Final = "rescore"

CURSOR: Final = "sweep/Observation"


class ChoreQueue(Protocol):
    """The part of the queue that is needed."""

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str: ...


def finding_params() -> dict[str, str]:
    """Search parameters of the Observations that a risk model may read."""
    return {"code": ",".join(chart_table().imaging_tokens()), "status": "final,amended,corrected"}


def enqueue_finding(queue: ChoreQueue, observation_id: str, version: str) -> str:
    """Put one version of an imaging finding into the queue; known already, nothing changes."""
    key = f"Observation/{observation_id}/{version}"
    return queue.enqueue_chore(RESCORE, key, {"observation_id": observation_id})


def sweep_findings(
    fhir: FhirClient, queue: ChoreQueue, repository: Repository, overlap: timedelta
) -> int:
    """Enqueue every finding changed since the watermark minus `overlap`.

    Returns:
        How many were looked at.

    Raises:
        UpstreamError: HAPI is down.
    """
    findings = Swept(
        CURSOR,
        "Observation",
        finding_params(),
        lambda finding: enqueue_finding(queue, finding["id"], version_of(finding)),
    )
    count = sweep_changed(fhir, repository, findings, overlap)
    event(log, "sweep-done", count=count)
    return count


@dataclass(frozen=True, slots=True)
class Rescore:
    """Handler of the chore: payload `{"observation_id": …}`. Idempotent."""

    rescorer: Rescorer

    def __call__(self, payload: dict[str, Any]) -> None:
        """Compute the scores that read the finding again.

        Raises:
            UpstreamError: HAPI is down.
        """
        self.rescorer.rescore(str(payload["observation_id"]))
