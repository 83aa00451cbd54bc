"""`manifest.yaml`: what a model is, what it may see, what runs it, what it gives.

Read without torch, so that the HTTP side and the planner can show it.
"""

from models.manifest.base import ManifestError, Problem
from models.manifest.model import Manifest
from models.manifest.outputs import (
    Classification,
    Detections,
    MeasurementOutput,
    Output,
    Segmentation,
)
from models.manifest.reader import read_manifest

__all__ = [
    "Classification",
    "Detections",
    "Manifest",
    "ManifestError",
    "MeasurementOutput",
    "Output",
    "Problem",
    "Segmentation",
    "read_manifest",
]
