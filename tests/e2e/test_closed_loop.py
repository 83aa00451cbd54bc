"""A study goes into the archive; without a touch its results stand in HAPI and as SR."""

from __future__ import annotations

import copy

import pytest
from pydicom.uid import generate_uid

from fhir_ext.phantom import PhantomSpec, build, write_study
from fhir_ext.resources.ids import imaging_study_id


@pytest.fixture(scope="module")
def loop(installation):
    """One two-kernel phantom study, analysed."""
    patient = installation.patient()
    phantom = build(PhantomSpec(emphysema_fraction=0.12, seed=5))
    soft, sharp = write_study(phantom, patient, ("soft", "sharp"))
    uid = installation.store([*soft, *sharp])
    installation.wait_done(uid)
    return installation, uid, phantom, soft, sharp


def _panels(results):
    return [o for o in results["Observation"] if o.get("hasMember")]


def _members(results, panel):
    ids = {member["reference"].split("/")[1] for member in panel["hasMember"]}
    return [o for o in results["Observation"] if o["id"] in ids]


def _series_of(panel) -> str:
    return next(
        c["valueString"] for c in panel["component"] if c["code"]["coding"][0]["code"] == "112002"
    )


def test_imaging_study_is_announced_under_its_own_id(loop) -> None:
    installation, uid, _, soft, sharp = loop
    study = installation.fhir.read("ImagingStudy", imaging_study_id(uid))
    assert study["subject"]["reference"].startswith("Patient/mrn-")
    counts = {s["uid"]: s["numberOfInstances"] for s in study["series"]}
    assert counts == {
        soft[0].SeriesInstanceUID: len(soft),
        sharp[0].SeriesInstanceUID: len(sharp),
    }


def test_numbers_of_the_soft_kernel_are_near_the_truth(loop) -> None:
    installation, uid, phantom, soft, _ = loop
    results = installation.results(uid)
    panel = next(p for p in _panels(results) if _series_of(p) == soft[0].SeriesInstanceUID)
    values = {}
    for member in _members(results, panel):
        if "valueQuantity" in member and "lateral" not in str(member.get("bodySite", "")).lower():
            codes = [c["code"] for c in member["code"]["coding"]]
            values.setdefault(codes[0], member["valueQuantity"]["value"])
    truth = phantom.truth.lungs
    assert values["lung-volume"] == pytest.approx(truth.volume_ml, rel=0.03)
    assert values["laa-950"] == pytest.approx(truth.laa_950_percent, abs=1.5)


def test_sharp_kernel_is_refused_with_a_coded_reason(loop) -> None:
    installation, uid, _, _, sharp = loop
    results = installation.results(uid)
    panel = next(p for p in _panels(results) if _series_of(p) == sharp[0].SeriesInstanceUID)
    withheld = [m for m in _members(results, panel) if "dataAbsentReason" in m]
    names = {m["code"]["coding"][0]["code"] for m in withheld}
    assert {"laa-950", "perc15"} <= names
    for member in withheld:
        assert "valueQuantity" not in member
        assert "kernel" in {c["code"] for c in member["dataAbsentReason"]["coding"]}
    volume = next(
        m for m in _members(results, panel) if m["code"]["coding"][0]["code"] == "lung-volume"
    )
    assert volume["valueQuantity"]["value"] > 1000


def test_everything_is_preliminary_labelled_and_traceable(loop) -> None:
    installation, uid, *_ = loop
    results = installation.results(uid)
    assert {"Observation", "RiskAssessment", "DetectedIssue", "Task", "Provenance"} <= set(results)
    for kind in ("Observation", "RiskAssessment", "DetectedIssue"):
        for resource in results[kind]:
            assert resource["status"] == "preliminary"
            assert "AIAST" in {c["code"] for c in resource["meta"]["security"]}
    reference = f"ImagingStudy/{imaging_study_id(uid)}"
    for panel in _panels(results):
        assert reference in {d["reference"].split("/_history")[0] for d in panel["derivedFrom"]}
        device = installation.fhir.read("Device", panel["device"]["reference"].split("/")[1])
        assert device["version"][0]["value"] == "1.0.0"
    assert all(task["status"] == "requested" for task in results["Task"])
    patient = results["RiskAssessment"][0]["subject"]["reference"]
    audits = installation.fhir.search("AuditEvent", {"patient": patient})
    assert audits, "every inference is audited"


def test_the_sr_is_in_the_archive_and_says_the_same(loop) -> None:
    installation, uid, *_ = loop
    series = [s for s in installation.archive.list_series(uid) if s.modality == "SR"]
    assert len(series) == 2, "one SR for each series that was looked at"
    for item in series:
        (instance,) = installation.archive.list_instances(uid, item.series_instance_uid)
        sr = installation.archive.instance_metadata(
            uid, item.series_instance_uid, instance.sop_instance_uid
        )
        assert sr.Manufacturer == "fhir-ext"
        assert sr.PatientID.startswith("MRN-")


def test_our_own_sr_starts_no_new_work(loop) -> None:
    installation, uid, *_ = loop
    study = installation.fhir.read("ImagingStudy", imaging_study_id(uid))
    assert study["meta"]["versionId"] == "1"
    assert len([r for r in installation.runs(uid) if r.state == "done"]) == 1


