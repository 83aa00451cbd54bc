"""How studies and chores are tried: one try as a value, and how long until the next.

What a try raises never leaves it: a workflow that ends in an exception would be seen by nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fhir_ext.errors import FhirExtError, UpstreamError
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.telemetry import Metrics

log = get_logger(__name__)

Json = dict[str, Any]

#: Longest pause between two tries while a server is down.
LONGEST_WAIT = timedelta(seconds=30)

#: How often a workflow whose worker dies is taken up again before a human must look.
RECOVERY_ATTEMPTS = 3


def try_once(step: str, metrics: Metrics, action: Callable[[], Any]) -> Json:
    """One try: `done` with its value, `retry`, or `park` with a code and a message.

    Args:
        step: name under which it is timed and logged.
        action: what is tried; raises errors of our tree.
    """
    try:
        with metrics.step(step):
            value = action()
    except UpstreamError as error:
        metrics.retry(step, error.code)
        event(log, "step-retried", step=step, code=error.code)
        return {"outcome": "retry", "code": error.code, "message": error.message}
    except FhirExtError as error:
        return {"outcome": "park", "code": error.code, "message": error.message}
    except Exception as error:  # noqa: BLE001  a bug parks its work and the worker lives on
        number = incident(log, "step-failed", error, step=step)
        text = f"incident {number} in the log"
        return {"outcome": "park", "code": "internal", "message": text}
    return {"outcome": "done", "value": value}


def waits(first: timedelta, longest: timedelta, tries: int) -> tuple[timedelta, timedelta]:
    """The wait after so many tries, each twice as long as the last, and the sum of those before.

    Counted from the tries and not from a clock, which would make a replay decide otherwise.
    """
    each = [min(first * 2 ** min(n, 16), longest) for n in range(tries + 1)]
    return each[-1], sum(each[:-1], timedelta())
