"""A worker that ends itself by SIGKILL at one step boundary, once.

Run as a program by the fault tests: `killing_worker.py STEP before|after MARKER`. `before`
is the moment before the step's first action; `after` is when its effects are done and its
result is not yet recorded, which is the moment that doubles things in careless systems.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fhir_ext.cli.run import worker
from subscriptions.workflow import StudyWorkflow

step, moment, marker = sys.argv[1], sys.argv[2], Path(sys.argv[3])
original = StudyWorkflow._guarded


def _die() -> None:
    marker.write_text(f"{moment} {step}")
    os.kill(os.getpid(), signal.SIGKILL)


def _guarded(self, message, name, function, args):
    hit = name == step and not marker.exists()
    if hit and moment == "before":
        _die()
    answer = original(self, message, name, function, args)
    if hit and answer["outcome"] == "done":
        _die()
    return answer


StudyWorkflow._guarded = _guarded
worker()
