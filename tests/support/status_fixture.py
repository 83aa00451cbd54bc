"""A status page over rows of every kind, without servers behind it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.outcome import SecurityHeaders, install_error_handlers
from fhir_ext.resources.codes import LATERALITY, MEASUREMENT, REFUSAL_REASON
from fhir_ext.status.routes import status_router
from fhir_ext.status.service import HealthState, QueueState, StatusDeps
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome

HOSTILE = "<script>alert(1)</script>"


class CannedFhir:
    """A FHIR client that knows one panel with two members, or is down."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down

    def find(self, kind: str, resource_id: str) -> dict | None:
        if self.down:
            raise UpstreamUnavailable("the FHIR server cannot be reached")
        return {
            "id": resource_id,
            "status": "preliminary",
            "code": {"coding": [{"system": MEASUREMENT.url, "code": "lung-density-panel"}]},
            "hasMember": [{"reference": "Observation/m1"}, {"reference": "Observation/m2"}],
        }

    def search(self, kind: str, params: dict, limit: int = 1000) -> list[dict]:
        withheld = {
            "dataAbsentReason": {"coding": [{"system": REFUSAL_REASON.url, "code": "kernel"}]}
        }
        volume = {"valueQuantity": {"value": 4170.3, "code": "mL"}}
        return [
            self._member("m1", "lung-volume", volume),
            self._member("m2", "laa-950", withheld),
        ]

    @staticmethod
    def _member(member_id: str, name: str, value: dict) -> dict:
        both = {"coding": [{"code": "51440002"}]}
        return {
            "id": member_id,
            "status": "preliminary",
            "code": {"coding": [{"system": MEASUREMENT.url, "code": name}]},
            "component": [
                {
                    "code": {"coding": [{"code": LATERALITY.code}]},
                    "valueCodeableConcept": both,
                }
            ],
            **value,
        }


def filled_repository(folder: Path) -> Repository:
    """Runs that are done, waiting and parked, and a study in the worklist."""
    engine = create_store_engine(f"sqlite:///{folder}/status.sqlite")
    migrate(engine)
    repository = Repository(engine)
    for number, (state, reason) in enumerate(
        [("done", None), ("waiting", "not-in-archive"), ("parked", "worker-crashed")]
    ):
        repository.record_run(
            f"ImagingStudy/s{number}/1",
            f"s{number}",
            "1",
            state=state,
            step="finish",
            reason=reason,
            detail=HOSTILE if state == "parked" else None,
            study_instance_uid=f"1.2.826.0.1.3680043.8.498.{number}",
            step_seconds={"prepare": 0.04, "publish": 0.2},
            finished_at=now() if state != "waiting" else None,
        )
    repository.record_outcome(
        ServiceOutcome(
            imaging_study_id="s0",
            series_instance_uid="1.2.826.0.1.3680043.8.498.0.1",
            service="lung-density",
            study_instance_uid="1.2.826.0.1.3680043.8.498.0",
            workflow_id="ImagingStudy/s0/1",
            status="done",
            reasons=[{"rule": "kernel", "seen": "B70f", "needed": "a smooth kernel"}],
            panel_id="panel-0",
            updated_at=now(),
        )
    )
    repository.mark_study_changed("1.2.3.4")
    repository.update_archive_study("1.2.3.4", state="unmatched", reason="no-match")
    return repository


def status_app(repository: Repository, fhir: CannedFhir, **checks) -> FastAPI:
    """The routes as the service mounts them."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(SecurityHeaders)
    deps = StatusDeps(
        repository=repository,
        fhir=fhir,
        queue_waiting=lambda: QueueState(2, 1.5, 1),
        checks=checks or {"FHIR server": lambda: HealthState(True, "answers searches")},
        links={"FHIR server": "http://127.0.0.1:1/fhir"},
        fhir_url="http://127.0.0.1:1/fhir",
    )
    app.include_router(status_router(deps))
    return app
