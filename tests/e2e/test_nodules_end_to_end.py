"""The reference detector, switched on, on a chest with drawn nodules: archive to record and SR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from nodule_samples import PLACES, chest, nodules, volume
from pydicom import Dataset

from fhir_ext.phantom import PhantomPatient, write_series
from fhir_ext.phantom.series import RESCALE_INTERCEPT
from operations.model_registry.actor import Actor

Json = dict[str, Any]

ACTOR = Actor("test", "cli")
SERVICE = "nodule-detection"


@pytest.fixture
def switched_on(installation: Any) -> Iterator[str]:
    models = installation.parts.models
    (row,) = models.versions(SERVICE)
    assert row.state == "draft", "it is off until a site switches it on"
    assert models.test(SERVICE, row.version, ACTOR).test_passed
    models.activate(SERVICE, row.version, ACTOR)
    yield row.version
    models.retire(SERVICE, row.version, ACTOR)


def with_nodules(patient: PhantomPatient) -> list[Dataset]:
    """A series of the drawn chest; its nodules are those of `PLACES`."""
    series = write_series(chest(), "soft", patient)
    shown = volume(chest(), nodules(chest())).voxels
    for instance, plane in zip(series, shown, strict=True):
        stored = plane - np.int16(RESCALE_INTERCEPT)
        instance.PixelData = stored.astype("<u2").tobytes()
        instance.BodyPartExamined = "CHEST"
    return series


def parts_of(observation: Json) -> dict[str, float]:
    """Numbers of a detection by the code of their component."""
    return {
        part["code"]["coding"][0]["code"]: part["valueQuantity"]["value"]
        for part in observation["component"]
        if "valueQuantity" in part
    }


def test_drawn_nodules_are_in_the_record_and_the_sr(installation: Any, switched_on: str) -> None:
    uid = installation.store(with_nodules(installation.patient()))
    installation.wait_done(uid, timeout=240)
    found = installation.results(uid)["Observation"]
    codes_of = {o["id"]: o["code"]["coding"][0]["code"] for o in found}
    places = [o for o in found if codes_of[o["id"]] == "lung-nodule"]
    (count,) = [o for o in found if codes_of[o["id"]] == "lung-nodule-count"]
    assert count["valueQuantity"]["value"] == len(places) == len(PLACES)
    assert {o["status"] for o in places} == {"preliminary"}
    for place, diameter in PLACES:
        near = [
            parts_of(o)
            for o in places
            if np.linalg.norm(np.subtract([parts_of(o)[f"centre-{axis}"] for axis in "xyz"], place))
            <= 5
        ]
        (one,) = near
        width = np.mean([one[f"size-{axis}"] for axis in "xyz"])
        assert width == pytest.approx(diameter, rel=0.4)
        assert 0.5 <= one["score"] <= 1
    device = installation.fhir.read(*places[0]["device"]["reference"].split("/"))
    assert "not for diagnosis" in device["deviceName"][0]["name"]

    def marks() -> set[str]:
        """Graphic types of coordinates in the SRs of the study."""
        seen: set[str] = set()
        for series in installation.archive.list_series(uid):
            if series.modality == "SR":
                for item in installation.archive.list_instances(uid, series.series_instance_uid):
                    header = installation.archive.instance_metadata(
                        uid, series.series_instance_uid, item.sop_instance_uid
                    )
                    seen |= {e.value for e in header.iterall() if e.keyword == "GraphicType"}
        return seen

    assert installation.wait_for(marks, "coordinates in an SR") == {"ELLIPSOID"}
