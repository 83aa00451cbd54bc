"""Radiographs of a study: one job for all, with the SEG objects that refer to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from image_seg_samples import HEART, image_seg_dataset
from planning import plan_of
from pydicom import Dataset
from seg_samples import encoded
from synthetic_cr import radiograph
from synthetic_mg import mammogram
from synthetic_projection import parts

from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings
from models.lifecycle import Assignment
from models.manifest.inputs import Inputs
from operations.analyze.narrow import Narrower
from operations.analyze.plan import (
    NO_SEGMENTATION,
    Plan,
    SeriesJob,
    SeriesRef,
    VersionRef,
)
from operations.analyze.rules import Rules
from operations.analyze.single_images import of_images, reader_of

LIMITS = LimitSettings()
RULES = Rules.model_validate(
    {
        "services": [
            {"service": "films", "modality": ["CR", "DX"]},
            {"service": "ratio", "modality": ["CR", "DX"]},
        ]
    }
)
IMAGES = {"films": "radiographs", "ratio": "segmented-radiographs"}
BOTH = {"films": Assignment("1.0.0"), "ratio": Assignment("1.0.0")}


def planned(*series: tuple[str, str, int]) -> Plan:
    return plan_of(RULES, IMAGES, BOTH, *series)


def test_all_radiographs_are_one_job_and_segments_are_beside_them() -> None:
    plan = planned(("1.2", "DX", 1), ("1.1", "CR", 2), ("1.9", "SEG", 1))
    films, ratio = plan.jobs
    assert films == SeriesJob(
        "1.1", 2, (VersionRef("films", "1.0.0"),), (SeriesRef("1.2", 1),), "radiographs"
    )
    assert ratio.kind == "segmented-radiographs"
    assert ratio.further == (SeriesRef("1.2", 1), SeriesRef("1.9", 1))


def test_without_a_segmentation_only_the_others_look() -> None:
    plan = planned(("1.1", "DX", 1))
    assert [job.kind for job in plan.jobs] == ["radiographs"]
    reasons = {(item.service, item.reason) for item in plan.not_applied}
    assert ("ratio", NO_SEGMENTATION) in reasons


class _Archive:
    """Headers of series by UID."""

    def __init__(self, headers: dict[str, Dataset]) -> None:
        self._headers = headers

    def list_instances(self, _study: str, series: str) -> tuple[Any, ...]:
        return (type("Info", (), {"sop_instance_uid": f"{series}.1"})(),)

    def instance_metadata(self, _study: str, series: str, _instance: str) -> Dataset:
        return self._headers[series]


class _Registry:
    def manifest(self, service: str, _version: str) -> Any:
        inputs = Inputs.model_validate({"images": IMAGES[service], "modality": ["DX"]})
        return type("Manifest", (), {"inputs": inputs})


def header(modality: str, refers_to: str = "") -> Dataset:
    made = Dataset()
    made.Modality = modality
    if refers_to:
        series = Dataset()
        series.SeriesInstanceUID = refers_to
        made.ReferencedSeriesSequence = [series]
    return made


def narrowed(**segments: str) -> Plan:
    """Two films, and SEG series (name: what it refers to)."""
    headers = {"1.1": header("DX"), "1.2": header("CR")}
    headers |= {uid: header("SEG", refers_to) for uid, refers_to in segments.items()}
    plan = planned(("1.1", "DX", 1), ("1.2", "CR", 1), *((uid, "SEG", 1) for uid in segments))
    narrower = Narrower(_Archive(headers), _Registry(), "1", lambda _: None)  # type: ignore[arg-type]
    return narrower.narrow(plan, {"series": []})


def test_a_segmentation_of_other_images_is_not_read() -> None:
    plan = narrowed(ours="1.2", theirs="1.7")
    ratio = next(job for job in plan.jobs if job.kind == "segmented-radiographs")
    assert ratio.further == (SeriesRef("1.2", 1), SeriesRef("ours", 1))


def test_only_segmentations_of_other_images_leave_nothing_to_measure() -> None:
    plan = narrowed(theirs="1.7")
    assert [job.kind for job in plan.jobs] == ["radiographs"]
    assert any(
        (item.service, item.reason, item.seen) == ("ratio", NO_SEGMENTATION, "other images")
        for item in plan.not_applied
    )


def test_radiographs_and_their_segments_are_told_apart() -> None:
    image = radiograph("PA", np.zeros((40, 50), np.uint16))
    mask = np.zeros((40, 50), np.bool_)
    mask[3:9, 4:11] = True
    read = reader_of("segmented-radiographs")
    film, drawn = (
        read(memoryview(part), LIMITS)
        for part in (parts(image)[0], encoded(image_seg_dataset(image, {HEART: mask})))
    )
    given = of_images([drawn, film])
    assert [item.sop_instance_uid for item in given.radiographs] == [image.SOPInstanceUID]
    assert given.image_segmentations[0].images == (image.SOPInstanceUID,)
    assert given.mammograms == ()


@pytest.mark.parametrize(
    ("kind", "code"), [("radiographs", "modality"), ("segmented-radiographs", "not-a-segmentation")]
)
def test_what_is_neither_is_refused(kind: Any, code: str) -> None:
    (part,) = parts(mammogram("L-CC"))
    with pytest.raises(RefusedInput) as caught:
        reader_of(kind)(memoryview(part), LIMITS)
    assert caught.value.code == code
