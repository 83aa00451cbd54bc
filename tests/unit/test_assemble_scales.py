"""Series whose values are no Hounsfield units: kept where 16 bits hold them, refused elsewhere."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest
from assembling import assemble, only_volume, rejected
from pydicom.uid import JPEGLSLossless
from synthetic_ct import ct_slice, encoded


def pet(index: int, slope: float, value: int = 4000, bits: int = 16, **changes: Any) -> Any:
    stored = np.full((4, 4), value, np.uint16)
    told = {"Modality": "PT", "BitsStored": bits, "HighBit": bits - 1}
    scale = {"RescaleSlope": f"{slope:.6f}", "RescaleIntercept": "0"}
    return ct_slice(index, stored, **told, **scale, **changes)


def test_slopes_of_their_own_are_kept() -> None:
    slopes = [1.0, 2.5, 4.0, 0.4]
    volume = only_volume(assemble([encoded(pet(i, slope)) for i, slope in enumerate(slopes)]))
    assert volume.voxels[:, 0, 0].tolist() == [4000, 10000, 16000, 1600]


@pytest.mark.parametrize(
    "slopes",
    [
        # 100,000 Bq/mL came out as 32,767.
        [25.0, 26.0, 27.0],
        # One hot slice: without it the others would be believed.
        [1.0, 25.0, 1.0],
        # An SUV of 0.4 came out as 0.
        [0.0001, 0.0001, 0.0001],
    ],
)
def test_what_16_bits_clip_or_round_away_is_refused_as_a_whole(slopes: list[float]) -> None:
    found = assemble([encoded(pet(i, slope)) for i, slope in enumerate(slopes)])
    assert found.volumes == ()
    assert rejected(found) == ["unsupported-pixels"] * 3


def test_so_it_is_when_it_is_compressed() -> None:
    frame = bytes(imagecodecs.jpegls_encode(np.full((4, 4), 4000, np.uint16)))
    parts = [encoded(pet(index, 25.0), JPEGLSLossless, [frame]) for index in range(3)]
    assert rejected(assemble(parts)) == ["unsupported-pixels"] * 3


def test_a_ct_is_clipped_and_not_refused() -> None:
    stored = np.full((4, 4), 65535, np.uint16)
    parts = [encoded(ct_slice(i, stored, BitsStored=16, HighBit=15)) for i in range(3)]
    assert only_volume(assemble(parts)).voxels.max() == 32767
    for step in ("0.5", "0.01"):
        parts = [encoded(ct_slice(i, RescaleSlope=step)) for i in range(3)]
        assert len(assemble(parts).volumes) == 1


def test_few_bits_with_a_slope_of_one_are_no_reason() -> None:
    volume = only_volume(assemble([encoded(pet(i, 1.0, 9, bits=4)) for i in range(3)]))
    assert volume.voxels.max() == 9
