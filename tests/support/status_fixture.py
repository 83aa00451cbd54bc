"""A status page over rows of every kind, and a FHIR server in memory behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import result_samples as samples
from fastapi import FastAPI

from fhir_ext.errors import NotFoundError, UpstreamUnavailable
from fhir_ext.outcome import SecurityHeaders, install_error_handlers
from fhir_ext.resources.panel import members, panel
from fhir_ext.results import ServiceResult
from fhir_ext.status.routes import status_router
from fhir_ext.status.service import HealthState, QueueState, StatusDeps
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome

HOSTILE = "<script>alert(1)</script>"
FHIR_URL = "http://127.0.0.1:1/fhir"

#: A UID of full length, as real archives have them.
LONG_UID = "1.3.6.1.4.1.14519.5.2.1.6655.2359.165554066086145834377508507990"


class FhirInMemory:
    """Observations behind the reading methods of `FhirClient`.

    Attributes:
        down: every method raises `UpstreamUnavailable`.
        blocked: every method waits as long as it is set.
        searches: how many searches came.
    """

    def __init__(self) -> None:
        self.observations: dict[str, dict[str, Any]] = {}
        self.down = False
        self.blocked: threading.Event | None = None
        self.searches = 0

    def add(self, result: ServiceResult) -> str:
        """Hold a result as the builders write it; returns the panel's id."""
        context = samples.context(result)
        built = [panel(result, context), *members(result, context)]
        self.observations.update((item["id"], item) for item in built)
        return str(built[0]["id"])

    def find(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        self._answer()
        return self.observations.get(resource_id) if resource_type == "Observation" else None

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any]:
        found = self.find(resource_type, resource_id)
        if found is None:
            raise NotFoundError("no such resource in the FHIR server")
        return found

    def search(
        self, resource_type: str, params: dict[str, Any], limit: int = 1000
    ) -> list[dict[str, Any]]:
        self._answer()
        self.searches += 1
        assert resource_type == "Observation"
        ids = params["_id"].split(",")
        return [self.observations[item] for item in ids if item in self.observations][:limit]

    def _answer(self) -> None:
        if self.blocked is not None:
            self.blocked.wait()
        if self.down:
            raise UpstreamUnavailable("the FHIR server cannot be reached")


@dataclass(frozen=True)
class Example:
    """Rows and resources that belong together."""

    repository: Repository
    fhir: FhirInMemory

    def app(self, check_limit: float = 3.0, **checks: Callable[[], HealthState]) -> FastAPI:
        """The routes as the service mounts them."""
        app = FastAPI()
        install_error_handlers(app)
        app.add_middleware(SecurityHeaders)
        deps = StatusDeps(
            repository=self.repository,
            fhir=self.fhir,
            queue_waiting=lambda: QueueState(2, 1.5, 1),
            checks=checks or {"FHIR server": lambda: HealthState(True, "answers searches")},
            links={"FHIR server": FHIR_URL},
            fhir_url=FHIR_URL,
            check_limit=check_limit,
        )
        app.include_router(status_router(deps))
        return app

    def add_run(self, name: str, state: str, **values: Any) -> str:
        """A run of the study `name`; returns its workflow id."""
        run = values.pop("run", f"ImagingStudy/{name}/1")
        queued = now() - timedelta(seconds=values.pop("age", 0))
        values.setdefault("started_at", queued)
        if "took" in values:
            values["finished_at"] = queued + timedelta(seconds=values.pop("took"))
        self.repository.record_run(run, name, "1", state=state, queued_at=queued, **values)
        return run

    def add_outcome(self, name: str, uid: str, status: str, result: Any = None, **values: Any):
        """What lung density said of the study `name`; a result is held by the FHIR server too."""
        values.setdefault("series_instance_uid", f"{uid}.1")
        self.repository.record_outcome(
            ServiceOutcome(
                imaging_study_id=name,
                service="lung-density",
                study_instance_uid=uid,
                workflow_id=f"ImagingStudy/{name}/1",
                status=status,
                panel_id=self.fhir.add(result) if result else None,
                updated_at=now(),
                **values,
            )
        )


def filled(folder: Path) -> Example:
    """Studies in every state, with results, refusals and studies that nobody matches."""
    engine = create_store_engine(f"sqlite:///{folder}/status.sqlite")
    migrate(engine)
    example = Example(Repository(engine), FhirInMemory())
    _add_runs(example)
    _add_outcomes(example)
    for uid, state, reason in (
        ("1.2.3.4", "unmatched", "no-match"),
        (LONG_UID, "unmatched", "unknown-issuer"),
        ("1.2.3.5", "failed", "no-slices"),
        ("1.2.3.6", "settling", None),
    ):
        example.repository.mark_study_changed(uid)
        example.repository.update_archive_study(uid, state=state, reason=reason)
    return example


def _add_runs(example: Example) -> None:
    done = {
        "step": "finish",
        "step_seconds": {
            "prepare": 0.04,
            "analyze": 1.54,
            "fetch": 0.06,
            "infer": 1.48,
            "publish": 0.37,
            "store-dicom": 0.36,
            "write-fhir": 0.28,
            "finish": 0.01,
        },
    }
    example.add_run("read", "done", study_instance_uid=samples.STUDY_UID, age=9, took=2.1, **done)
    example.add_run(
        "sharp",
        "done",
        study_instance_uid=f"{samples.STUDY_UID}.7",
        age=30,
        took=1.4,
        step="finish",
    )
    example.add_run(
        "young",
        "nothing-to-do",
        study_instance_uid=LONG_UID,
        age=45,
        reason="no-rule",
        took=0.2,
    )
    example.add_run(
        "short",
        "waiting",
        study_instance_uid="1.2.826.0.1.3680043.8.498.2",
        age=200,
        step="prepare",
        reason="incomplete-study",
        detail="a series has 118 of 120 instances",
    )
    example.add_run(
        "stuck",
        "parked",
        study_instance_uid="1.2.826.0.1.3680043.8.498.3",
        age=90_000,
        step="publish",
        reason="worker-crashed",
        detail=HOSTILE,
        took=720,
    )


def _add_outcomes(example: Example) -> None:
    example.add_outcome(
        "read", samples.STUDY_UID, "done", samples.result(), series_instance_uid=samples.SERIES_UID
    )
    sharp = {"laa-950": samples.KERNEL, "perc15": samples.KERNEL}
    series = f"{samples.SERIES_UID}.2"
    example.add_outcome(
        "read",
        samples.STUDY_UID,
        "done",
        samples.result(series=series, withheld=sharp),
        series_instance_uid=series,
        reasons=[_reason(samples.KERNEL)],
    )
    uid = f"{samples.STUDY_UID}.7"
    none = samples.refused(study=uid, series=f"{uid}.1")
    example.add_outcome(
        "sharp", uid, "refused", none, reasons=[_reason(none.measurements[0].refusal)]
    )
    for series in (f"{LONG_UID}.1", f"{LONG_UID}.2"):
        example.add_outcome(
            "young",
            LONG_UID,
            "not-applied",
            series_instance_uid=series,
            reasons=[{"rule": "age", "seen": "17 years"}],
        )


def _reason(refusal: Any) -> dict[str, str]:
    return {"rule": refusal.rule, "seen": refusal.seen, "needed": refusal.needed}
