"""Step 2: from an image to what the network was trained on.

As torchxrayvision does it: the range that the bits of the image can hold becomes -1024 to 1024
(whatever values occur; no window of the viewer is applied), a square is cut from the middle, and
it is made smaller with a Gaussian filter before linear interpolation, so that nothing is lost
between the samples. What lies beyond the edge counts as 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fhir_ext.dicom.projection import GreyValues, stored_range
from fhir_ext.dicom.radiograph import Radiograph
from models.manifest.inputs import Preprocessing

Image = npt.NDArray[np.float32]


def prepare(image: Radiograph, values: GreyValues, asked: Preprocessing) -> Image:
    """One image as the network sees it: float32 (rows, columns) of `sizes`.

    Args:
        image: whose format names the range.
        values: from `fhir_ext.dicom.radiograph.grey_values`.
        asked: one size; `window`, whose input is in shares of the range, 0 to 1; `normalise`.
    """
    low, high = stored_range(image.format)
    found = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    window = asked.window
    if window is not None:
        (first, last), (to_first, to_last) = window.input, window.output
        if window.clip:
            np.clip(found, first, last, out=found)
        found = (found - first) * ((to_last - to_first) / (last - first)) + to_first
    if asked.normalise is not None:
        found = (found - asked.normalise.mean) / asked.normalise.sd
    (size,) = asked.sizes
    return resize(crop_square(found), (size[0], size[1]))


def crop_square(values: Image) -> Image:
    """The middle of an image, as high as wide; a view."""
    rows, columns = values.shape
    side = min(rows, columns)
    top, left = rows // 2 - side // 2, columns // 2 - side // 2
    return values[top : top + side, left : left + side]


def resize(values: Image, size: tuple[int, int]) -> Image:
    """Another size by linear interpolation; what becomes smaller is smoothed first."""
    factors = np.array(values.shape) / np.array(size)
    sigma = np.maximum(0, (factors - 1) / 2)
    smooth = ndimage.gaussian_filter(values, sigma, mode="constant", cval=0.0)
    zoomed = ndimage.zoom(
        smooth, 1 / factors, order=1, mode="grid-constant", cval=0.0, grid_mode=True
    )
    found: Image = np.clip(zoomed, values.min(), values.max()).astype(np.float32)
    return found
