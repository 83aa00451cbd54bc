"""A site's folder with a manifest and a network is a service; studies share it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import network_samples as samples
import numpy as np
import pytest
import torch
import yaml
from network_samples import MEASURED, SEGMENTED, WINDOW, Mean
from torch import nn

from models.manifest import ManifestError
from models.network.service import Network
from models.registry import Registry
from models.runtime.host import Host
from models.service import ModelInput

SHAPE, SPACING = (24, 40, 44), (1.5, 1.0, 1.0)
ASKED: dict[str, Any] = {
    "window": WINDOW,
    "orientation": "RAS",
    "spacing_mm": [1.2, 1.2, 1.2],
    "patches": {"size": [16, 16, 16], "overlap": 0.5},
}
#: Share of voxels that may change their label with the batch: those whose probability is the
#: threshold within the rounding of a convolution.
AT_THE_THRESHOLD = 1e-4


class Convolved(nn.Module):
    """Two convolutions of noise, as probabilities of three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.first = nn.Conv3d(1, 8, 3, padding=1)
        self.second = nn.Conv3d(8, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(6 * self.second(torch.relu(self.first(image))), 1)


LABELS = [{"value": 1, "name": "one"}, {"value": 2, "name": "two"}]
MASK = [{"name": "mask", "shape": ["n", 3, "d", "h", "w"]}]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.close()


def noise(seed: int) -> Any:
    drawn = np.random.default_rng(seed).integers(-1000, 1000, SHAPE)
    return samples.volume_of(drawn, samples.geometry_of(SHAPE, SPACING, "IPR"))


def convolved(folder: Path, host: Host, size: int) -> Network:
    return samples.service_of(
        folder,
        Convolved(),
        [{**SEGMENTED, "labels": LABELS}],
        host,
        tensors=MASK,
        preprocessing=ASKED,
        batching={"max_size": size, "max_wait_ms": 0},
    )


def test_a_convolution_gives_the_same_mask_in_batches_of_any_size(
    host: Host, tmp_path: Path
) -> None:
    masks = {
        size: samples.run(convolved(tmp_path, host, size), noise(1)).masks[0].labels
        for size in (1, 2, 5, 64)
    }
    assert set(np.unique(masks[1])) == {0, 1, 2}
    for mask in masks.values():
        assert np.mean(mask != masks[1]) <= AT_THE_THRESHOLD


def test_studies_at_the_same_time_do_not_mix(host: Host, tmp_path: Path) -> None:
    service = convolved(tmp_path, host, 8)
    alone = [samples.run(service, noise(seed)).masks[0].labels for seed in range(4)]
    assert not np.array_equal(alone[0], alone[1])

    def work(seed: int) -> Any:
        given = ModelInput(noise(seed % 4), study=f"1.{seed % 4}", urgent=seed % 2 == 0)
        return service.run(given).masks[0].labels

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for seed, mask in enumerate(found):
        assert np.mean(mask != alone[seed % 4]) <= AT_THE_THRESHOLD


def test_a_folder_of_the_site_needs_no_code(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "site-model" / "1.0.0"
    folder.mkdir(parents=True)
    manifest = samples.manifest_of(folder, Mean(), [MEASURED])
    text = yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True))
    (folder / "manifest.yaml").write_text(text, "utf-8")
    registry = Registry(root=tmp_path / "nothing", site=tmp_path, host=host)
    assert registry.services() == ("site-model",)
    service = registry.load("site-model")
    assert isinstance(service, Network)
    said = service.run(ModelInput(noise(1)))
    assert said.measurements[0].value == pytest.approx(noise(1).voxels.mean(), rel=1e-5)
    assert registry.load("site-model") is service


def test_what_the_network_service_cannot_do_is_said_when_it_is_loaded(
    host: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "site-model" / "1.0.0"
    folder.mkdir(parents=True)
    manifest = samples.manifest_of(folder, Mean(), [{**MEASURED, "tensor": None}])
    text = yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True))
    (folder / "manifest.yaml").write_text(text, "utf-8")
    registry = Registry(root=tmp_path / "nothing", site=tmp_path, host=host)
    with pytest.raises(ManifestError, match=r"of site-model: outputs\.0\.tensor: is needed"):
        registry.load("site-model")
