"""A model that is a manifest and a network: preprocessing, patches, network, results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal
from models.manifest import Detections, Manifest, MeasurementOutput, Segmentation
from models.manifest.demands import without_numbers
from models.manifest.outputs import Output
from models.manifest.runtimes import NetworkRuntime, OperatorsRuntime
from models.network.checks import check_outputs
from models.network.collector import Collector
from models.network.grid import Grid, grid_of, patch_of
from models.network.layout import Shape, layout_of
from models.network.numbers import Categories, Number
from models.network.patches import Tiling, tiling
from models.network.pixels import Pixels
from models.network.places import Places
from models.network.segments import Mask
from models.registry import NotInstalledError
from models.runtime.base import Array
from models.runtime.host import Host, Pending
from models.said import Said
from models.service import ModelInput, ServiceOutput

#: Batches of one study that are under way at once: one in the network, one behind it.
_AHEAD = 2

Chunk = tuple[list[Shape], Array]


class Network:
    """The service. Holds no state between volumes; `run` may be called from several threads.

    Beside the volume it needs memory for one layer of patches as the network sees it, two
    batches, one layer of answers, and the masks; without patches, for the whole array.

    Args:
        manifest: says everything.
        folder: where it and the weights are.
        host: runs the network.

    Raises:
        ManifestError: it says something that needs code of its own, or says too little.
    """

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        self._layout = layout_of(manifest)
        check_outputs(manifest, self._layout)
        without_numbers(manifest)
        self._manifest, self._folder, self._host = manifest, folder, host
        runtime = manifest.runtime
        assert isinstance(runtime, NetworkRuntime)
        self._batch = runtime.fixed_batch or manifest.batching.max_size

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the volume only."""
        assert given.volume is not None
        said = Said()
        self._answer(given.volume, given, said)
        return said.output()

    def _answer(self, volume: CTVolume, given: ModelInput, said: Said) -> None:
        outputs = self._manifest.outputs
        refused = self._manifest.refusals(volume)
        collectors: dict[int, Collector] = {}
        grid: Grid | Refusal | None = None
        if any(output.name not in refused for output in outputs):
            grid = grid_of(volume, self._manifest.preprocessing, self._layout)
        if isinstance(grid, Grid):
            tiles = self._tiling(grid)
            for index, output in enumerate(outputs):
                if output.name not in refused:
                    collectors[index] = self._collector(output, volume, grid, tiles)
            self._collect(volume, given, grid, tiles, list(collectors.values()))
        for index, output in enumerate(outputs):
            if index in collectors:
                collectors[index].finish(said)
                continue
            why = refused.get(output.name, grid)
            assert isinstance(why, Refusal)
            said.withhold(output, why)

    def _tiling(self, grid: Grid) -> Tiling:
        asked = self._manifest.preprocessing
        return tiling(grid.shape, patch_of(grid, asked, self._layout), asked.patches)

    def _collector(self, output: Output, volume: CTVolume, grid: Grid, tiles: Tiling) -> Collector:
        if isinstance(output, MeasurementOutput):
            return Number(output)
        if isinstance(output, Segmentation):
            slices, rows, columns = volume.voxels.shape
            shape = (slices, rows, columns)
            return Mask(output, grid, tiles, shape, planes=self._layout.planes)
        if isinstance(output, Detections):
            return Places(output, grid, planes=self._layout.planes)
        return Categories(output)

    def _collect(
        self,
        volume: CTVolume,
        given: ModelInput,
        grid: Grid,
        tiles: Tiling,
        collectors: Sequence[Collector],
    ) -> None:
        pixels = Pixels(volume, grid, self._manifest.preprocessing)
        waiting: deque[tuple[list[Shape], Pending]] = deque()
        for starts, batch in self._chunks(pixels, tiles):
            answer = self._host.submit(
                self._manifest,
                self._folder,
                {self._layout.name: batch},
                study=given.study,
                urgent=given.urgent,
            )
            waiting.append((starts, answer))
            if len(waiting) == _AHEAD:
                _hand_out(*waiting.popleft(), collectors)
        while waiting:
            _hand_out(*waiting.popleft(), collectors)

    def _chunks(self, pixels: Pixels, tiles: Tiling) -> Iterator[Chunk]:
        """Batches of patches, layer by layer, as large as the network takes them."""
        starts: list[Shape] = []
        items: list[Array] = []
        for start, patch in _patches(pixels, tiles):
            starts.append(start)
            items.append(self._layout.item(patch))
            if len(items) == self._batch:
                yield starts, np.stack(items)
                starts, items = [], []
        if items:
            yield starts, np.stack(items)


def create(manifest: Manifest, folder: Path, host: Host) -> Network:
    """What `models.registry` calls for a manifest without code of its own.

    Raises:
        NotInstalledError: its runtime is code, and there is none.
        ManifestError: see `Network`.
    """
    if isinstance(manifest.runtime, OperatorsRuntime):
        raise NotInstalledError(f"service {manifest.id} cannot run here: its code is missing")
    return Network(manifest, folder, host)


def _patches(pixels: Pixels, tiles: Tiling) -> Iterator[tuple[Shape, Array]]:
    depth, rows, columns = tiles.size
    for z, places in tiles.layers():
        slab = pixels.slab(z, z + depth)
        for y, x in places:
            yield (z, y, x), slab[:, y : y + rows, x : x + columns]


def _hand_out(starts: Sequence[Shape], answer: Pending, collectors: Sequence[Collector]) -> None:
    found = answer.result()
    for index, start in enumerate(starts):
        item = {name: array[index] for name, array in found.items()}
        for collector in collectors:
            collector.add(start, item)
