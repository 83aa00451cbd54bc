"""Every shipped kind of result goes the whole way: images in, resources and SR out, reviewed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from pydicom import Dataset
from pydicom.uid import generate_uid
from review_samples import chosen, modified
from seg_samples import segment, write_seg
from synthetic_mg import STANDARD, acquired, study
from tokens import Tokens

from fhir_ext.phantom import PhantomPatient
from fhir_ext.resources import codes
from fhir_ext.resources.ids import dicom_uid, imaging_study_id, result_id, review_dicom_uid
from fhir_ext.results import Region

Json = dict[str, Any]

PROGRAM = "demo-screening"
SCOPES = "user/Task.rus user/Observation.rs"
#: Voxels of the box that stands for a liver: 60 rows, 60 columns, 20 slices of 11.25 mm3.
LIVER_ML = 60 * 60 * 20 * 1.5 * 1.5 * 5.0 / 1000


def seg_of(series: list[Dataset]) -> Dataset:
    """A reader's SEG with one box on a stack of CT slices."""
    pixels = np.zeros((len(series), int(series[0].Rows), int(series[0].Columns)), np.uint8)
    pixels[10:30, 50:110, 80:140] = 1
    return write_seg(series, pixels, [segment(1)], series=generate_uid(), instance=generate_uid())


def panels(installation: Any, uid: str) -> dict[str, Json]:
    """Panels of a study by the code of their service."""
    found = installation.results(uid).get("Observation", [])
    return {o["code"]["coding"][0]["code"]: o for o in found if "hasMember" in o}


def members(installation: Any, panel: Json) -> dict[tuple[str, str], Json]:
    """Members of a panel by name and site."""
    found = {}
    for item in panel["hasMember"]:
        member = installation.fhir.read(*item["reference"].split("/"))
        name = member["code"]["coding"][0]["code"]
        found[name, member["bodySite"]["coding"][-1]["code"]] = member
    return found


def sources(installation: Any, panel: Json) -> set[str]:
    """Series UIDs that the Provenance of a panel names as sources."""
    key = next(i["value"] for i in panel["identifier"] if i["system"] == codes.INFERENCE_KEY)
    provenance = installation.fhir.read("Provenance", result_id(key, "provenance"))
    return {
        entity["what"]["identifier"]["value"].removeprefix("urn:oid:")
        for entity in provenance["entity"]
        if entity["role"] == "source" and "identifier" in entity["what"]
    }


def sr_of(installation: Any, uid: str, panel: Json) -> Dataset:
    """The SR that a panel names, as the archive holds it."""
    wanted = next(
        i["value"].removeprefix("urn:oid:")
        for i in panel["identifier"]
        if i["system"] == codes.DICOM_UID
    )
    for series in installation.archive.list_series(uid):
        if series.modality == "SR":
            for item in installation.archive.list_instances(uid, series.series_instance_uid):
                if item.sop_instance_uid == wanted:
                    return installation.archive.instance_metadata(
                        uid, series.series_instance_uid, wanted
                    )
    raise AssertionError("the archive has no such SR")


def evidence(sr: Dataset) -> dict[str, int]:
    """Series that an SR refers to, and how many instances of each."""
    return {
        str(series.SeriesInstanceUID): len(series.ReferencedSOPSequence)
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    }


def test_a_segmentation_that_comes_later_is_measured(
    installation: Any, small_study: Callable[..., list[list[Dataset]]]
) -> None:
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    installation.wait_done(uid)
    assert panels(installation, uid).keys() == {"lung-density-panel"}
    (skipped,) = (
        row
        for row in installation.repository.outcomes(uid)
        if row.service == "segment-measurements"
    )
    assert skipped.reasons[0]["rule"] == "no-segmentation"

    seg = seg_of(series)
    installation.store([seg])
    installation.wait_for(
        lambda: "segment-measurements-panel" in panels(installation, uid), "the measurements"
    )
    announced = installation.fhir.read("ImagingStudy", imaging_study_id(uid))
    modalities = sorted(s["modality"]["code"] for s in announced["series"])
    assert modalities == ["CT", "SEG"], "our own SR are not announced"

    found = panels(installation, uid)
    assert {p["status"] for p in found.values()} == {"preliminary"}, "lung density stands"
    panel = found["segment-measurements-panel"]
    volume = members(installation, panel)["organ-volume", codes.REGION_SITE[Region.LIVER].code]
    assert volume["valueQuantity"]["value"] == pytest.approx(LIVER_ML, abs=0.1)
    assert "Measured in a segment that a program drew." in [n["text"] for n in volume["note"]]
    ct, drawn = str(series[0].SeriesInstanceUID), str(seg.SeriesInstanceUID)
    assert sources(installation, panel) == {ct, drawn}
    sr = installation.wait_for(lambda: sr_of(installation, uid, panel), "the SR")
    assert evidence(sr) == {ct: len(series), drawn: 1}


