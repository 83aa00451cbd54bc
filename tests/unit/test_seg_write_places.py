"""Frames of a SEG lie where the images lie that they were drawn in, however those lie."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from analytic import FRAME, volume_of
from network_samples import geometry_of
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage
from result_samples import MODEL
from seg_samples import ct_header, read

from fhir_ext.dicom.seg_place import place
from fhir_ext.dicom.volume import CTVolume, Geometry
from fhir_ext.resources.codes import REGION_SITE
from fhir_ext.results import Region

SHAPE = (7, 9, 11)
#: Towards which side slices, rows and columns count, as a scanner may have it.
SIDES = [
    "".join(letters) for axes in permutations(("SI", "PA", "LR")) for letters in product(*axes)
]
MASK = np.zeros(SHAPE, np.uint8)
MASK[1:6, 2:7, 3:10] = np.random.default_rng(1).integers(0, 2, (5, 5, 7))


def grid(axes: str = "SPL", degrees: tuple[float, float, float] = (0, 0, 0)) -> Geometry:
    found = geometry_of(SHAPE, (2.5, 0.8, 0.7), axes, degrees, (11, -30, 105.5))
    return replace(found, frame_of_reference_uid=FRAME)


def volume(geometry: Geometry, headers: list[Dataset] | None = None) -> CTVolume:
    evidence = headers or [ct_header(geometry, SHAPE, index) for index in range(SHAPE[0])]
    made = volume_of(np.zeros(SHAPE, np.int16), geometry)
    uids = tuple(str(item.SOPInstanceUID) for item in evidence)
    return replace(made, evidence=tuple(evidence), sop_instance_uids=uids)


def written(of: CTVolume) -> Dataset:
    from fhir_ext.dicom.seg_write import Segment, build_segmentation

    liver = Segment("liver", (REGION_SITE[Region.LIVER],), Region.LIVER, MASK, 1)
    made = build_segmentation(MODEL, "ab" * 32, of, [liver])
    assert made is not None
    return made


def check(of: CTVolume) -> Dataset:
    """Written, read and placed again it is the same mask."""
    made = written(of)
    found = read(made)
    back = place(found, found.segments[0], of.geometry, SHAPE).full(SHAPE)
    assert np.array_equal(back, MASK == 1)
    return made


@pytest.mark.parametrize("axes", SIDES)
def test_every_orientation(axes: str) -> None:
    check(volume(grid(axes)))
    check(volume(grid(axes, (12, -25, 40))))


@pytest.mark.parametrize("lean", [0.002, 0.05, 0.36])
def test_a_tilted_gantry(lean: float) -> None:
    """A sheared stack ended the step with an error of highdicom."""
    sheared = replace(grid(), slice_step=(0.0, 2.5 * lean, 2.5))
    check(volume(sheared))
    whole = ct_header(sheared, SHAPE, 0)
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedCTImageStorage, SHAPE[0]
    enhanced = volume(sheared, [whole])
    made = check(replace(enhanced, sop_instance_uids=enhanced.sop_instance_uids * SHAPE[0]))
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(2.5)


def test_rounded_and_jittered_headers() -> None:
    """Three decimals make no right angle, and no two slices need the same digits."""
    geometry = grid("SPL", (12, -25, 40))
    headers = [ct_header(geometry, SHAPE, index) for index in range(SHAPE[0])]
    for index, header in enumerate(headers):
        header.ImageOrientationPatient = [
            round(float(value) + 1e-4 * (index == 2), 4 if index == 2 else 3)
            for value in header.ImageOrientationPatient
        ]
    direction = [float(value) for value in headers[0].ImageOrientationPatient]
    rounded = replace(
        geometry,
        column_step=tuple(0.7 * value for value in direction[:3]),
        row_step=tuple(0.8 * value for value in direction[3:]),
    )
    check(volume(rounded, headers))


def test_slices_at_uneven_distances_keep_their_own_places() -> None:
    """Of a stack with a gap the mean step is nobody's: a frame was up to 4 mm off its image."""
    headers = [ct_header(grid(), SHAPE, index) for index in range(SHAPE[0])]
    for header in headers[4:]:
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y, float(z) + 7.5]
    places = {str(item.SOPInstanceUID): list(item.ImagePositionPatient) for item in headers}
    step = (6 * 2.5 + 7.5) / 6
    made = written(volume(replace(grid(), slice_step=(0.0, 0.0, step)), headers))
    for frame in made.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place_of = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(place_of) == places[str(source.ReferencedSOPInstanceUID)]
