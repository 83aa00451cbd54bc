"""A segmenter of the site feeds the measurements: its SEG comes back by the archive as input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from network_samples import manifest_of
from pydicom import Dataset

from fhir_ext.resources import codes
from fhir_ext.resources.ids import device_id, imaging_study_id, recall_review_id, recall_task_id
from fhir_ext.results import Region
from models.lifecycle import State
from operations.model_registry.actor import Actor
from operations.model_registry.recall_report import recall_report

Json = dict[str, Any]

ACTOR = Actor("test", "cli")
SCT = "http://snomed.info/sct"


class Middle(torch.nn.Module):
    """Label 1 where the middle of the volume is tissue: (n, 1, z, y, x) HU to (n, z, y, x)."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        tissue = volume[:, 0] > -200
        d, h, w = tissue.shape[1], tissue.shape[2], tissue.shape[3]
        found = torch.zeros_like(tissue)
        found[:, d // 4 : d // 2, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = tissue[
            :, d // 4 : d // 2, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3
        ]
        return found.to(torch.int64)


def segmenter(folder: Path, version: str) -> Path:
    """The folder of a segmenter, whose case says what its file gives of the phantom."""
    folder.mkdir()
    manifest = manifest_of(
        folder,
        Middle(),
        [
            {
                "kind": "segmentation",
                "name": "middle",
                "region": "liver",
                "tensor": "labels",
                "labels": [
                    {
                        "value": 1,
                        "name": "liver",
                        "code": {"system": SCT, "code": "10200004", "display": "Liver"},
                    }
                ],
            }
        ],
        id="site-segmenter",
        version=version,
        tensors=[{"name": "labels", "shape": ["n", "z", "y", "x"], "dtype": "int64"}],
        batching={"max_size": 1},
        cases=[
            {
                "name": "phantom",
                "input": {"kind": "phantom"},
                "expect": [{"output": "middle", "value": 2000, "tolerance": 1900}],
            }
        ],
    )
    text = yaml.safe_dump(manifest.model_dump(mode="json", exclude_defaults=True))
    (folder / "manifest.yaml").write_text(text, "utf-8")
    return folder


