"""What keeps an installation going: repair, reconcile, resume, doctor, a lost database."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date

import pytest

from fhir_ext.resources.ids import imaging_study_id
from subscriptions.intake.subscription import SUBSCRIPTION_ID

#: What people's terminals add must not stand between a word and its test.
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "dumb"}


def _command(installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fhir_ext", *arguments],
        env={**os.environ, **installation.tree.environment, **PLAIN},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "damage",
    [{"status": "off"}, {"criteria": "ImagingStudy?status=cancelled"}, {"status": "error"}],
)
def test_a_damaged_subscription_is_repaired(installation, damage) -> None:
    found = installation.fhir.read("Subscription", SUBSCRIPTION_ID)
    installation.fhir.put({**found, **damage})

    def repaired() -> bool:
        now = installation.fhir.read("Subscription", SUBSCRIPTION_ID)
        return now["status"] == "active" and now["criteria"] == found["criteria"]

    installation.wait_for(repaired, "the repair", timeout=60)


def test_doctor_finds_nothing_wrong_with_the_servers(installation) -> None:
    done = _command(installation, "doctor")
    for part in ("FHIR server", "DICOMweb archive", "database", "worker", "subscription"):
        line = next(line for line in done.stdout.splitlines() if f" {part} " in line)
        assert " ok " in line, line
    assert "FHIR 4.0.1" in done.stdout
    assert "model lung-density" in done.stdout


def test_doctor_says_what_to_do_when_hapi_is_not_there(installation) -> None:
    environment = {
        **installation.tree.environment,
        "FHIR_EXT_FHIR__BASE_URL": "http://127.0.0.1:9/fhir",
    }
    done = subprocess.run(
        [sys.executable, "-m", "fhir_ext", "doctor"],
        env={**os.environ, **environment, **PLAIN},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "FHIR_EXT_FHIR__BASE_URL" in done.stdout


def test_reconcile_brings_in_what_lies_in_the_archive(installation, small_study) -> None:
    patient = installation.patient()
    (series,) = small_study(patient)
    uid = installation.store(series)
    installation.wait_done(uid)
    # As after a lost database: the bridge knows nothing of this study any more.
    installation.repository.update_archive_study(uid, state="ignored", archive_mark=None)
    day = date(
        int(patient.study_date[:4]), int(patient.study_date[4:6]), int(patient.study_date[6:])
    )
    done = _command(installation, "reconcile", "--since", day.isoformat())
    assert done.returncode == 0, done.stderr
    assert "studies marked" in done.stdout
    installation.wait_for(
        lambda: installation.repository.archive_study(uid).state == "bridged", "the bridging"
    )
    study = installation.fhir.read("ImagingStudy", imaging_study_id(uid))
    assert study["meta"]["versionId"] == "1", "nothing is written twice"


def test_a_parked_study_is_resumed_once_its_cause_is_gone(installation, small_study) -> None:
    patient = installation.patient(register=False)
    (series,) = small_study(patient)
    uid = str(series[0].StudyInstanceUID)
    study_id = imaging_study_id(uid)
    installation.repository.mark_study_changed(uid)
    installation.repository.update_archive_study(uid, patient_id=patient.patient_id.lower())
    installation.store(series)
    parked = installation.wait_for(
        lambda: next((r for r in installation.runs(uid) if r.state == "parked"), None),
        "the parked study",
    )
    assert parked.reason == "unknown-patient"
    listed = _command(installation, "tasks", "list")
    assert parked.workflow_id in listed.stdout
    installation.register(patient)
    resumed = _command(installation, "tasks", "resume", parked.workflow_id)
    assert resumed.returncode == 0, resumed.stderr
    installation.wait_done(uid)
    tasks = installation.fhir.search("Task", {"focus": f"ImagingStudy/{study_id}"})
    statuses = {t["status"] for t in tasks if "review" not in str(t["code"]["coding"])}
    assert statuses == {"completed"}


def test_patients_list_and_link_by_command(installation, small_study) -> None:
    patient = installation.patient(register=False)
    (series,) = small_study(patient)
    uid = installation.store(series)
    installation.wait_for(
        lambda: (r := installation.repository.archive_study(uid)) and r.state == "unmatched",
        "the study in the worklist",
    )
    listed = _command(installation, "patients", "list")
    assert patient.patient_id in listed.stdout, "the operator sees the header"
    fhir_id = installation.register(installation.patient())
    wrong = _command(installation, "patients", "link", uid, "Patient/nobody")
    assert wrong.returncode == 1
    assert "no such resource" in wrong.stderr
    linked = _command(installation, "patients", "link", uid, f"Patient/{fhir_id}")
    assert linked.returncode == 0, linked.stderr
    installation.wait_done(uid)


def test_a_lost_database_is_rebuilt_by_the_sweep(installation, small_study) -> None:
    """Without our database every study is looked at again, and nothing is written twice."""
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    installation.wait_done(uid)
    before = installation.results(uid)
    tree = installation.tree
    tree.hold("worker")
    tree.hold("serve")
    installation.repository.engine.dispose()
    for file in (tree.directory / "db").iterdir():
        file.unlink()
    migrated = _command(installation, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    tree.release("serve")
    tree.release("worker")
    run = installation.wait_for(
        lambda: next((r for r in installation.runs(uid) if r.finished_at), None), "the new run", 120
    )
    assert (run.state, run.reason) == ("nothing-to-do", "already-written")
    after = installation.results(uid)
    for kind, resources in before.items():
        versions = {r["id"]: r["meta"]["versionId"] for r in resources}
        assert {r["id"]: r["meta"]["versionId"] for r in after[kind]} == versions
