"""A worker that ends itself by SIGKILL at one moment of a recall, once.

Run as a program by the tests of recalls: `killing_recall.py NUMBER MARKER`. The moments are
counted: before the transaction that marks the Device, after the first progress is written,
before each piece of work is settled, after the last progress.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from fhir_ext.cli.run import worker
from fhir_ext.clients.fhir import FhirClient
from operations.model_registry.recall import Recaller

number, marker = int(sys.argv[1]), Path(sys.argv[2])
transaction, report = FhirClient.transaction_once, Recaller.report_progress
written = 0


def _count() -> None:
    global written
    written += 1
    if written == number and not marker.exists():
        marker.write_text(str(number))
        os.kill(os.getpid(), signal.SIGKILL)


def _transaction(self: FhirClient, bundle: dict[str, Any], **options: Any) -> dict[str, Any]:
    if "entered-in-error" in str(bundle) or "recalled" in str(bundle):
        _count()
    return transaction(self, bundle, **options)


def _report(self: Recaller, *args: Any, **options: Any) -> None:
    report(self, *args, **options)
    _count()


FhirClient.transaction_once = _transaction
Recaller.report_progress = _report
worker()
