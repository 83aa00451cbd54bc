"""The shipped nodule detector on chests of known truth, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodule_samples import PLACES, background, chest, nodules, volume

from fhir_ext.dicom.volume import CTVolume, GeometryIssue
from fhir_ext.results import Detection, Region
from fhir_ext.settings import LimitSettings
from models.manifest import Detections
from models.manifest.runtimes import TorchExportRuntime
from models.network.service import Network, create
from models.nodule_detection.train.scenes import training_batch
from models.registry import Registry
from models.runtime.agreement import check_engine
from models.runtime.base import ModelFailure
from models.runtime.host import Host
from models.runtime.options import Options
from models.service import ModelInput, ServiceOutput
from operations.model_registry.cases import run_cases

SERVICE = "nodule-detection"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    host = Host()
    yield Registry(host=host)
    host.close()


def run(registry: Registry, given: CTVolume) -> ServiceOutput:
    return registry.load(SERVICE).run(ModelInput(given))


def found_at(detections: tuple[Detection, ...], place: tuple[float, float, float]) -> Detection:
    """The one detection within 5 mm of a place (x, y, z) in mm."""
    near = [item for item in detections if np.linalg.norm(np.subtract(item.centre_mm, place)) <= 5]
    (one,) = near
    return one


def test_finds_what_was_inserted_where_it_was_inserted(registry: Registry) -> None:
    output = run(registry, volume(chest(), nodules(chest())))
    assert output.searched
    assert len(output.detections) == len(PLACES)
    scores = [item.score for item in output.detections]
    assert scores == sorted(scores, reverse=True)
    for place, diameter in PLACES:
        item = found_at(output.detections, place)
        assert (item.name, item.category, item.region) == ("lung-nodule", "nodule", Region.LUNGS)
        assert np.mean(item.size_mm) == pytest.approx(diameter, rel=0.4)


def test_finds_the_same_in_a_patient_who_lies_otherwise(registry: Registry) -> None:
    output = run(registry, volume(chest(), nodules(chest()), "FFP"))
    for place, _ in PLACES:
        found_at(output.detections, place)


def test_nothing_is_found_in_empty_lungs(registry: Registry) -> None:
    output = run(registry, volume(chest()))
    assert output.searched
    assert output.detections == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"slice_thickness_mm": 8.0}, "slice-thickness"),
        ({"slice_thickness_mm": None}, "slice-thickness"),
        ({"patient_age_years": 12.0}, "patient-age"),
        ({"patient_age_years": None}, "patient-age"),
        ({"modality": "MR"}, "modality"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "image-type"),
    ],
)
def test_refuses_what_it_was_not_made_for(
    registry: Registry, changes: dict[str, Any], rule: str
) -> None:
    output = run(registry, volume(chest(), **changes))
    ((name, refusal),) = output.withheld
    assert (name, refusal.rule) == ("lung-nodule", rule)
    assert not output.searched
    assert output.detections == ()


@pytest.mark.parametrize("issue", ["gap", "irregular-spacing", "duplicate-slices", "gantry-tilt"])
def test_refuses_broken_stacks(registry: Registry, issue: str) -> None:
    broken = replace(volume(chest()), issues=(GeometryIssue(issue, "at one place"),))
    ((_, refusal),) = run(registry, broken).withheld
    assert refusal.rule == issue


def test_is_shipped_switched_off_and_says_what_it_is(registry: Registry) -> None:
    manifest = registry.manifest(SERVICE)
    assert not manifest.switched_on
    assert manifest.review == "always"
    assert "reference, not for diagnosis" in manifest.title
    (output,) = manifest.outputs
    assert isinstance(output, Detections)
    sizes = sum((registry.find(SERVICE).folder / f.file).stat().st_size for f in files(registry))
    assert sizes < 10_000_000
    assert any("tumour" in text for text in manifest.card.limitations)


def files(registry: Registry) -> tuple[Any, ...]:
    runtime = registry.manifest(SERVICE).runtime
    assert isinstance(runtime, TorchExportRuntime)
    return runtime.files()


def test_openvino_agrees_with_torch(registry: Registry) -> None:

    found = registry.find(SERVICE)
    runtime = found.manifest.runtime
    assert isinstance(runtime, TorchExportRuntime)
    image = training_batch(background(chest()), (3, 1, 4)).image.numpy()[:6]
    together = check_engine(runtime, found.folder, Options(), [{"image": image}])
    assert together is not None
    together.require()
    host = Host()
    try:
        scores = host.run(found.manifest, found.folder, {"image": image})["scores"]
    finally:
        host.close()
    assert (scores.max(1) > 0.3).sum() >= 3


def test_without_weights_it_is_not_installed(registry: Registry, tmp_path: Path) -> None:
    found = registry.find(SERVICE)
    shutil.copy(found.folder / "manifest.yaml", tmp_path)
    host = Host()
    try:
        service: Network = create(found.manifest, tmp_path, host)
        with pytest.raises(ModelFailure) as caught:
            service.run(ModelInput(volume(chest())))
    finally:
        host.close()
    assert caught.value.code == "model-not-installed"


def test_the_manifest_tells_what_the_training_wrote(registry: Registry) -> None:
    """Figures and hashes of the card are those of the run that made the weights."""
    found = registry.find(SERVICE)
    told = json.loads((found.folder / "training.json").read_text("utf-8"))
    (weights,) = files(registry)
    assert weights.sha256 == told["files"]["network.pt2"]["sha256"]
    evaluation, beyond = found.manifest.evaluation
    assert beyond.count == told["thicker_slices"]["nodules"]
    assert evaluation.count == told["together"]["nodules"]
    assert {item.name: item.value for item in evaluation.metrics} == {
        f"sensitivity-at-{item['false_marks_per_scan']:g}": item["sensitivity"]
        for item in told["together"]["froc"]
    }
    (output,) = found.manifest.outputs
    assert isinstance(output, Detections)
    assert output.score == told["together"]["at_the_manifests_score"]["score"]
    sizes = [item for item in evaluation.subgroups if item.by == "diameter"]
    assert [item.count for item in sizes] == [i["nodules"] for i in told["together"]["sizes"]]
    for item, stated in zip(sizes, told["together"]["sizes"], strict=True):
        assert [metric.value for metric in item.metrics] == list(stated["sensitivity"].values())


def test_its_own_cases_hold(registry: Registry) -> None:
    host = Host()
    try:
        report = run_cases(registry.find(SERVICE), registry, host, LimitSettings(), Options())
    finally:
        host.close()
    assert report.passed
