"""A process that notes accesses until it is killed: `noting.py FOLDER COUNT ACKNOWLEDGED`.

Each number is printed to ACKNOWLEDGED only after `note` has returned, as the gateway answers
only then.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from fhir_ext.audit.journal import AccessJournal
from fhir_ext.audit.record import AccessRecord
from fhir_ext.settings import AuditSettings

FLUSH = timedelta(seconds=0.02)


def record(number: int, **changes: object) -> AccessRecord:
    values: Any = {
        "request_id": f"{number:08d}",
        "recorded": "2026-01-05T10:15:00.000Z",
        "interaction": "read",
        "action": "R",
        "outcome": "0",
        "http_status": 200,
        "client_id": "app",
        "subject": "user",
        "fhir_user": "Practitioner/1",
        "personas": ("clinician",),
        "network_address": "192.0.2.1",
        "target": "Observation/1",
        "patients": ("p1",),
        **changes,
    }
    return AccessRecord(**values)


def refuse(_key: str, _records: list[dict[str, object]]) -> None:
    raise ConnectionError("the queue is down")


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    acknowledged = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    journal = AccessJournal(AuditSettings(journal=folder, flush_interval=FLUSH), refuse)
    journal.start()
    for number in range(count):
        journal.note(record(number))
        os.write(acknowledged, f"{number:08d}\n".encode())
    os.write(acknowledged, b"all\n")
    signal.pause()


if __name__ == "__main__":
    main()
