"""Everything that a trained network points at, by the service that will run it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from models.manifest import Detections, Manifest, read_manifest
from models.manifest.runtimes import TorchExportRuntime
from models.network.service import Network, create
from models.nodule_detection.network import FLOOR
from models.runtime.host import Host
from models.service import ModelInput

#: Marks of one series that are looked at.
AT_MOST = 300
_MANIFEST = Path(__file__).parents[1] / "manifest.yaml"

#: Score, centre (z, y, x) and mean diameter in mm.
Marks = npt.NDArray[np.float64]
#: Patches (n, 1, z, y, x) to `boxes`, `scores` and `labels`.
Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Searcher:
    """A network as a worker with a CPU runs it, without gates and with the lowest scores.

    Attributes:
        network: the service.
        run: the network alone.
    """

    network: Network
    run: Run

    def marks(self, hu: npt.NDArray[np.int16], spacing_mm: tuple[float, float, float]) -> Marks:
        """Rows of marks, highest score first.

        Args:
            hu: (feet to head, front to back, right to left).
            spacing_mm: voxel size along these axes; the first voxel is at 0.
        """
        z, y, x = spacing_mm
        geometry = Geometry((0, 0, 0), (x, 0, 0), (0, y, 0), (0, 0, z), "")
        volume = CTVolume(
            np.ascontiguousarray(hu), geometry, Acquisition("CT"), "", "", ("",) * len(hu)
        )
        found = self.network.run(ModelInput(volume)).detections
        rows = [(item.score, *item.centre_mm[::-1], np.mean(item.size_mm)) for item in found]
        return np.array(rows, dtype=np.float64).reshape(-1, 5)


@contextmanager
def shipped(folder: Path) -> Iterator[Searcher]:
    """`network.pt2` of a folder under the manifest of this service."""
    manifest = _without_limits(read_manifest(_MANIFEST), folder / "network.pt2")
    host = Host()
    try:
        network = create(manifest, folder, host)
        yield Searcher(network, lambda image: host.run(manifest, folder, {"image": image}))
    finally:
        host.close()


def shipped_score() -> float:
    """Smallest score that the manifest keeps."""
    (output,) = read_manifest(_MANIFEST).outputs
    assert isinstance(output, Detections)
    return output.score


def _without_limits(manifest: Manifest, file: Path) -> Manifest:
    (output,), runtime = manifest.outputs, manifest.runtime
    assert isinstance(output, Detections)
    assert isinstance(runtime, TorchExportRuntime)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    weights = runtime.weights.model_copy(update={"file": file.name, "sha256": digest})
    return manifest.model_copy(
        update={
            "runtime": runtime.model_copy(update={"weights": weights}),
            "outputs": (output.model_copy(update={"score": FLOOR, "at_most": AT_MOST}),),
            "inputs": manifest.inputs.model_copy(update={"min_slices": 1}),
            "gates": (),
        }
    )
