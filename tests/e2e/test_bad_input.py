"""Bad input to the running system, one test each: a coded outcome, and the worker lives on."""

from __future__ import annotations

import pytest
import requests

from fhir_ext.resources.ids import imaging_study_id
from subscriptions.intake.routes import SECRET_HEADER


@pytest.fixture(autouse=True)
def worker_lives_on(installation):
    before = installation.tree.pid("worker")
    yield
    assert installation.tree.pid("worker") == before, "the worker was restarted"
    health = requests.get(f"{installation.tree.urls['status page']}health/ready", timeout=10)
    assert health.status_code == 200, health.text


def _hook(installation, **kwargs) -> requests.Response:
    url = f"{installation.settings.intake.hook_url}/ImagingStudy/some-study"
    return requests.put(url, timeout=30, **kwargs)


def test_hook_with_a_wrong_secret(installation) -> None:
    response = _hook(installation, headers={SECRET_HEADER: "wrong"}, data=b"{}")
    assert response.status_code == 403
    assert response.json()["resourceType"] == "OperationOutcome"


def test_hook_body_of_50_mb(installation) -> None:
    secret = installation.settings.intake.hook_secret.get_secret_value()
    try:
        response = _hook(installation, headers={SECRET_HEADER: secret}, data=b"x" * 50_000_000)
    except requests.ConnectionError:
        return  # refused and closed before the whole body was read
    assert response.status_code == 413
    assert response.json()["resourceType"] == "OperationOutcome"


def test_hook_for_a_study_that_does_not_exist(installation) -> None:
    secret = installation.settings.intake.hook_secret.get_secret_value()
    headers = {SECRET_HEADER: secret, "If-Match": 'W/"1"'}
    assert _hook(installation, headers=headers, data=b"{}").status_code == 204
    run = installation.wait_for(
        lambda: installation.repository.run("ImagingStudy/some-study/1"), "the run"
    )
    run = installation.wait_for(
        lambda: (r := installation.repository.run(run.workflow_id)) and r.finished_at and r,
        "its end",
    )
    assert (run.state, run.reason) == ("nothing-to-do", "resource-gone")


def _announce(installation, study_id: str, uid: str | None, subject: str) -> None:
    identifier = [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}] if uid else []
    installation.fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": study_id,
            "status": "available",
            **({"identifier": identifier} if identifier else {}),
            "subject": {"reference": subject},
        }
    )


@pytest.mark.parametrize(
    ("study_id", "uid", "subject", "reason"),
    [
        ("bad-patient", "1.2.3.999.1", "Patient/nobody", "unknown-patient"),
        ("bad-reference", "1.2.3.999.2", "Group/nobody", "unknown-patient"),
        ("bad-uid", None, "Patient/nobody", "no-study-uid"),
    ],
)
def test_imaging_study_with_unknown_references(installation, study_id, uid, subject, reason):
    _announce(installation, study_id, uid, subject)
    run = installation.wait_for(
        lambda: (
            (r := installation.repository.run(f"ImagingStudy/{study_id}/1")) and r.finished_at and r
        ),
        "the run",
    )
    assert (run.state, run.reason) == ("parked", reason)
    tasks = installation.fhir.search("Task", {"focus": f"ImagingStudy/{study_id}"})
    assert [task["status"] for task in tasks] == ["requested"]


def test_study_deleted_between_hook_and_fetch(installation, small_study) -> None:
    """The ImagingStudy stays, the pixels are gone: it waits, visibly, and then becomes a Task."""
    (series,) = small_study(installation.patient())
    tree = installation.tree
    uid = installation.store(series)
    installation.wait_for(
        lambda: installation.fhir.find("ImagingStudy", imaging_study_id(uid)), "the ImagingStudy"
    )
    installation.wait_done(uid)
    installation.delete_from_archive(uid)
    message = installation.enqueue_again(imaging_study_id(uid))
    waiting = installation.wait_for(
        lambda: (r := installation.repository.run(message)) and r.state == "waiting" and r,
        "the waiting run",
    )
    assert waiting.reason == "not-in-archive"
    assert tree is installation.tree


def _of_lung_density(installation, uid: str):
    """What became of the one service that every stack of a chest is shown to."""
    rows = installation.repository.outcomes(uid)
    (outcome,) = (row for row in rows if row.service == "lung-density")
    return outcome


def test_wrong_modality_has_a_readable_reason(installation, small_study) -> None:
    (series,) = small_study(installation.patient())
    for instance in series:
        instance.Modality = "MR"
    uid = installation.store(series)
    installation.wait_for(
        lambda: [r for r in installation.runs(uid) if r.state == "nothing-to-do"], "the run"
    )
    outcome = _of_lung_density(installation, uid)
    assert outcome.status == "not-applied"
    assert outcome.reasons == [{"rule": "modality", "seen": "MR", "needed": ""}]


def test_missing_geometry_is_a_refused_result(installation, small_study) -> None:
    (series,) = small_study(installation.patient())
    for instance in series:
        del instance.ImagePositionPatient
    uid = installation.store(series)
    installation.wait_done(uid)
    outcome = _of_lung_density(installation, uid)
    assert outcome.status == "refused"
    assert [reason["rule"] for reason in outcome.reasons] == ["missing-geometry"]
    observations = installation.results(uid)["Observation"]
    assert not any("valueQuantity" in o for o in observations)
    assert any("dataAbsentReason" in o for o in observations)
