"""Networks whose answers are known, volumes drawn in the patient, and manifests for both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from manifest_samples import site_manifest
from tiny_networks import file_of
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from models.manifest import Manifest
from models.network.service import Network, create
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]
#: (x, y, z) in mm (LPS) to HU.
Draw = Callable[[Floats, Floats, Floats], Floats]

IMAGE = {"name": "image", "shape": ["n", 1, "d", "h", "w"]}
#: HU -1000 to 1000 become -1 to 1.
WINDOW = {"input": [-1000, 1000], "output": [-1, 1]}


class Mean(nn.Module):
    """(n, 1, d, h, w) to the mean and the standard deviation of each item: (n, 1) both."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = image.flatten(1)
        return flat.mean(1, keepdim=True), flat.std(1, keepdim=True)


class Above(nn.Module):
    """Probability of background and of one label, which passes 0.5 where the image passes 0."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inside = (image + 1) / 2
        return torch.cat([1 - inside, inside], 1)


class Label(nn.Module):
    """Label 3 where the image is above 0, as int64 and without a channel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, 0] > 0).to(torch.int64) * 3


class Softmax(nn.Module):
    """Three probabilities of the mean, maximum and minimum of an image: (n, 3)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        found = torch.stack([flat.mean(1), flat.amax(1), flat.amin(1)], 1)
        return torch.softmax(found, 1)


class Answer(nn.Module):
    """The same answer for every item, whatever the image: (n, *answer)."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = nn.Buffer(answer)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shape = [image.shape[0]] + [1] * self.answer.dim()
        return self.answer.unsqueeze(0).repeat(shape)


class Peaks(nn.Module):
    """Places that are brighter than all within 3 voxels: `at_most` boxes of `size` voxels.

    Boxes are (n, k, 6), centre z, y, x and size; scores (n, k) are the brightness; labels
    (n, k) are 1, or 2 above a brightness of 0.6; count (n,) is how many are above 0.
    """

    def __init__(self, size: float = 6.0, at_most: int = 5) -> None:
        super().__init__()
        self.size, self.at_most = size, at_most

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        smooth = F.avg_pool3d(image, 3, 1, 1, False, False)
        peak = (smooth == F.max_pool3d(smooth, 7, 1, 3)) & (smooth > 0)
        flat = torch.where(peak, smooth, torch.zeros_like(smooth)).flatten(1)
        best = torch.topk(flat, self.at_most, 1)
        h, w = image.shape[3], image.shape[4]
        z = torch.div(best.indices, h * w, rounding_mode="floor")
        y = torch.div(best.indices, w, rounding_mode="floor") % h
        x = best.indices % w
        size = torch.full_like(best.values, self.size)
        boxes = torch.stack([z.float(), y.float(), x.float(), size, size, size], 2)
        count = (best.values > 0).sum(1)
        labels = 1 + (best.values > 0.6).to(torch.int64)
        return boxes, best.values.clamp(0, 1), labels, count


#: `runtime.outputs` of the networks above.
TENSORS: dict[type[nn.Module], list[Json]] = {
    Mean: [{"name": "mean", "shape": ["n", 1]}, {"name": "sd", "shape": ["n", 1]}],
    Above: [{"name": "mask", "shape": ["n", 2, "d", "h", "w"]}],
    Label: [{"name": "mask", "shape": ["n", "d", "h", "w"], "dtype": "int64"}],
    Softmax: [{"name": "classes", "shape": ["n", 3]}],
    Peaks: [
        {"name": "boxes", "shape": ["n", "k", 6]},
        {"name": "scores", "shape": ["n", "k"]},
        {"name": "labels", "shape": ["n", "k"], "dtype": "int64"},
        {"name": "count", "shape": ["n"], "dtype": "int64"},
    ],
}

