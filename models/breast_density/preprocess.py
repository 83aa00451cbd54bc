"""Step 2: from an image to the histogram that the network was trained on.

The authors load the stored values, cut out 2600 x 2000 pixels, save them as PNG, bring them to
zero mean and unit variance, and count 50 bins between the darkest and the brightest pixel
(`utils.py` of nyukat/breast_density_classifier, and issue 5 there). With 256 grey levels, four
edges of the 50 bins fall on a level, so that the last digit of the normalized values decides on
which side its pixels are counted: 0.083 or 0.078 becomes 0.082 for the example. The arithmetic of
the NumPy of that time (1.14) is therefore kept, operation by operation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.mammography import GreyValues
from fhir_ext.results import Refusal

Image8 = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

#: Rows and columns that the network was trained on.
CROP: Final = (2600, 2000)
BINS: Final = 50
#: Elements that NumPy 1.14 added pairwise before it added them to the running float32 sum.
_BUFFER: Final = 8192
#: How much brighter the half away from the chest wall must be to contradict the header.
_CONTRADICTION: Final = 1.5


def crop(values: GreyValues, anterior: bool | None) -> GreyValues | Refusal:
    """The part that the network looks at, chest wall at the left edge.

    Args:
        values: (rows, columns), bright where dense.
        anterior: whether columns count towards the nipple; None: the brighter half is the
            one at the chest wall.

    Returns:
        A view of 2600 x 2000: from the chest wall, and the middle of the rows.
    """
    rows, columns = values.shape
    if rows < CROP[0] or columns < CROP[1]:
        return Refusal(
            "image-size", f"{rows} x {columns} pixels", f"at least {CROP[0]} x {CROP[1]} pixels"
        )
    darkest = int(values.min())
    middle = columns // 2
    left = float(values[:, :middle].mean()) - darkest
    right = float(values[:, -middle:].mean()) - darkest
    if anterior is None:
        anterior = left >= right
    near, far = (left, right) if anterior else (right, left)
    if far > _CONTRADICTION * near:
        return Refusal("patient-orientation", "the breast at the other edge", "as the header says")
    top = (rows - CROP[0]) // 2
    turned = values if anterior else values[:, ::-1]
    part = turned[top : top + CROP[0], : CROP[1]]
    if part.min() == part.max():
        return Refusal("blank-image", "one grey value", "an image")
    return part


def to_eight_bits(values: GreyValues, bits_stored: int) -> Image8:
    """Grey values of an 8 bit PNG: darkest to 0, brightest to 255, rounded half up.

    So SciPy 1.0 saved an array; 8 bit values stay as they are.

    Args:
        values: (rows, columns), not all the same.
        bits_stored: of the image.
    """
    low, high = int(values.min()), int(values.max())
    if bits_stored <= 8 and low >= 0:
        return values.astype(np.uint8)
    scaled = (values - low) * (255.0 / (high - low))
    return (scaled.clip(0.0, 255.0) + 0.5).astype(np.uint8)


def histogram(image: Image8) -> npt.NDArray[np.int64]:
    """Pixels in each of 50 equal bins between the darkest and the brightest grey level.

    Args:
        image: (rows, columns), at least two grey levels.
    """
    levels = _normalized_levels(image)
    counts = np.bincount(image.ravel(), minlength=256)
    used = counts.nonzero()[0]
    # Data as float32, edges as float64: what NumPy 1.14 compared.
    values = levels[used].astype(np.float64)
    edges = np.linspace(values[0], values[-1], BINS + 1)
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
    found = np.zeros(BINS, dtype=np.int64)
    np.add.at(found, bins, counts[used])
    return found


def features(image: Image8) -> Features:
    """Share of the pixels in each bin, float32 (50,)."""
    counts = histogram(image)
    shares: Features = (counts / counts.sum()).astype(np.float32)
    return shares


def _normalized_levels(image: Image8) -> Features:
    """Grey levels 0 to 255 after the image is brought to zero mean and unit variance."""
    values = image.ravel().astype(np.float32)
    mean = _mean(values)
    values -= mean
    centred = _mean(values)
    values -= centred
    np.multiply(values, values, out=values)
    deviation = np.sqrt(_mean(values))
    levels: Features = (np.arange(256, dtype=np.float32) - mean) / deviation
    return levels


def _mean(values: npt.NDArray[np.float32]) -> np.float32:
    """Mean in float32: pairwise inside buffers of 8192 elements, buffer after buffer."""
    whole = values.size - values.size % _BUFFER
    sums = values[:whole].reshape(-1, _BUFFER).sum(axis=1, dtype=np.float32)
    parts = np.append(sums, values[whole:].sum(dtype=np.float32)).astype(np.float32)
    total = np.add.accumulate(parts, dtype=np.float32)[-1]
    return np.float32(float(total) / values.size)
