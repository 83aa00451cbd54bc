"""A MONAI detection bundle laid out as the model zoo's `lung_nodule_ct_detection`, but tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_networks import file_of, runtime_of

from models.manifest.runtimes import NetworkRuntime

Json = dict[str, Any]
AT_MOST = 12
OUTPUTS = [
    {"name": "boxes", "shape": ["n", AT_MOST, 6]},
    {"name": "labels", "shape": ["n", AT_MOST], "dtype": "int64"},
    {"name": "scores", "shape": ["n", AT_MOST]},
    {"name": "count", "shape": ["n"], "dtype": "int64"},
]
#: The zoo's bundle has a ResNet of 50 layers here, and more around it that only MONAI runs.
BACKBONE = (
    "$monai.networks.nets.resnet.ResNet(block='basic',layers=[1,1,1,1],"
    "block_inplanes=[4,8,16,32],spatial_dims=3,n_input_channels=1,"
    "conv1_t_size=[7,7,7],conv1_t_stride=[2,2,1])"
)
EXTRACTOR = (
    "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor("
    "@backbone,3,False,[1,2],None)"
)
INFERENCE: Json = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": "./",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "amp": True,
    "anchor_generator": {
        "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
        "feature_map_scales": [1, 2, 4],
        "base_anchor_shapes": [[6, 8, 4], [8, 6, 5], [10, 10, 6]],
    },
    "backbone": BACKBONE,
    "feature_extractor": EXTRACTOR,
    "network_def": {
        "_target_": "RetinaNet",
        "spatial_dims": 3,
        "num_classes": 1,
        "num_anchors": 3,
        "feature_extractor": "@feature_extractor",
        "size_divisible": [16, 16, 8],
    },
    "network": "$@network_def.to(@device)",
    "detector": {
        "_target_": "RetinaNetDetector",
        "network": "@network",
        "anchor_generator": "@anchor_generator",
        "debug": False,
    },
    "detector_ops": [
        "$@detector.set_target_keys(box_key='box', label_key='label')",
        "$@detector.set_box_selector_parameters(score_thresh=0.02,topk_candidates_per_level=50,"
        "nms_thresh=0.22,detections_per_img=20)",
        "$@detector.set_sliding_window_inferer(roi_size=[64,64,32],overlap=0.25)",
    ],
    "inferer": {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"},
}
METADATA: Json = {
    "version": "0.0.1",
    "monai_version": "1.6.1",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "dtype": "float16", "value_range": [0, 1]}},
        "outputs": {"pred": {"type": "object", "format": "dict", "dtype": "float16"}},
    },
}


def detector() -> Any:
    """The detector of the bundle, built by hand, with its weights."""
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.networks.retinanet_network import (
        RetinaNet,
        resnet_fpn_feature_extractor,
    )
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
    from monai.networks.nets.resnet import ResNet

    torch.manual_seed(4)
    backbone = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[4, 8, 16, 32],
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_size=[7, 7, 7],
        conv1_t_stride=[2, 2, 1],
    )
    extractor = resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None)
    network = RetinaNet(
        spatial_dims=3,
        num_classes=1,
        num_anchors=3,
        feature_extractor=extractor,
        size_divisible=[16, 16, 8],
    )
    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=[1, 2, 4],
        base_anchor_shapes=[[6, 8, 4], [8, 6, 5], [10, 10, 6]],
    )
    found = RetinaNetDetector(network, anchors).eval()
    # Untrained scores are all alike and low: this spreads them.
    with torch.no_grad():
        network.classification_head.cls_logits.weight.mul_(6)
        network.classification_head.cls_logits.bias.fill_(-1.0)
    return found


def write_bundle(
    folder: Path, state: dict[str, torch.Tensor], change: Callable[[Json], None] | None = None
) -> NetworkRuntime:
    """A folder `bundle` with its configs and weights, and the runtime for it."""
    config = json.loads(json.dumps(INFERENCE))
    if change is not None:
        change(config)
    root = folder / "bundle"
    for part in ("configs", "models"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "configs" / "inference.json").write_text(json.dumps(config), "utf-8")
    (root / "configs" / "metadata.json").write_text(json.dumps(METADATA), "utf-8")
    torch.save(state, root / "models" / "model.pt")
    return runtime_of(
        "monai-bundle",
        folder="bundle",
        config=file_of(root / "configs" / "inference.json", folder),
        metadata=file_of(root / "configs" / "metadata.json", folder),
        weights=file_of(root / "models" / "model.pt", folder),
        detector="detector",
        at_most=AT_MOST,
        inputs=[{"name": "image", "shape": ["n", 1, "r", "a", "s"]}],
        outputs=OUTPUTS,
    )
