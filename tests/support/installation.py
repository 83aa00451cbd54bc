"""The running installation as a test drives it; imported only by tests that need servers."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pydicom
import requests

from fhir_ext.cli.parts import Parts
from fhir_ext.cli.tree import Tree
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.http import build_session
from fhir_ext.phantom import PhantomPatient
from fhir_ext.resources.ids import imaging_study_id
from fhir_ext.store.tables import StudyRun
from subscriptions.queue import new_message

#: Identifier system of the patients that the tests register.
SYSTEM = "https://w3id.org/fhir-ext/test/patients"
ISSUER = "FHIR-EXT-TEST"

#: Settings of the tree in tests: short waits, our issuer.
ENVIRONMENT = {
    "FHIR_EXT_BRIDGE__QUIET_PERIOD": "PT1S",
    "FHIR_EXT_BRIDGE__ISSUERS": f'{{"{ISSUER}": "{SYSTEM}"}}',
    "FHIR_EXT_INTAKE__SWEEP_INTERVAL": "PT5S",
    "FHIR_EXT_INTAKE__INCOMPLETE_RETRY": "PT1S",
    "FHIR_EXT_MODELS__ISOLATED_BYTES": "1500000000",
    "FHIR_EXT_WORKER__LEASE_TTL": "PT4S",
}


class Installation:
    """The running tree as a test drives it: registers patients, stores studies, waits.

    Everything identifying that goes in is remembered in `planted`, so that the end of the
    run can look for it in the logs.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.settings = tree.settings
        self.parts = Parts(self.settings)
        self.fhir = self.parts.fhir
        self.repository = self.parts.repository
        self.archive = DicomWebClient(self.settings.archive, self.settings.limits)
        self.planted: set[str] = set()
        self._number = 0

    def patient(self, *, register: bool = True, born: str = "19600214") -> PhantomPatient:
        """A new invented patient, known to HAPI unless `register` is False."""
        self._number += 1
        number = f"MRN-{os.getpid()}-{self._number:04d}"
        family = f"Qwertzfamily{self._number:04d}"
        patient = PhantomPatient(
            patient_id=number,
            issuer=ISSUER,
            name=f"{family}^Given",
            sex="F",
            birth_date=born,
        )
        self.planted |= {number, family}
        if register:
            self.register(patient)
        return patient

    def register(self, patient: PhantomPatient) -> str:
        """Put the patient into HAPI; returns its id."""
        fhir_id = patient.patient_id.lower()
        family = patient.name.partition("^")[0]
        born = patient.birth_date
        self.fhir.put(
            {
                "resourceType": "Patient",
                "id": fhir_id,
                "identifier": [{"system": SYSTEM, "value": patient.patient_id}],
                "name": [{"family": family}],
                "gender": "female",
                "birthDate": f"{born[:4]}-{born[4:6]}-{born[6:]}",
            }
        )
        return fhir_id

    def store(self, instances: Sequence[pydicom.Dataset]) -> str:
        """STOW-RS; returns the Study Instance UID."""
        for instance in instances:
            self.planted |= {str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID)}
            self.planted.add(str(instance.SOPInstanceUID))
        report = self.archive.store(list(instances))
        assert not report.failed
        return str(instances[0].StudyInstanceUID)

    def runs(self, study_instance_uid: str) -> list[StudyRun]:
        """Runs of one study, newest first."""
        wanted = imaging_study_id(study_instance_uid)
        return [run for run in self.repository.runs(limit=1000) if run.imaging_study_id == wanted]

    def wait_for(self, check: Callable[[], Any], what: str, timeout: float = 90.0) -> Any:
        """Wait until `check` gives something true, and return it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.tree.watch_once()
            if found := check():
                return found
            time.sleep(0.1)
        logs = "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted((self.tree.directory / "logs").glob("*.log"))
            if path.name.startswith(("worker", "serve"))
        )
        raise AssertionError(f"{what} did not happen within {timeout:.0f} s\n{logs}")

    def wait_done(self, study_instance_uid: str, timeout: float = 90.0) -> StudyRun:
        """Wait until a run of the study is done."""
        return self.wait_for(
            lambda: next((r for r in self.runs(study_instance_uid) if r.state == "done"), None),
            "a finished run",
            timeout,
        )

    def results(self, study_instance_uid: str) -> dict[str, list[dict[str, Any]]]:
        """Everything in HAPI that the study's Provenances speak of, by resource type."""
        reference = f"ImagingStudy/{imaging_study_id(study_instance_uid)}"
        found: dict[str, list[dict[str, Any]]] = {}
        for provenance in self.fhir.search("Provenance", {"entity": reference}):
            found.setdefault("Provenance", []).append(provenance)
            for target in provenance["target"]:
                kind, _, resource_id = target["reference"].partition("/")
                found.setdefault(kind, []).append(self.fhir.read(kind, resource_id.split("/")[0]))
        return found

    def ready(self) -> bool:
        """Whether every part says that it is there."""
        try:
            url = f"{self.tree.urls['status page']}health/ready"
            return requests.get(url, timeout=20).status_code == 200
        except requests.RequestException:
            return False

    def enqueue_again(self, study_id: str) -> str:
        """Ask for one more run, as `fhir-ext analyze` does; returns its workflow id."""
        study = self.fhir.read("ImagingStudy", study_id)
        message = new_message(study_id, str(study["meta"]["versionId"]), run=uuid.uuid4().hex[:8])
        return self.parts.queue.enqueue(message)

    def delete_from_archive(self, study_instance_uid: str) -> None:
        """Delete a study by Orthanc's own interface."""
        session = build_session(self.settings.archive.auth, self.settings.archive.timeout)
        root = self.settings.archive.orthanc_url
        (found,) = session.post(f"{root}/tools/lookup", data=study_instance_uid).json()
        session.delete(f"{root}/studies/{found['ID']}").raise_for_status()
