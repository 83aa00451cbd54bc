"""Masks of a version that writes become a SEG; those of a shadow stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analytic import geometry_of, volume_of
from pydicom import Dataset
from result_samples import context, panel_of
from seg_samples import ct_header

from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import UpstreamError
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import Detection, Region
from fhir_ext.settings import LimitSettings
from models.registry import Registry
from models.service import MaskOutput, ModelInput, Service, ServiceOutput
from operations.analyze import infer
from operations.analyze.fetch import FetchedSeries
from operations.analyze.infer import Analyzer
from operations.analyze.plan import SeriesJob, VersionRef

SHAPE = (4, 8, 8)
GRID = geometry_of(SHAPE, (3.0, 1.0, 1.0))
HEADERS = tuple(ct_header(GRID, SHAPE, index) for index in range(SHAPE[0]))
UIDS = tuple(str(header.SOPInstanceUID) for header in HEADERS)
VOLUME = replace(
    volume_of(np.zeros(SHAPE, np.int16), GRID), evidence=HEADERS, sop_instance_uids=UIDS
)
JOB = SeriesJob("1.2.826.3.2", SHAPE[0], ())
SEGMENTER = """
id: acme-lungs
version: 1.0.0
title: Acme lungs
licence: MIT
intended_use: Tests.
not_for: Patients.
inputs: {modality: [CT]}
runtime: {kind: operators}
outputs:
  - {kind: segmentation, name: lobes, region: lungs, labels: [{value: 1, name: upper}]}
  - {kind: detections, name: spot, region: lungs, score: 0.5, classes: [{name: bright}]}
"""


class Segmenter:
    """Always draws the same."""

    def run(self, _given: ModelInput) -> ServiceOutput:
        labels = np.zeros(SHAPE, np.uint8)
        labels[1:3, 2:4, 2:4] = 1
        spot = Detection("spot", Region.LUNGS, "bright", 0.75, (1, 2, 3), (4, 5, 6))
        return ServiceOutput(
            masks=(MaskOutput("lobes", labels),), detections=(spot,), searched=True
        )


class Versions(Registry):
    def load(self, service: str, version: str | None = None) -> Service:
        return Segmenter()


@dataclass
class Archive:
    """Takes what is stored, or is down."""

    down: bool = False
    stored: list[Dataset] = field(default_factory=list)

    def store(self, instances: list[Dataset]) -> StoreReport:
        if self.down:
            raise UpstreamError("the archive is down")
        self.stored += instances
        return StoreReport(frozenset({str(instances[0].SOPInstanceUID)}), {})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    folder = tmp_path / "acme-lungs" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(SEGMENTER)
    return Versions(site=tmp_path)


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any) -> FetchedSeries:
        return FetchedSeries(VOLUME, 0, UIDS, {})

    monkeypatch.setattr(infer, "fetch_series", fetch)


def analyzed(archive: Archive, registry: Registry, role: Any) -> infer.SeriesOutcome:
    job = replace(JOB, versions=(VersionRef("acme-lungs", "1.0.0", role),))
    analyzer: Any = Analyzer
    outcome: infer.SeriesOutcome = analyzer(archive, registry, LimitSettings()).analyze(
        "1.2.826.3", job
    )
    return outcome


@pytest.mark.parametrize("role", ["active", "canary"])
def test_masks_of_a_version_that_writes_are_stored(registry: Registry, role: str) -> None:
    archive = Archive()
    outcome = analyzed(archive, registry, role)
    assert outcome.failures == ()
    (result,) = outcome.results
    (seg,) = archive.stored
    assert result.seg_instance_uid == seg.SOPInstanceUID == dicom_uid(result.inference_key, "seg")
    assert result.seg_series_instance_uid == seg.SeriesInstanceUID
    counts = {item.name: item.value for item in result.measurements}
    assert counts == {"lobes-count": 1.0, "spot-count": 1.0}
    assert result.frame_of_reference_uid == GRID.frame_of_reference_uid
    panel = panel_of(result_bundle(result, context(result, seg_instance_uid=None)))
    said = {part["code"]["coding"][0]["code"]: part["valueString"] for part in panel["component"]}
    assert said["121191"] == seg.SOPInstanceUID
    assert len(panel["hasMember"]) == 3
    again = analyzed(archive, registry, role)
    assert again.results == outcome.results
    assert archive.stored[0] == archive.stored[1]


def test_masks_of_a_shadow_are_not(registry: Registry) -> None:
    archive = Archive()
    (result,) = analyzed(archive, registry, "shadow").shadows
    assert archive.stored == []
    assert result.seg_instance_uid is None


def test_an_archive_that_is_down_is_tried_again(registry: Registry) -> None:
    with pytest.raises(UpstreamError):
        analyzed(Archive(down=True), registry, "active")
