"""The network as a file that holds no path, name or time of where it was made."""

from __future__ import annotations

from pathlib import Path

import torch

from models.nodule_detection.network import PATCH, NoduleDetector, NoduleNet

#: Most patches of one call that the file promises to take.
MOST = 64


def export(network: NoduleNet, path: Path) -> int:
    """Write a `.pt2` that takes any number of patches; returns its size in bytes."""
    detector = NoduleDetector(network).eval()
    # The file keeps it: one number, seen as a batch.
    example = torch.zeros(()).expand(2, 1, *PATCH)
    items = torch.export.Dim("n", min=1, max=MOST)
    with torch.no_grad():
        program = torch.export.export(detector, (example,), dynamic_shapes={"image": {0: items}})
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                # Where in which file of whose machine the line stands.
                node.meta.pop("stack_trace", None)
    torch.export.save(program, path)
    return path.stat().st_size
