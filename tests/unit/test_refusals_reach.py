"""A refusal of an acquisition reaches FHIR, the SR, the metrics and the status page.

Each time the rule, what was seen and what is needed; metrics have the rule only.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from analytic import geometry_of, structure, volume_of
from classification_samples import evidence
from fastapi.testclient import TestClient
from result_samples import ISSUED, context, resources, result
from seg_samples import ct_header
from status_fixture import Example, FhirInMemory
from synthetic_mg import STUDY, mammogram, read, study

from fhir_ext.dicom.sr import build_sr
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.results import Refusal, ServiceResult
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from models.segment_measurements.service import SegmentMeasurements
from models.segmentation.structures import Structures
from models.service import ModelInput

REGISTRY = Registry()
SHAPE = (20, 60, 60)
GRID = geometry_of(SHAPE, (3.0, 1.0, 1.0))


def mammography() -> tuple[ServiceResult, list[pydicom.Dataset]]:
    """Four views, of which one is magnified."""
    images = study()
    images["R-CC"] = mammogram("R-CC", EstimatedRadiographicMagnificationFactor="1.8")
    given = ModelInput(mammograms=tuple(read(*images.values())))
    output = REGISTRY.load("breast-density").run(given)
    return (
        result(
            service="breast-density",
            model=REGISTRY.manifest("breast-density").identity(),
            study=STUDY,
            series=f"{STUDY}.1",
            instances=tuple(image.SOPInstanceUID for image in evidence()),
            measurements=(),
            classifications=output.classifications,
            status="refused",
            risks=(),
            issues=(),
        ),
        evidence(),
    )


def segments() -> tuple[ServiceResult, list[pydicom.Dataset]]:
    """A liver beside bright blood, which the header says nothing of."""
    hu = np.full(SHAPE, 60, dtype=np.int16)
    masks = {name: np.zeros(SHAPE, dtype=np.bool_) for name in ("aorta", "liver")}
    masks["aorta"][2:18, 34:54, 4:24] = True
    masks["liver"][2:18, 4:34, 28:56] = True
    hu[masks["aorta"]] = 240
    service = SegmentMeasurements(REGISTRY.manifest("segment-measurements"))
    drawn = Structures({name: structure(name, mask) for name, mask in masks.items()})
    output = service.measure(volume_of(hu, GRID), drawn)
    return (
        result(
            service="segment-measurements",
            model=REGISTRY.manifest("segment-measurements").identity(),
            measurements=output.measurements,
            risks=(),
            issues=(),
        ),
        [ct_header(GRID, SHAPE, index) for index in range(2)],
    )


CASES = {
    "mammography": (
        mammography,
        Refusal(
            "special-view", "R-CC: magnified 1.8 times", "one each of L-CC, R-CC, L-MLO, R-MLO"
        ),
        "Special view",
    ),
    "segments": (
        segments,
        Refusal("blood-pool-enhanced", "240 HU", "at most 100 HU"),
        "Blood is enhanced",
    ),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Any:
    make, refusal, words = CASES[request.param]
    of, sources = make()
    assert refusal in of.refusals
    return of, sources, refusal, words


def test_in_the_observation(case: Any) -> None:
    of, _, refusal, words = case
    found = [
        item
        for item in resources(result_bundle(of, context(of)), "Observation")
        if refusal.rule in {c["code"] for c in item.get("dataAbsentReason", {}).get("coding", ())}
    ]
    assert found
    for item in found:
        assert not {"valueQuantity", "valueCodeableConcept"} & item.keys()
        displays = [c["display"] for c in item["dataAbsentReason"]["coding"]]
        assert words in displays
        assert item["note"][0]["text"] == (
            f"{refusal.rule}: found {refusal.seen}; needed {refusal.needed}"
        )


def test_in_the_sr(case: Any) -> None:
    of, sources, refusal, words = case
    output = BytesIO()
    pydicom.dcmwrite(output, build_sr(of, sources, ISSUED), enforce_file_format=True)
    written = pydicom.dcmread(BytesIO(output.getvalue()))
    found = {str(item.value) for item in written.iterall() if item.VR in ("LO", "UT")}
    assert words in found
    assert f"{refusal.rule}: found {refusal.seen}; needed {refusal.needed}" in found


def test_in_the_metrics(case: Any) -> None:
    of, _, refusal, _ = case
    metrics = Metrics()
    metrics.outcome(of.service, of.status, (item.rule for item in of.refusals))
    labels = {"service": of.service, "rule": refusal.rule}
    assert metrics.registry.get_sample_value("fhir_ext_refusals_total", labels) == 1


def test_on_the_status_page(case: Any, tmp_path: Path) -> None:
    of, _, refusal, words = case
    engine = create_store_engine(f"sqlite:///{tmp_path}/status.sqlite")
    migrate(engine)
    repository = Repository(engine)
    fhir = FhirInMemory()
    for item in resources(result_bundle(of, context(of)), "Observation"):
        fhir.observations[item["id"]] = item
    panel = next(item["id"] for item in fhir.observations.values() if "hasMember" in item)
    example = Example(repository, fhir)
    example.add_run("s", "done", study_instance_uid=of.study_instance_uid, took=1.0)
    repository.record_outcome(
        ServiceOutcome(
            imaging_study_id="s",
            series_instance_uid=of.series_instance_uid,
            service=of.service,
            study_instance_uid=of.study_instance_uid,
            workflow_id="ImagingStudy/s/1",
            status=of.status,
            reasons=[{"rule": r.rule, "seen": r.seen, "needed": r.needed} for r in of.refusals],
            panel_id=panel,
            updated_at=now(),
        )
    )
    page = TestClient(example.app()).get("/").text
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert f"{words}: found {refusal.seen}; needed {refusal.needed}" in text.replace(" :", ":")
