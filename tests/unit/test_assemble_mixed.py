"""Slices of one series that differ in what the gates look at: each stack says its own."""

from __future__ import annotations

from typing import Any

import pytest
from assembling import assemble, only_volume
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from synthetic_ct import ct_slice, encoded, enhanced_ct, texture

FRAMES = [texture(index) for index in range(8)]
TWICE = [0.0, 2.0, 4.0, 6.0] * 2


def item(**values: Any) -> DicomSequence:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return DicomSequence([found])


def enhanced(keyword: str, *items: DicomSequence | None) -> bytes:
    """The same place twice; the first half of the frames has the first item of its own."""
    made = enhanced_ct(FRAMES, TWICE)
    for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        own = items[index // 4]
        if own is not None:
            setattr(group, keyword, own)
    return encoded(made)


def test_kernels_of_an_enhanced_object_are_those_of_their_frames() -> None:
    """The sharp half was called B30f, and no gate refused it."""
    kernels = (item(ConvolutionKernel="B30f"), item(ConvolutionKernel="B70f"))
    volumes = assemble([enhanced("CTReconstructionSequence", *kernels)]).volumes
    assert {volume.acquisition.convolution_kernel for volume in volumes} == {"B30f", "B70f"}
    assert all(volume.issues == () for volume in volumes)


def test_so_are_thicknesses_and_voltages() -> None:
    measures = (
        item(PixelSpacing=[0.8, 0.7], SliceThickness=2.0),
        item(PixelSpacing=[0.8, 0.7], SliceThickness=5.0),
    )
    volumes = assemble([enhanced("PixelMeasuresSequence", *measures)]).volumes
    assert {volume.acquisition.slice_thickness_mm for volume in volumes} == {2.0, 5.0}
    volumes = assemble([enhanced("CTXRayDetailsSequence", item(KVP=80), item(KVP=140))]).volumes
    assert {volume.acquisition.kvp for volume in volumes} == {80.0, 140.0}


def test_slices_of_another_voltage_are_another_stack() -> None:
    parts = [encoded(ct_slice(i, KVP="120" if i < 5 else "80")) for i in range(8)]
    found = {volume.acquisition.kvp: len(volume.voxels) for volume in assemble(parts).volumes}
    assert found == {120.0: 5, 80.0: 3}


def test_contrast_in_one_slice_is_contrast() -> None:
    """The lowest slice did not name it, and the gate let the stack pass."""
    agent = {"ContrastBolusAgent": "Iomeprol"}
    parts = [encoded(ct_slice(i, **(agent if i == 5 else {}))) for i in range(8)]
    assert only_volume(assemble(parts)).acquisition.contrast_agent == "Iomeprol"


@pytest.mark.parametrize(
    ("named", "usage", "given"),
    [
        (True, None, True),
        (True, ("NO", "NO"), False),
        (True, ("NO", "YES"), True),
        (False, ("NO", "YES"), True),
        (False, None, False),
    ],
)
def test_contrast_of_an_enhanced_object(
    named: bool, usage: tuple[str, str] | None, given: bool
) -> None:
    made = enhanced_ct(FRAMES, [2.0 * index for index in range(8)])
    if named:
        made.ContrastBolusAgentSequence = item(
            CodeValue="109219007", CodingSchemeDesignator="SCT", CodeMeaning="Iodinated agent"
        )
    if usage is not None:
        for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
            told = usage[index // 4]
            group.ContrastBolusUsageSequence = item(ContrastBolusAgentAdministered=told)
    volume = only_volume(assemble([encoded(made)]))
    assert (volume.acquisition.contrast_agent is not None) is given


def test_a_thickness_or_voltage_of_0_is_not_stated() -> None:
    """0 mm passed every gate that has a largest thickness."""
    parts = [encoded(ct_slice(i, SliceThickness="0", KVP="0")) for i in range(4)]
    acquisition = only_volume(assemble(parts)).acquisition
    assert (acquisition.slice_thickness_mm, acquisition.kvp) == (None, None)