MEASURED: Json = {
    "name": "mean-density",
    "region": "lungs",
    "unit": "[hnsf'U]",
    "valid": [-1024, 3071],
    "tensor": "mean",
}
SEGMENTED: Json = {
    "name": "ball",
    "kind": "segmentation",
    "region": "lungs",
    "tensor": "mask",
    "encoding": "probabilities",
    "labels": [{"value": 1, "name": "ball"}],
}
DETECTED: Json = {
    "name": "ball",
    "kind": "detections",
    "region": "lungs",
    "tensor": "boxes",
    "scores": "scores",
    "count": "count",
    "box": "ccc-sizes",
    "score": 0.3,
    "classes": [{"name": "ball"}],
}


def manifest_of(folder: Path, network: nn.Module, outputs: list[Json], **changes: Any) -> Manifest:
    """A manifest whose TorchScript file is written to the folder."""
    path = folder / "net.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network.eval()).save(str(path))
    runtime = {
        "kind": "torchscript",
        "weights": file_of(path, folder),
        "inputs": changes.pop("inputs_of_network", [IMAGE]),
        "outputs": changes.pop("tensors", None) or TENSORS[type(network)],
    }
    batching = changes.pop("batching", {"max_size": 4, "max_wait_ms": 0})
    return site_manifest(runtime=runtime, outputs=outputs, batching=batching, **changes)


def service_of(
    folder: Path, network: nn.Module, outputs: list[Json], host: Host, **changes: Any
) -> Network:
    """The network service of `manifest_of`."""
    return create(manifest_of(folder, network, outputs, **changes), folder, host)


def run(service: Network, volume: CTVolume) -> ServiceOutput:
    return service.run(ModelInput(volume, study="1.2"))


def rotation(degrees: tuple[float, float, float]) -> Floats:
    """Rotation about x, then y, then z."""
    found = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        found = turn @ found
    return found


def geometry_of(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    axes: str = "SPL",
    degrees: tuple[float, float, float] = (0, 0, 0),
    middle: tuple[float, float, float] = (0, 0, 0),
) -> Geometry:
    """A grid around `middle` whose slices, rows and columns run towards the sides `axes`."""
    sides = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0)}
    sides |= {"S": (0, 0, 1), "I": (0, 0, -1)}
    turn = rotation(degrees)
    steps = [
        turn @ (np.array(sides[letter]) * size) for letter, size in zip(axes, spacing, strict=True)
    ]
    corner = np.array(middle) - sum(
        step * (n - 1) / 2 for step, n in zip(steps, shape, strict=True)
    )
    slices, rows, columns, origin = ((float(x), float(y), float(z)) for x, y, z in [*steps, corner])
    return Geometry(origin, columns, rows, slices, "1.2.3")


def places_of(geometry: Geometry, shape: tuple[int, int, int]) -> Floats:
    """(x, y, z) of every voxel: (slices, rows, columns, 3)."""
    index = np.stack(np.indices(shape), -1).astype(np.float64)
    steps = np.array([geometry.slice_step, geometry.row_step, geometry.column_step])
    found: Floats = index @ steps + np.array(geometry.origin)
    return found


def volume_of(voxels: npt.NDArray[Any], geometry: Geometry, modality: str = "CT") -> CTVolume:
    whole = np.ascontiguousarray(np.rint(np.clip(voxels, -1024, 3071)), np.int16)
    return CTVolume(whole, geometry, Acquisition(modality), "1.2", "1.3", ("1.4",) * len(whole))


def drawn(draw: Draw, geometry: Geometry, shape: tuple[int, int, int]) -> CTVolume:
    """A volume of what is drawn in the patient."""
    return volume_of(draw(*np.moveaxis(places_of(geometry, shape), -1, 0)), geometry)


def ball(centre: tuple[float, float, float], radius: float, per_mm: float = 150.0) -> Draw:
    """0 HU at the surface, `per_mm` more for each mm inwards, less outwards, -1000 to 1000."""

    def draw(x: Floats, y: Floats, z: Floats) -> Floats:
        apart = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
        found: Floats = np.clip((radius - apart) * per_mm, -1000, 1000)
        return found

    return draw
