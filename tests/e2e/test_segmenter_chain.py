"""A segmenter of the site feeds the measurements: its SEG comes back by the archive as input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from network_samples import manifest_of
from pydicom import Dataset

from fhir_ext.resources import codes
from fhir_ext.results import Region
from operations.model_registry.actor import Actor

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


def segmenter(folder: Path) -> Path:
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
    found = installation.results(uid).get("Observation", [])
    return {o["code"]["coding"][0]["code"]: o for o in found if "hasMember" in o}


@pytest.fixture
def models(installation: Any, tmp_path: Path) -> Any:
    service = installation.parts.models
    service.install(segmenter(tmp_path / "model"), ACTOR)
    assert service.test("site-segmenter", "1.0.0", ACTOR).test_passed
    service.activate("site-segmenter", "1.0.0", ACTOR)
    yield service
    service.retire("site-segmenter", "1.0.0", ACTOR)


def test_what_a_segmenter_draws_is_measured_once(
    installation: Any, models: Any, small_study: Callable[..., list[list[Dataset]]]
) -> None:
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    installation.wait_for(
        lambda: "segment-measurements-panel" in panels(installation, uid), "the measurements"
    )
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
    states = installation.wait_for(
        lambda: (
            [r for r in installation.runs(uid) if r.state in ("queued", "running")] == []
            and installation.runs(uid)
        ),
        "rest",
    )
    assert {run.state for run in states} <= {"done", "nothing-to-do"}
    again = panels(installation, uid)
    assert {name: p["id"] for name, p in again.items()} == {n: p["id"] for n, p in found.items()}
    assert panel["status"] == "preliminary"