def test_a_second_run_writes_no_new_version(loop) -> None:
    installation, uid, *_ = loop
    before = installation.results(uid)
    workflow_id = installation.enqueue_again(imaging_study_id(uid))
    run = installation.wait_for(
        lambda: (r := installation.repository.run(workflow_id)) and r.finished_at and r,
        "the second run",
    )
    assert (run.state, run.reason) == ("nothing-to-do", "already-written")
    after = installation.results(uid)
    for kind, resources in before.items():
        versions = {r["id"]: r["meta"]["versionId"] for r in resources}
        assert {r["id"]: r["meta"]["versionId"] for r in after[kind]} == versions
        if kind != "Device":
            assert set(versions.values()) == {"1"}


def test_a_grown_study_supersedes_preliminary_results_only(installation, small_study) -> None:
    patient = installation.patient()
    (series,) = small_study(patient)
    uid = installation.store(series[:45])
    installation.wait_done(uid)
    first = installation.results(uid)
    signed = next(o for o in first["Observation"] if not o.get("hasMember"))
    installation.fhir.put({**signed, "status": "final"})

    installation.store(series[45:])
    installation.wait_for(
        lambda: len([r for r in installation.runs(uid) if r.state == "done"]) == 2, "the second run"
    )
    everything = installation.results(uid)
    assert len(everything["Provenance"]) == 2
    old_ids = {o["id"] for o in first["Observation"]}
    statuses = {o["id"]: o["status"] for o in everything["Observation"]}
    assert statuses[signed["id"]] == "final"
    assert {statuses[i] for i in old_ids - {signed["id"]}} == {"cancelled"}
    assert {statuses[i] for i in set(statuses) - old_ids} == {"preliminary"}
    entities = [e["role"] for p in everything["Provenance"] for e in p["entity"]]
    assert "revision" in entities


def test_unmatched_study_waits_until_a_human_links_it(installation, small_study) -> None:
    patient = installation.patient(register=False)
    (series,) = small_study(patient)
    uid = installation.store(series)
    row = installation.wait_for(
        lambda: (r := installation.repository.archive_study(uid)) and r.state == "unmatched" and r,
        "the study in the worklist",
    )
    assert row.reason == "no-match"
    assert installation.fhir.find("ImagingStudy", imaging_study_id(uid)) is None
    other = installation.register(installation.patient())
    installation.repository.update_archive_study(uid, state="settling", patient_id=other)
    installation.wait_done(uid)
    study = installation.fhir.read("ImagingStudy", imaging_study_id(uid))
    assert study["subject"]["reference"] == f"Patient/{other}"


def test_wrong_issuer_is_not_linked(installation, small_study) -> None:
    patient = installation.patient()
    (series,) = small_study(patient)
    for instance in series:
        instance.IssuerOfPatientID = "SOMEBODY-ELSE"
    uid = installation.store(series)
    row = installation.wait_for(
        lambda: (r := installation.repository.archive_study(uid)) and r.state == "unmatched" and r,
        "the study in the worklist",
    )
    assert row.reason == "unknown-issuer"


def test_an_incomplete_study_waits_and_goes_on(installation, small_study) -> None:
    """A site announces more instances than the archive holds yet."""
    patient = installation.patient()
    (series,) = small_study(patient)
    uid = str(series[0].StudyInstanceUID)
    study_id = imaging_study_id(uid)
    installation.planted.add(uid)
    installation.fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": study_id,
            "status": "available",
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
            "subject": {"reference": f"Patient/{patient.patient_id.lower()}"},
            "started": "2026-01-05T10:15:00Z",
            "series": [
                {
                    "uid": str(series[0].SeriesInstanceUID),
                    "modality": {
                        "system": "http://dicom.nema.org/resources/ontology/DCM",
                        "code": "CT",
                    },
                    "numberOfInstances": len(series),
                }
            ],
        }
    )
    waiting = installation.wait_for(
        lambda: next((r for r in installation.runs(uid) if r.state == "waiting"), None),
        "a waiting run",
    )
    assert waiting.reason == "not-in-archive"
    installation.store(series)
    installation.wait_done(uid)


def test_several_acquisitions_in_one_series_are_recognised(installation, small_study) -> None:
    patient = installation.patient()
    (series,) = small_study(patient)
    second = copy.deepcopy(series[:12])
    for instance in second:
        instance.AcquisitionNumber = 9
        instance.SOPInstanceUID = generate_uid()
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    uid = installation.store([*series, *second])
    installation.wait_done(uid)
    (panel,) = _panels(installation.results(uid))
    members = _members(installation.results(uid), panel)
    assert any("valueQuantity" in member for member in members), "the larger stack was measured"


def test_emphysema_on_the_problem_list_raises_no_issue(installation, small_study) -> None:
    patient = installation.patient()
    fhir_id = patient.patient_id.lower()
    installation.fhir.put(
        {
            "resourceType": "Condition",
            "id": f"{fhir_id}-emphysema",
            "subject": {"reference": f"Patient/{fhir_id}"},
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": "87433001"}]},
        }
    )
    (series,) = small_study(patient)
    uid = installation.store(series)
    installation.wait_done(uid)
    results = installation.results(uid)
    assert results["RiskAssessment"], "the risk is told all the same"
    assert "DetectedIssue" not in results
