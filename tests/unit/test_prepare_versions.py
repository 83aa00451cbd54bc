"""Preparation: which SEG belongs to which stack, urgency, versions that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from registry_samples import shipped_states

from fhir_ext.clients.dicomweb import InstanceInfo, SeriesInfo
from fhir_ext.resources.ids import imaging_study_id
from models.lifecycle import State, VersionState
from models.registry import MANIFEST, Registry
from operations.analyze.prepare import Prepared, Preparer
from operations.analyze.rules import Rules

STUDY = "1.2.3"
ID = imaging_study_id(STUDY)
REGISTRY = Registry()
LUNGS = REGISTRY.manifest("lung-density").version


@dataclass
class Fhir:
    """A FHIR server that holds one study of one patient and nothing earlier."""

    resources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def find(self, kind: str, resource_id: str) -> dict[str, Any] | None:
        return self.resources.get(f"{kind}/{resource_id}")

    def search(self, *_args: object, **_more: object) -> list[dict[str, Any]]:
        return []


@dataclass
class Archive:
    """An archive of series with one instance each; `frames` are their frames of reference.

    The series are as thick (mm) as the last number of their UIDs.
    """

    frames: dict[str, str]

    def list_series(self, _study: str) -> tuple[SeriesInfo, ...]:
        return tuple(SeriesInfo(uid, "CT", 50, None, None, None) for uid in self.frames)

    def list_instances(self, _study: str, series: str) -> tuple[InstanceInfo, ...]:
        return (InstanceInfo(f"{series}.1", "", 1, None, None, None),)

    def instance_metadata(self, _study: str, series: str, _instance: str) -> Dataset:
        header = Dataset()
        header.FrameOfReferenceUID = self.frames[series]
        header.SliceThickness = series.rpartition(".")[2]
        return header


def prepared(
    *series: tuple[str, str, str],
    states: tuple[VersionState, ...] = (),
    registry: Registry = REGISTRY,
    **study: Any,
) -> Prepared:
    """Prepare a study of (series, modality, frame of reference)."""
    resource = {
        "resourceType": "ImagingStudy",
        "id": ID,
        "meta": {"versionId": "1"},
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}],
        "subject": {"reference": "Patient/p"},
        "started": "2026-05-04",
        "series": [
            {"uid": uid, "modality": {"code": modality}, "numberOfInstances": 50}
            for uid, modality, _ in series
        ],
        **study,
    }
    fhir = Fhir({f"ImagingStudy/{ID}": resource, "Patient/p": {"birthDate": "1960-01-01"}})
    fhir.resources["ServiceRequest/now"] = {"priority": "stat"}
    fhir.resources["ServiceRequest/later"] = {"priority": "routine"}
    preparer = Preparer(
        fhir,  # type: ignore[arg-type]
        Archive({uid: frame for uid, _, frame in series}),  # type: ignore[arg-type]
        registry,
        Rules(services=()),
        lambda: states or shipped_states(registry),
    )
    return preparer.prepare(ID)


SEGMENTS = (VersionState("segment-measurements", "1.0.0", State.ACTIVE),)


def test_each_stack_gets_the_segmentations_of_its_own_frame_of_reference() -> None:
    found = prepared(
        ("1.1", "CT", "9.1"),
        ("1.2", "CT", "9.2"),
        ("1.3", "SEG", "9.1"),
        ("1.4", "SEG", "9.2"),
        states=SEGMENTS,
    )
    assert {
        job.series_instance_uid: [item.series_instance_uid for item in job.further]
        for job in found.jobs
    } == {"1.1": ["1.3"], "1.2": ["1.4"]}


def test_a_stack_whose_segmentation_is_elsewhere_is_not_measured() -> None:
    found = prepared(
        ("1.1", "CT", "9.1"), ("1.2", "CT", "9.2"), ("1.3", "SEG", "9.1"), states=SEGMENTS
    )
    assert [job.series_instance_uid for job in found.jobs] == ["1.1"]
    reasons = {(i.series_instance_uid, i.reason, i.seen) for i in found.not_applied}
    assert ("1.2", "no-segmentation", "other images") in reasons


def test_a_segmentation_without_a_frame_of_reference_belongs_to_nothing() -> None:
    found = prepared(("1.1", "CT", ""), ("1.3", "SEG", ""), states=SEGMENTS)
    assert found.kind == "nothing"


def test_of_several_series_a_model_sees_those_that_its_manifest_prefers(tmp_path: Path) -> None:
    source = REGISTRY.find("lung-density").folder / MANIFEST
    path = tmp_path / "lung-density" / "3.0.0" / MANIFEST
    path.parent.mkdir(parents=True)
    text = source.read_text("utf-8").replace(f"version: {LUNGS}", "version: 3.0.0", 1)
    chosen = "inputs:\n  series: {prefer: [thinnest], at_most: 1}\n"
    path.write_text(text.replace("inputs:\n", chosen, 1), "utf-8")
    registry = Registry(site=tmp_path)
    states = (
        VersionState("lung-density", LUNGS, State.ACTIVE),
        VersionState("lung-density", "3.0.0", State.SHADOW),
    )
    series = (("1.3", "CT", "9"), ("1.1", "CT", "9"), ("1.2", "CT", "9"))
    found = prepared(*series, registry=registry, states=states)
    shown = {job.series_instance_uid: [v.version for v in job.versions] for job in found.jobs}
    assert shown == {"1.3": [LUNGS], "1.1": [LUNGS, "3.0.0"], "1.2": [LUNGS]}
    reasons = {(item.series_instance_uid, item.reason) for item in found.not_applied}
    assert reasons == {("1.2", "not-preferred"), ("1.3", "not-preferred")}


@pytest.mark.parametrize(
    ("based_on", "urgent"), [("now", True), ("later", False), ("gone", False), (None, False)]
)
def test_a_study_is_as_urgent_as_its_request(based_on: str | None, urgent: bool) -> None:
    more = {"basedOn": [{"reference": f"ServiceRequest/{based_on}"}]} if based_on else {}
    assert prepared(("1.1", "CT", "9.1"), **more).urgent is urgent


def test_a_version_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lung-density" / "3.0.0" / MANIFEST
    path.parent.mkdir(parents=True)
    path.write_text("id: [", "utf-8")
    registry = Registry(site=tmp_path)
    active = VersionState("lung-density", LUNGS, State.ACTIVE)
    shadow = VersionState("lung-density", "3.0.0", State.SHADOW)
    (job,) = prepared(("1.1", "CT", "9"), registry=registry, states=(active, shadow)).jobs
    assert [version.version for version in job.versions] == [LUNGS]
    broken = VersionState("lung-density", "3.0.0", State.ACTIVE)
    found = prepared(("1.1", "CT", "9"), registry=registry, states=(broken,))
    assert found.kind == "nothing"
