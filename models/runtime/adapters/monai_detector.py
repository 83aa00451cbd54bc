"""Detectors of MONAI bundles, such as the RetinaNet for lung nodules of its model zoo."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.manifest.runtimes import MonaiBundleRuntime
from models.runtime.adapters.monai_parts import fill_network, formats_of, parsed
from models.runtime.base import ModelFailure, Session
from models.runtime.bundle_config import Json
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    import torch

#: Names of the outputs, as the manifest must declare them.
OUTPUTS = ("boxes", "labels", "scores", "count")
#: Parameters of the box selection, and what they may be.
_SELECTION: Mapping[str, type | tuple[type, ...]] = {
    "score_thresh": (int, float),
    "topk_candidates_per_level": int,
    "nms_thresh": (int, float),
    "detections_per_img": int,
    "apply_sigmoid": bool,
}
_SELECT = "set_box_selector_parameters"


def load(
    runtime: MonaiBundleRuntime, config: Json, metadata: Json, weights: Verified, options: Options
) -> Session:
    """A session around the detector.

    Of `detector_ops` only the parameters of the box selection are read; sliding windows are the
    manifest's `patches`. The element types that the metadata state are those of mixed precision
    and are not asked for.

    Raises:
        ModelFailure: `weights-corrupt`, `weights-unsafe`; `model-output`: the manifest declares
            other tensors.
    """
    from models.runtime.adapters.torch_session import TorchSession
    from models.runtime.device import torch_device

    assert runtime.detector is not None
    _check_tensors(runtime, metadata)
    selection = _selection(config)
    detector = parsed(config, runtime.detector, options)
    if not hasattr(detector, _SELECT):
        raise ModelFailure("weights-corrupt", f"{runtime.detector} of the bundle is no detector")
    fill_network(detector.network, weights)
    detector.set_target_keys(box_key="boxes", label_key="labels")
    getattr(detector, _SELECT)(**selection)
    detector.to(torch_device(options.device)).eval()
    return TorchSession(
        lambda image: _padded(detector(image), runtime.at_most, 2 * (image.ndim - 2)),
        (*detector.parameters(), *detector.buffers()),
        [tensor.name for tensor in runtime.inputs],
        OUTPUTS,
        options.device,
        runtime.autocast,
    )


def _check_tensors(runtime: MonaiBundleRuntime, metadata: Json) -> None:
    if {tensor.name for tensor in runtime.outputs} != set(OUTPUTS) or len(runtime.inputs) != 1:
        raise ModelFailure("model-output", f"a detector has {', '.join(OUTPUTS)}")
    (image,) = runtime.inputs
    stated = formats_of(metadata).get("inputs")
    entry = stated.get(image.name) if isinstance(stated, dict) else None
    if not isinstance(entry, dict):
        raise ModelFailure("model-output", f"the bundle has no input {image.name}")
    channels = entry.get("num_channels")
    if isinstance(channels, int) and len(image.shape) > 1 and channels != image.shape[1]:
        raise ModelFailure("model-output", f"{image.name} of the bundle has {channels} channels")


def _selection(config: Json) -> dict[str, Any]:
    """Arguments of `set_box_selector_parameters` in `detector_ops`; nothing is evaluated.

    Raises:
        ModelFailure: `weights-unsafe`: they are no plain numbers.
    """
    ops = config.get("detector_ops")
    for text in ops if isinstance(ops, list) else ():
        if not (isinstance(text, str) and text.startswith("$@") and f".{_SELECT}(" in text):
            continue
        try:
            call = ast.parse(text[2:], mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError
            found = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ModelFailure("weights-unsafe", "the box selection is no call") from error
        for name, value in found.items():
            if name not in _SELECTION or not isinstance(value, _SELECTION[name]):
                raise ModelFailure("weights-unsafe", "the box selection has other parameters")
        return found
    return {}


def _padded(
    found: Sequence[Mapping[str, torch.Tensor]], at_most: int, width: int
) -> dict[str, torch.Tensor]:
    """Lists of different lengths as one tensor each, best first; labels count from 1."""
    import torch

    items = len(found)
    boxes, scores = torch.zeros((items, at_most, width)), torch.zeros((items, at_most))
    labels = torch.zeros((items, at_most), dtype=torch.int64)
    count = torch.zeros(items, dtype=torch.int64)
    for row, item in enumerate(found):
        score, order = item["labels_scores"].float().cpu().sort(descending=True, stable=True)
        kept = order[:at_most]
        number = len(kept)
        boxes[row, :number] = item["boxes"].float().cpu()[kept]
        scores[row, :number] = score[:number]
        labels[row, :number] = item["labels"].cpu()[kept] + 1
        count[row] = number
    return {"boxes": boxes, "labels": labels, "scores": scores, "count": count}
