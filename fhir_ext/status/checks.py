"""Checks of the parts of an installation, none of which can hang the one who asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.errors import FhirExtError
from fhir_ext.logs import get_logger, incident

log = get_logger(__name__)

#: All checks together are waited for so long (s).
CHECK_LIMIT = 3.0


@dataclass(frozen=True, slots=True)
class HealthState:
    """How one part stands; `detail` is for people and holds no patient data."""

    ok: bool
    detail: str


Check = Callable[[], HealthState]


class HealthMonitor:
    """Runs checks side by side, each in a thread of its own.

    A check that hangs is not started a second time: whoever asks meanwhile waits for the one
    that runs, so that probes every few seconds cannot pile up threads. The threads are
    daemons, so that a hanging server does not hold up the end of the process.

    Args:
        checks: name of a part to its check.
        limit: longest wait (s) for all checks together.
    """

    def __init__(self, checks: Mapping[str, Check], limit: float = CHECK_LIMIT) -> None:
        self._checks = dict(checks)
        self._limit = limit
        self._lock = threading.Lock()
        self._running: dict[str, Future[HealthState]] = {}

    def states(self) -> dict[str, HealthState]:
        """Every part's state; one that does not answer within the limit is not well."""
        deadline = time.monotonic() + self._limit
        futures = {name: self._started(name) for name in self._checks}
        wait(futures.values(), timeout=max(0.0, deadline - time.monotonic()))
        return {
            name: future.result() if future.done() else HealthState(False, "no answer in time")
            for name, future in futures.items()
        }

    def _started(self, name: str) -> Future[HealthState]:
        with self._lock:
            running = self._running.get(name)
            if running is not None and not running.done():
                return running
            future: Future[HealthState] = Future()
            self._running[name] = future
        threading.Thread(
            target=_settle, args=(future, self._checks[name]), name=f"check {name}", daemon=True
        ).start()
        return future


def _settle(future: Future[HealthState], check: Check) -> None:
    try:
        future.set_result(check())
    except FhirExtError as error:
        future.set_result(HealthState(False, error.message))
    except SQLAlchemyError:
        future.set_result(HealthState(False, "the database does not answer"))
    except Exception as error:  # noqa: BLE001  a bug in one check must not hide the other parts
        number = incident(log, "check-failed", error)
        future.set_result(HealthState(False, f"incident {number} in the log"))
