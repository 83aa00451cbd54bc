"""Small durable work besides studies: audit entries, new scores, corrected SRs.

A chore is a name, a key and a JSON payload. The key makes it happen once: the same name and
key fall together in the queue. A handler is idempotent, since it may run again; while a
server is down it is tried again, and what cannot be done becomes a Task, as for studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS

from fhir_ext.errors import FhirExtError, UpstreamError
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.settings import IntakeSettings
from fhir_ext.telemetry import Metrics
from subscriptions.queue import CHORE_WORKFLOW

log = get_logger(__name__)

Json = dict[str, Any]

#: What a chore does with its payload; raises errors of our tree.
Handler = Callable[[Json], None]

#: Keeps a chore that cannot be done: (name, key, payload, code).
Keep = Callable[[str, str, Json, str], None]

#: Writes the Task of a chore that cannot be done: (name, key, code, text, when).
Park = Callable[[str, str, str, str, datetime], object]

LONGEST_WAIT = timedelta(seconds=30)
RECOVERY_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Chores:
    """The workflow of all chores; one per worker process.

    Attributes:
        handlers: by name.
        keep: holds what cannot be done until a human retries it.
        park: makes what cannot be done visible.
        intake: how long to wait for a server that is down.
    """

    handlers: Mapping[str, Handler]
    keep: Keep
    park: Park
    intake: IntakeSettings
    metrics: Metrics

    def register(self) -> None:
        """Make the workflow known to DBOS; before `DBOS.launch`."""

        @DBOS.workflow(name=CHORE_WORKFLOW, max_recovery_attempts=RECOVERY_ATTEMPTS)
        def chore(name: str, key: str, payload: Json) -> str:
            return self.run(name, key, payload)

    def run(self, name: str, key: str, payload: Json) -> str:
        """Do one chore; the returned word is `done` or `parked`."""
        delay, waited = self.intake.upstream_retry, timedelta()
        while True:
            answer = DBOS.run_step({"name": name}, self._guarded, name, payload)
            if answer["outcome"] == "done":
                return "done"
            if answer["outcome"] == "park" or waited >= self.intake.upstream_give_up:
                code, text = answer["code"], answer["message"]
                return self._parked(name, key, payload, code, text)
            DBOS.sleep(delay.total_seconds())
            waited += delay
            delay = min(delay * 2, LONGEST_WAIT)

    def _parked(self, name: str, key: str, payload: Json, code: str, text: str) -> str:
        """Keep it, and write the Task, however long the server of Tasks stays away."""
        delay = self.intake.upstream_retry
        DBOS.run_step({"name": "keep"}, self.keep, name, key, payload, code)
        while True:
            answer = DBOS.run_step({"name": "park"}, self._park, name, key, code, text)
            if answer["outcome"] != "retry":
                return "parked"
            DBOS.sleep(delay.total_seconds())
            delay = min(delay * 2, LONGEST_WAIT)

    def _guarded(self, name: str, payload: Json) -> Json:
        try:
            with self.metrics.step(name):
                self.handlers[name](payload)
        except UpstreamError as error:
            self.metrics.retry(name, error.code)
            return {"outcome": "retry", "code": error.code, "message": error.message}
        except FhirExtError as error:
            return {"outcome": "park", "code": error.code, "message": error.message}
        except Exception as error:  # noqa: BLE001  a bug parks its chore and the worker lives on
            number = incident(log, "step-failed", error, step=name)
            text = f"incident {number} in the log"
            return {"outcome": "park", "code": "internal", "message": text}
        return {"outcome": "done"}

    def _park(self, name: str, key: str, code: str, text: str) -> Json:
        try:
            self.park(name, key, code, text, datetime.now(UTC))
        except UpstreamError:
            return {"outcome": "retry"}
        except FhirExtError as error:
            event(log, "task-refused", code=error.code)
        event(log, "chore-parked", step=name, code=code)
        return {"outcome": "done"}
