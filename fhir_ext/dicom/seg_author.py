"""Which model version drew a SEG of ours, by its header (PS3.3 C.8.20.4, table 10-19)."""

from __future__ import annotations

from pydicom import Dataset

from fhir_ext.resources.codes import MANUFACTURER
from fhir_ext.results import ModelIdentity


def drawn_by(header: Dataset) -> ModelIdentity | None:
    """The model version that drew a SEG, as `seg_write` wrote it into the header.

    Anybody may write such a header: it says whom to ask about, and proves nothing.

    Returns:
        None when the object names no version of ours.
    """
    for segment in header.get("SegmentSequence") or ():
        for algorithm in segment.get("SegmentationAlgorithmIdentificationSequence") or ():
            if algorithm.get("AlgorithmSource") == MANUFACTURER:
                return ModelIdentity(
                    str(algorithm.get("AlgorithmName", "")),
                    str(algorithm.get("AlgorithmVersion", "")),
                    str(header.get("ManufacturerModelName", "")),
                    str(header.get("DeviceSerialNumber", "")),
                )
    return None
