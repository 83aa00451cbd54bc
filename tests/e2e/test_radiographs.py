"""A PA film and a SEG of heart and lungs go the whole way; an AP film is refused by name."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from image_seg_samples import HEART, LUNG, image_seg_dataset
from pydicom import Dataset
from pydicom.uid import generate_uid
from seg_samples import encoded as encoded_seg
from synthetic_cr import radiograph
from synthetic_projection import parts

from fhir_ext.phantom import PhantomPatient

Json = dict[str, Any]

SHAPE = (200, 240)
#: A heart of 71 pixels in a chest of 161.
RATIO = 71 / 161


def ellipse(row: float, column: float, height: float, width: float) -> np.ndarray:
    y, x = np.indices(SHAPE)
    return ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1


MASKS = {
    HEART: ellipse(130, 125, 30, 35),
    LUNG: ellipse(95, 60, 70, 20) | ellipse(95, 180, 70, 20),
}


def chest(patient: PhantomPatient, view: str) -> list[Dataset]:
    """A film with a SEG over it, of one patient and a study of its own."""
    pixels = np.where(MASKS[LUNG], 400, 1800).astype(np.uint16)
    study, series = generate_uid(), generate_uid()
    film = radiograph(
        view,
        pixels,
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        SOPInstanceUID=generate_uid(),
        PatientID=patient.patient_id,
        IssuerOfPatientID=patient.issuer,
        PatientName=patient.name,
        PatientBirthDate=patient.birth_date,
    )
    (part,) = parts(film)
    film = pydicom.dcmread(BytesIO(part))
    drawn = image_seg_dataset(film, MASKS, instance=generate_uid())
    drawn.SeriesInstanceUID = generate_uid()
    return [film, pydicom.dcmread(BytesIO(encoded_seg(drawn)))]


def panel_of(installation: Any, uid: str) -> tuple[Json, Json]:
    """The panel of the ratio, and its one member."""
    installation.wait_done(uid)
    found = installation.results(uid)["Observation"]
    panel = next(o for o in found if "hasMember" in o)
    assert panel["code"]["coding"][0]["code"] == "cardiothoracic-ratio-panel"
    (member,) = [o for o in found if "hasMember" not in o]
    return panel, member


def test_the_ratio_of_a_pa_film_stands_with_its_sources(installation: Any) -> None:
    uid = installation.store(chest(installation.patient(), "PA"))
    panel, member = panel_of(installation, uid)
    assert member["valueQuantity"]["value"] == pytest.approx(RATIO, abs=0.0006)
    assert {panel["status"], member["status"]} == {"preliminary"}
    (provenance,) = installation.results(uid)["Provenance"]
    named = {
        entity["what"]["identifier"]["value"].removeprefix("urn:oid:")
        for entity in provenance["entity"]
        if "identifier" in entity["what"]
    }
    held = {s.series_instance_uid: s.modality for s in installation.archive.list_series(uid)}
    assert {held[series] for series in named if series in held} >= {"DX", "SEG"}
    installation.wait_for(
        lambda: "SR" in {s.modality for s in installation.archive.list_series(uid)}, "the SR"
    )


def test_an_ap_film_is_refused_by_name(installation: Any) -> None:
    uid = installation.store(chest(installation.patient(), "AP"))
    _, member = panel_of(installation, uid)
    assert "valueQuantity" not in member
    assert member["dataAbsentReason"]["coding"][0]["code"]
    assert "AP" in member["dataAbsentReason"]["text"]
    rows = [o for o in installation.repository.outcomes(uid) if o.status == "refused"]
    assert [(o.service, o.reasons[0]["rule"]) for o in rows] == [
        ("cardiothoracic-ratio", "view-position")
    ]
