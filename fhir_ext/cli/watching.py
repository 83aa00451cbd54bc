"""What the demo and `fhir-ext phantom` look at while the service works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.store.repository import Repository
from fhir_ext.store.tables import StudyRun

Json = dict[str, Any]
T = TypeVar("T")

#: States of a run after which nothing more happens by itself.
FINISHED = frozenset({"done", "parked", "nothing-to-do"})


def latest_run(repository: Repository, study_instance_uid: str) -> StudyRun | None:
    """The newest run of a study that did something, else the newest."""
    runs = [run for run in repository.runs() if run.study_instance_uid == study_instance_uid]
    worked = [run for run in runs if run.state != "nothing-to-do"]
    return next(iter(worked or runs), None)


def finished_run(repository: Repository, study_instance_uid: str) -> StudyRun | None:
    """The same, once it is over."""
    run = latest_run(repository, study_instance_uid)
    return run if run is not None and run.state in FINISHED else None


def within(seconds: float, look: Callable[[], T]) -> T:
    """Look until there is something (true, not None) to see; what was seen last."""
    deadline = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() <= deadline:
        time.sleep(0.25)
    return seen


def version_of(fhir: FhirClient, panel: Json) -> str:
    """Version of the model that wrote a panel, by its Device."""
    device = fhir.read(*panel["device"]["reference"].split("/"))
    return str(device["version"][0]["value"])
