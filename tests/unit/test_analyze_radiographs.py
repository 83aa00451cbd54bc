"""A study of radiographs through fetch, gates, measurement and the bundle that is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from image_seg_samples import HEART, LUNG, image_seg_dataset
from pydicom import Dataset
from result_samples import context, panel_of, resources
from seg_samples import encoded
from synthetic_cr import STUDY, radiograph
from synthetic_projection import parts

from fhir_ext.clients.dicomweb import InstanceInfo
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.results import SeriesSource
from fhir_ext.settings import LimitSettings
from models.registry import Registry
from operations.analyze.infer import Analyzer, SeriesOutcome
from operations.analyze.plan import JobKind, SeriesJob, SeriesRef, VersionRef

SIZE = (120, 160)
REGISTRY = Registry()
RATIO = VersionRef("cardiothoracic-ratio", REGISTRY.manifest("cardiothoracic-ratio").version)
FINDINGS = VersionRef("chest-xray", REGISTRY.manifest("chest-xray").version)


def box(rows: slice, columns: slice) -> Any:
    found = np.zeros(SIZE, np.bool_)
    found[rows, columns] = True
    return found


MASKS = {
    HEART: box(slice(60, 100), slice(70, 120)),
    LUNG: box(slice(20, 100), slice(30, 60)) | box(slice(20, 100), slice(110, 130)),
}


class Archive:
    """Series of single instances, by the UID of the series."""

    def __init__(self, *files: bytes) -> None:
        self._files = {f"{STUDY}.{at}": data for at, data in enumerate(files, start=1)}

    def list_instances(self, _study: str, series: str) -> tuple[InstanceInfo, ...]:
        return (InstanceInfo(f"{series}.1", "", 1, None, None, None),)

    def stream_series(self, _study: str, series: str) -> Iterator[memoryview]:
        yield memoryview(self._files[series])


def film(view: str, number: int, **changes: Any) -> Dataset:
    return radiograph(view, np.arange(120 * 160, dtype=np.uint16).reshape(SIZE) % 4096,
                      number=number, **changes)  # fmt: skip


def analyzed(kind: JobKind, version: VersionRef, *files: bytes) -> SeriesOutcome:
    archive = Archive(*files)
    others = tuple(SeriesRef(f"{STUDY}.{at}", 1) for at in range(2, len(files) + 1))
    job = SeriesJob(f"{STUDY}.1", 1, (version,), others, kind)
    analyzer = Analyzer(archive, REGISTRY, LimitSettings())  # type: ignore[arg-type]
    return analyzer.analyze(STUDY, job)


def test_a_ratio_is_measured_on_the_pa_film_and_written() -> None:
    pa = film("PA", 2)
    drawn = image_seg_dataset(pa, MASKS)
    drawn.SeriesInstanceUID, drawn.SOPInstanceUID = f"{STUDY}.3", f"{STUDY}.3.1"
    outcome = analyzed(
        "segmented-radiographs", RATIO, parts(film("LL", 1))[0], parts(pa)[0], encoded(drawn)
    )
    (found,) = outcome.results
    assert (found.status, found.whole_study) == ("done", True)
    assert found.measurements[0].value == 0.5
    assert (found.series_instance_uid, found.sop_instance_uids) == (f"{STUDY}.2", (f"{STUDY}.2.1",))
    assert found.further == (SeriesSource(f"{STUDY}.3", (f"{STUDY}.3.1",)),)
    assert outcome.facts["age-band"] == "60-69"
    bundle = result_bundle(found, context(found))
    assert panel_of(bundle)["code"]["coding"][0]["code"] == "cardiothoracic-ratio-panel"


def test_a_film_that_is_not_pa_is_a_refused_result() -> None:
    ap = film("AP", 1)
    drawn = image_seg_dataset(ap, MASKS)
    outcome = analyzed("segmented-radiographs", RATIO, parts(ap)[0], encoded(drawn))
    (found,) = outcome.results
    assert found.status == "refused"
    assert [(item.rule, item.seen, item.needed) for item in found.refusals] == [
        ("view-position", "AP", "PA")
    ]


def test_only_what_is_no_radiograph_is_a_refused_result() -> None:
    drawn = image_seg_dataset(film("PA", 1), MASKS)
    outcome = analyzed("segmented-radiographs", RATIO, encoded(drawn), b"\0" * 200)
    (found,) = outcome.results
    assert found.refusals[0].needed == "readable CR or DX images"
    assert outcome.rejected == {"not-dicom": 1}


def test_findings_without_weights_fail_as_not_installed() -> None:
    tall = radiograph("PA", np.arange(256 * 240, dtype=np.uint16).reshape(256, 240) % 4096)
    outcome = analyzed("radiographs", FINDINGS, parts(tall)[0])
    (failure,) = outcome.failures
    assert (failure.service, failure.code) == ("chest-xray", "model-not-installed")
    assert outcome.results == ()


@pytest.mark.parametrize("view", ["LL", "RL"])
def test_withheld_findings_are_written_under_the_names_of_the_site(view: str) -> None:
    outcome = analyzed("radiographs", FINDINGS, parts(film(view, 1))[0])
    (found,) = outcome.results
    assert found.status == "refused"
    bundle = result_bundle(found, context(found))
    members = [item for item in resources(bundle, "Observation") if "hasMember" not in item]
    assert len(members) == 18
    for item in members:
        assert item["code"]["coding"][0]["system"].endswith("/site-classification")
        assert item["bodySite"]["coding"][0]["code"] == "816094009"
        assert item["dataAbsentReason"]["coding"][-1]["code"] == "view-position"