def expected_ml(series: list[Dataset]) -> float:
    """What the network marks in these images, counted without it."""
    hu = np.stack([item.pixel_array * 1.0 + float(item.RescaleIntercept) for item in series])
    d, h, w = hu.shape
    part = hu[d // 4 : d // 2, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3]
    rows, columns = (float(value) for value in series[0].PixelSpacing)
    voxel = rows * columns * float(series[0].SpacingBetweenSlices) / 1000
    return float((part > -200).sum()) * voxel


def panels(installation: Any, uid: str) -> dict[str, Json]:
    """Those that are not cancelled, by code."""
    found = installation.results(uid).get("Observation", [])
    standing = (o for o in found if "hasMember" in o and o["status"] != "cancelled")
    return {o["code"]["coding"][0]["code"]: o for o in standing}


@pytest.fixture
def use(installation: Any, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Makes a version of the segmenter the active one."""
    service = installation.parts.models

    def activate(version: str) -> None:
        service.install(segmenter(tmp_path / version, version), ACTOR)
        assert service.test("site-segmenter", version, ACTOR).test_passed
        service.activate("site-segmenter", version, ACTOR)

    yield activate
    for row in service.versions("site-segmenter"):
        if row.state is State.ACTIVE:
            service.retire("site-segmenter", row.version, ACTOR)


def at_rest(installation: Any, uid: str) -> Any:
    """The runs of a study, once none waits or works."""
    return installation.wait_for(
        lambda: (
            [r for r in installation.runs(uid) if r.state in ("queued", "running")] == []
            and installation.runs(uid)
        ),
        "rest",
    )


def measured(installation: Any, uid: str, but: str = "") -> Json:
    """The panel of the measurements that stands, once it is another one than `but`."""

    def found() -> Json | None:
        panel = panels(installation, uid).get("segment-measurements-panel")
        return panel if panel and panel["id"] != but else None

    return installation.wait_for(found, "the measurements")


def drawn_and_measured(
    installation: Any, small_study: Callable[..., list[list[Dataset]]]
) -> tuple[str, Json, str]:
    """Study Instance UID, panel of the measurements, and series of the SEG, once all is at rest."""
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    panel = measured(installation, uid)
    at_rest(installation, uid)
    (drawn,) = segmentations(installation, uid)
    return uid, panel, drawn


def test_what_a_segmenter_draws_is_measured_once(
    installation: Any,
    use: Callable[[str], None],
    small_study: Callable[..., list[list[Dataset]]],
) -> None:
    use("1.0.0")
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    measured(installation, uid)
    found = panels(installation, uid)
    assert len(found) == 3
    panel = found["segment-measurements-panel"]
    (volume,) = [
        o
        for o in installation.results(uid)["Observation"]
        if o["code"]["coding"][0]["code"] == "organ-volume"
        and o["bodySite"]["coding"][0]["code"] == codes.REGION_SITE[Region.LIVER].code
    ]
    assert volume["valueQuantity"]["value"] == pytest.approx(expected_ml(series), abs=0.2)
    assert "Measured in a segment that a program drew." in [n["text"] for n in volume["note"]]
    seg = [s for s in installation.archive.list_series(uid) if s.modality == "SEG"]
    assert len(seg) == 1

    # It comes to rest: the SEG is no new input of the model that drew it.
    assert {run.state for run in at_rest(installation, uid)} <= {"done", "nothing-to-do"}
    again = panels(installation, uid)
    assert {name: p["id"] for name, p in again.items()} == {n: p["id"] for n, p in found.items()}
    assert panel["status"] == "preliminary"


def test_a_recall_of_a_segmenter_follows_into_what_was_measured_in_its_segments(
    installation: Any,
    use: Callable[[str], None],
    small_study: Callable[..., list[list[Dataset]]],
) -> None:
    fhir, service = installation.fhir, installation.parts.models
    use("2.0.0")
    uid, first, drawn = drawn_and_measured(installation, small_study)
    row = service.recall("site-segmenter", "2.0.0", "It draws too much.", ACTOR)
    device = device_id(row.identity)
    summary = installation.wait_for(
        lambda: (t := fhir.find("Task", recall_task_id(device))) and t["status"] == "completed",
        "a completed recall",
    )
    assert summary

    # Its own results are withdrawn; the measurements are another version's, and stand.
    (own,) = fhir.search("Provenance", {"agent": f"Device/{device}"})
    asked = fhir.read("Task", recall_review_id(own["id"]))
    listed = {item["valueReference"]["reference"] for item in asked["input"]}
    members = {item["reference"] for item in first["hasMember"]}
    assert asked["status"] == "requested"
    assert {f"Observation/{first['id']}"} | members <= listed
    assert {fhir.read(*url.split("/"))["status"] for url in listed} == {"preliminary"}
    report = recall_report(fhir, "site-segmenter", "2.0.0")
    assert set(report.results[0].measured) == listed
    assert report.counts["measured in its segmentations"] == len(listed)

    # The archive still offers the SEG; a new pass does not measure in it.
    installation.wait_for(
        lambda: any(s.modality == "KO" for s in installation.archive.list_series(uid)),
        "the note beside the SEG",
    )
    assert segmentations(installation, uid) == [drawn]
    assert refusal_in_another_pass(installation, uid, drawn) == ["segmentation-recalled"]
    assert measured(installation, uid)["id"] == first["id"]

    # What the next version draws is measured alone, and takes the place of the first numbers.
    use("2.1.0")
    installation.enqueue_again(imaging_study_id(uid))
    second = measured(installation, uid, but=first["id"])
    named = named_series(installation, uid, second)
    assert drawn not in named
    assert named & set(segmentations(installation, uid))
    assert fhir.read("Observation", first["id"])["status"] == "cancelled"


def test_what_a_reviewer_rejected_is_not_measured_in_again(
    installation: Any,
    use: Callable[[str], None],
    small_study: Callable[..., list[list[Dataset]]],
) -> None:
    use("3.0.0")
    uid, first, drawn = drawn_and_measured(installation, small_study)
    row = installation.parts.models.version("site-segmenter", "3.0.0")
    author = {"reference": f"Device/{device_id(row.identity)}"}
    (own,) = [panel for panel in panels(installation, uid).values() if panel["device"] == author]

    # What `$review` leaves behind.
    installation.fhir.put({**own, "status": "entered-in-error"})

    assert refusal_in_another_pass(installation, uid, drawn) == ["segmentation-rejected"]
    assert measured(installation, uid)["id"] == first["id"]


def refusal_in_another_pass(installation: Any, uid: str, drawn: str) -> list[str]:
    """Why a SEG is not measured when the study is looked at once more."""
    again = installation.enqueue_again(imaging_study_id(uid))
    installation.wait_for(
        lambda: (r := installation.repository.run(again)) and r.state == "nothing-to-do",
        "another pass",
    )
    (refused,) = [
        row
        for row in installation.repository.outcomes(uid)
        if (row.service, row.series_instance_uid) == ("segment-measurements", drawn)
    ]
    return [reason["rule"] for reason in refused.reasons]


def segmentations(installation: Any, uid: str) -> list[str]:
    """Series Instance UIDs of the SEG objects of a study in the archive."""
    listed = installation.archive.list_series(uid)
    return [item.series_instance_uid for item in listed if item.modality == "SEG"]


def named_series(installation: Any, uid: str, panel: Json) -> set[str]:
    """Series Instance UIDs that the Provenance of a panel names."""
    (made,) = [
        item
        for item in installation.results(uid)["Provenance"]
        if {"reference": f"Observation/{panel['id']}"} in item["target"]
    ]
    named = (entity["what"].get("identifier", {}).get("value", "") for entity in made["entity"])
    return {value.removeprefix("urn:oid:") for value in named}
