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
from fhir_ext.logs import event, get_logger
from fhir_ext.settings import IntakeSettings
from fhir_ext.telemetry import Metrics
from subscriptions.queue import CHORE_WORKFLOW, chore_options
from subscriptions.tries import LONGEST_WAIT, RECOVERY_ATTEMPTS, try_once, waits

log = get_logger(__name__)

Json = dict[str, Any]

#: What a chore does with its payload; raises errors of our tree.
Handler = Callable[[Json], None]

#: Keeps a chore that cannot be done: (name, key, payload, code).
Keep = Callable[[str, str, Json, str], None]

#: Writes the Task of a chore that cannot be done: (name, key, code, text, when).
Park = Callable[[str, str, str, str, datetime], object]


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
        def chore(name: str, key: str, payload: Json, attempt: int = 0) -> str:
            return self.run(name, key, payload, attempt)

    def run(self, name: str, key: str, payload: Json, attempt: int = 0) -> str:
        """Try one chore; the returned word is `done`, `waiting` or `parked`.

        Args:
            attempt: how often it was put back because a server was down.
        """
        answer = DBOS.run_step({"name": name}, self._guarded, name, payload)
        if answer["outcome"] == "done":
            return "done"
        delay, waited = waits(self.intake.upstream_retry, LONGEST_WAIT, attempt)
        if answer["outcome"] == "retry" and waited < self.intake.upstream_give_up:
            return self._put_back(name, key, payload, attempt, delay)
        code, text = answer["code"], answer["message"]
        DBOS.run_step({"name": "keep"}, self.keep, name, key, payload, code)
        parked = DBOS.run_step({"name": "park"}, self._park, name, key, code, text)
        if parked["outcome"] == "retry":
            # However long the server of Tasks stays away.
            return self._put_back(name, key, payload, attempt, delay)
        return "parked"

    def _put_back(self, name: str, key: str, payload: Json, attempt: int, delay: timedelta) -> str:
        """Come back later, without holding a place in the worker.

        Two chores that wait in their places for a server that refuses them for days would
        otherwise stop all others.
        """
        options = chore_options(name, key, attempt + 1, delay)
        DBOS.enqueue_workflow_with_options(options, name, key, payload, attempt + 1)
        return "waiting"

    def _guarded(self, name: str, payload: Json) -> Json:
        return try_once(name, self.metrics, lambda: self.handlers[name](payload))

    def _park(self, name: str, key: str, code: str, text: str) -> Json:
        try:
            self.park(name, key, code, text, datetime.now(UTC))
        except UpstreamError:
            return {"outcome": "retry"}
        except FhirExtError as error:
            event(log, "task-refused", code=error.code)
        event(log, "chore-parked", step=name, code=code)
        return {"outcome": "done"}
