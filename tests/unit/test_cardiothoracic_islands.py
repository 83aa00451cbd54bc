"""Pixels that a program leaves in the wrong place decide no width."""

from __future__ import annotations

import numpy as np
import pytest
from image_seg_samples import HEART, LUNG, image_seg
from synthetic_cr import radiograph, read

from models.cardiothoracic_ratio.measure import Mask, ratio, without_islands
from models.cardiothoracic_ratio.segments import Chest, chest_of

SIZE = (100, 120)


def boxes(*places: tuple[int, int, int, int]) -> Mask:
    """Boxes of rows and columns (first, end, first, end)."""
    found = np.zeros(SIZE, np.bool_)
    for top, bottom, left, right in places:
        found[top:bottom, left:right] = True
    return found


#: The chest is 80 columns wide, the heart 32.
LUNGS = boxes((10, 80, 20, 45), (10, 80, 75, 100))
BODY = boxes((50, 80, 42, 74))


@pytest.mark.parametrize(
    ("heart", "lungs"),
    [
        (BODY, LUNGS),
        # In the lung: the heart was 0.69 wide.
        (BODY | boxes((70, 73, 94, 97)), LUNGS),
        # Beside the chest: the lungs were wider, and the heart 0.36.
        (BODY, LUNGS | boxes((60, 63, 106, 109))),
    ],
)
def test_islands_change_no_ratio(heart: Mask, lungs: Mask) -> None:
    image = radiograph("PA", np.zeros(SIZE, np.uint16))
    (film,) = read(image)
    chest = chest_of(film, [image_seg(image, {HEART: heart, LUNG: lungs})])
    assert isinstance(chest, Chest)
    assert ratio(chest.heart, chest.lungs) == 32 / 80


def test_pieces_that_are_not_small_stay() -> None:
    two = boxes((10, 80, 20, 45), (85, 95, 20, 45))
    assert np.array_equal(without_islands(two), two)
    assert not without_islands(np.zeros(SIZE, np.bool_)).any()
