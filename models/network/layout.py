"""Which axes the tensors of a network have, and what its manifest must say so that it can run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.manifest import Manifest
from models.manifest.demands import unfit
from models.manifest.inputs import Preprocessing
from models.manifest.runtimes import NetworkRuntime, Tensor
from models.runtime.base import Array

Shape = tuple[int, int, int]

#: Channels that one grey value can fill: once, or as red, green and blue.
_CHANNELS = (1, 3)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one item of the network's input is made of an array (z, y, x).

    Attributes:
        name: of the tensor.
        dtype: of its elements.
        planes: the network sees one plane (y, x) of the array at a time.
        channels: of the input; None when it has no axis for them.
        lengths: declared lengths of the axes z, y, x; a text where the length is open.
    """

    name: str
    dtype: np.dtype[np.generic]
    planes: bool
    channels: int | None
    lengths: tuple[int | str, ...]

    def item(self, array: Array) -> Array:
        """One item of a batch, of an array (z, y, x); z has length 1 for `planes`."""
        found = array[0] if self.planes else array
        if self.channels is not None:
            found = np.broadcast_to(found, (self.channels, *found.shape))
        if self.dtype.kind in "iu":
            found = np.rint(found)
        return found.astype(self.dtype)


def layout_of(manifest: Manifest) -> Layout:
    """The layout of the one input of a network.

    (items, channels, z, y, x) and (items, z, y, x) are volumes; (items, 1 or 3, y, x) and
    (items, y, x) are planes.

    Raises:
        ManifestError: no network, another number of inputs, axes that are none of these, or
            preprocessing that cannot give what the input is declared to be.
    """
    runtime = manifest.runtime
    if not isinstance(runtime, NetworkRuntime):
        raise unfit(manifest, "runtime", "must be a network")
    if len(runtime.inputs) != 1:
        raise unfit(manifest, "runtime.inputs", "must be one tensor")
    (tensor,) = runtime.inputs
    if tensor.dtype == "bool":
        raise unfit(manifest, "runtime.inputs.0.dtype", "must be a number")
    layout = _layout(manifest, tensor)
    _check(manifest, layout, manifest.preprocessing)
    return layout


def _layout(manifest: Manifest, tensor: Tensor) -> Layout:
    dtype, rest = np.dtype(tensor.dtype), tensor.shape[1:]
    if len(rest) == 4 or (len(rest) == 3 and rest[0] in _CHANNELS):
        channels = rest[0] if isinstance(rest[0], int) else 1
        if channels not in _CHANNELS:
            raise unfit(manifest, "runtime.inputs.0.shape", "must have 1 or 3 channels")
        return Layout(tensor.name, dtype, len(rest) == 3, channels, rest[1:])
    if len(rest) in (2, 3):
        return Layout(tensor.name, dtype, len(rest) == 2, None, rest)
    raise unfit(manifest, "runtime.inputs.0.shape", "is neither of volumes nor of planes")


def _check(manifest: Manifest, layout: Layout, asked: Preprocessing) -> None:
    lengths = {len(size) for size in asked.sizes}
    lengths |= {len(part) for part in (asked.spacing_mm,) if part is not None}
    lengths |= {len(asked.patches.size)} if asked.patches else set()
    if not layout.planes and 2 in lengths:
        raise unfit(manifest, "preprocessing", "must have three axes for a network of volumes")
    sizes = [asked.patches.size] if asked.patches else list(asked.sizes)
    fixed = [length for length in layout.lengths if isinstance(length, int)]
    if fixed and not sizes:
        reason = "needs sizes or patches: the network takes one size only"
        raise unfit(manifest, "preprocessing", reason)
    for size in sizes:
        inner = size[-2:] if layout.planes else size
        if layout.planes and size[:-2] not in {(), (1,)}:
            raise unfit(manifest, "preprocessing", "planes are one voxel thick")
        pairs = zip(inner, layout.lengths, strict=True)
        if any(isinstance(wanted, int) and wanted != length for length, wanted in pairs):
            raise unfit(manifest, "preprocessing", "sizes or patches are not those of the network")