def mammograms(patient: PhantomPatient) -> list[Dataset]:
    """A new study of four views with some bright tissue."""

    def breast(view: str) -> npt.NDArray[Any]:
        image = np.zeros((2600, 2000), np.uint8)
        image[300:2300, :1500] = 90
        image[800:1800, 300:900] = 200
        image[0, 0] = 255
        return np.asarray(acquired(image, view))

    root = generate_uid()
    images = study(
        {view: breast(view) for view in STANDARD},
        StudyInstanceUID=root,
        PatientID=patient.patient_id,
        IssuerOfPatientID=patient.issuer,
        PatientName=patient.name,
        PatientBirthDate=patient.birth_date,
    )
    for number, image in enumerate(images.values(), start=1):
        image.SeriesInstanceUID = f"{root[:55]}.{number}"
        image.SOPInstanceUID = f"{root[:55]}.{number}.1"
    return [_with_meta(image) for image in images.values()]


def _with_meta(image: Dataset) -> Dataset:
    from io import BytesIO

    from pydicom import dcmread
    from synthetic_projection import parts

    (part,) = parts(image)
    return dcmread(BytesIO(part))


@pytest.fixture
def density(installation: Any) -> Iterator[tuple[str, Json, list[Dataset], str]]:
    """(study UID, panel, images, patient id) of analysed mammograms."""
    patient = installation.patient()
    images = mammograms(patient)
    uid = installation.store(images)
    installation.wait_done(uid)
    (panel,) = panels(installation, uid).values()
    yield uid, panel, images, patient.patient_id.lower()


def test_four_mammograms_are_classified_and_reviewed(
    installation: Any, density: tuple[str, Json, list[Dataset], str]
) -> None:
    uid, panel, images, patient_id = density
    assert panel["code"]["coding"][0]["code"] == "breast-density-panel"
    (member,) = members(installation, panel).values()
    assert member["code"]["coding"][0]["code"] == "breast-density"
    machine = member["valueCodeableConcept"]["coding"][0]["code"]
    assert machine in "abcd"
    probabilities = [part["valueQuantity"]["value"] for part in member["component"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-3)
    series = {str(image.SeriesInstanceUID) for image in images}
    assert sources(installation, panel) == series
    sr = installation.wait_for(lambda: sr_of(installation, uid, panel), "the SR")
    assert evidence(sr) == dict.fromkeys(series, 1)

    (task,) = installation.results(uid)["Task"]
    human = "a" if machine != "a" else "d"
    body = modified(chosen(member["id"], codes.BREAST_DENSITY.url, human))
    answer = _reviewed(installation, patient_id, task["id"], body)
    assert answer.status_code == 200, answer.text
    changed = installation.fhir.read("Observation", member["id"])
    assert changed["status"] == "amended"
    assert changed["valueCodeableConcept"]["coding"][0]["code"] == human
    assert "component" not in changed
    installation.wait_for(
        lambda: (
            installation.fhir.read("Task", task["id"])["businessStatus"]["coding"][0]["code"]
            == "done"
        ),
        "the corrected SR",
    )
    key = next(i["value"] for i in panel["identifier"] if i["system"] == codes.INFERENCE_KEY)

    successor = installation.archive.instance_metadata(
        uid, dicom_uid(key, "sr-series"), review_dicom_uid(task["id"], "sr")
    )
    assert successor.VerificationFlag == "VERIFIED"
    assert evidence(successor) == dict.fromkeys(series, 1)
    row = installation.wait_for(lambda: installation.repository.review(task["id"]), "the count")
    assert row.differences == [
        {
            "name": "breast-density",
            "region": "breasts",
            "difference": None,
            "from": machine,
            "to": human,
        }
    ]


def _reviewed(installation: Any, patient_id: str, task_id: str, body: Json) -> requests.Response:
    """Decide through the gateway, as the radiologist of a program that the patient is in."""
    group = installation.fhir.find("Group", PROGRAM) or {
        "resourceType": "Group",
        "id": PROGRAM,
        "type": "person",
        "actual": True,
    }
    entity = {"entity": {"reference": f"Patient/{patient_id}"}}
    installation.fhir.put({**group, "member": [*group.get("member", []), entity]})
    tokens = Tokens(installation.tree.urls["issuer"], Path(installation.tree.directory))
    headers = {
        "Content-Type": "application/fhir+json",
        "Authorization": f"Bearer {tokens.get('radiologist', 'user', SCOPES)}",
    }
    url = f"{installation.tree.urls['gateway']}/Task/{task_id}"
    installation.wait_for(
        lambda: requests.get(url, headers=headers, timeout=60).status_code == 200,
        "a patient in the program",
    )
    headers["If-Match"] = 'W/"1"'
    return requests.post(f"{url}/$review", json=body, headers=headers, timeout=60)
