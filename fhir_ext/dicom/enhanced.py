"""Enhanced multi-frame objects: the functional groups of their frames (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.filereader import read_dataset

from fhir_ext.dicom.headers import PARSE_ERRORS, RawInstance, text
from fhir_ext.dicom.instances import (
    Frame,
    PixelFormat,
    check_plane,
    check_position,
    read_rescale,
)
from fhir_ext.dicom.volume import Acquisition
from fhir_ext.errors import RefusedInput


def read_frames(
    raw: RawInstance, pixel_format: PixelFormat, details: Acquisition
) -> tuple[tuple[Frame, ...], Acquisition, float | None]:
    """Place and rescale of every frame, and the header values of the first one.

    Args:
        raw: the instance; its data set is parsed by pydicom.
        pixel_format: names the number of frames.
        details: what top-level elements said; functional groups fill the gaps.

    Returns:
        Frames in stored order, header values for the gates, slice thickness in mm.

    Raises:
        RefusedInput: `missing-geometry`, `not-hounsfield`, `localizer` or `not-dicom`.
    """
    try:
        header = read_dataset(BytesIO(raw.dataset), raw.implicit, True)
        groups = _FunctionalGroups(header)
        if len(groups) != pixel_format.frames:
            raise RefusedInput("frames have no functional groups", code="missing-geometry")
        details = _fill(details, header, groups)
        frames = tuple(
            _frame(groups, index, text(raw.values.get("FrameOfReferenceUID")), details)
            for index in range(len(groups))
        )
        thickness = _number(groups.item(0, "PixelMeasuresSequence"), "SliceThickness")
    except PARSE_ERRORS as error:
        raise RefusedInput("functional groups are corrupt", code="not-dicom") from error
    if any("LOCALIZER" in frame.acquisition[2] for frame in frames):
        raise RefusedInput("a localizer is no slice of a volume", code="localizer")
    return frames, details, thickness


class _FunctionalGroups:
    """Functional groups, from the frame's own item or else from the shared one."""

    def __init__(self, header: Dataset) -> None:
        self._frames: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        self._shared: Dataset = next(iter(shared), Dataset())
        self._shared_items: dict[str, Dataset] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def item(self, index: int, keyword: str) -> Dataset:
        """First item of a functional group; empty when there is none."""
        own = self._frames[index].get(keyword)
        if own:
            return next(iter(own), Dataset())
        if keyword not in self._shared_items:
            shared = self._shared.get(keyword)
            self._shared_items[keyword] = next(iter(shared or ()), Dataset())
        return self._shared_items[keyword]


def _frame(groups: _FunctionalGroups, index: int, reference: str, details: Acquisition) -> Frame:
    measures = groups.item(index, "PixelMeasuresSequence")
    spacing = _numbers(measures, "PixelSpacing")
    plane = groups.item(index, "PlaneOrientationSequence")
    orientation = _numbers(plane, "ImageOrientationPatient")
    position = _numbers(groups.item(index, "PlanePositionSequence"), "ImagePositionPatient")
    check_plane(orientation, spacing)
    row_x, row_y, row_z, column_x, column_y, column_z = orientation
    values = groups.item(index, "PixelValueTransformationSequence")
    content = groups.item(index, "FrameContentSequence")
    kernel = _kernel(groups.item(index, "CTReconstructionSequence"))
    return Frame(
        position=check_position(position),
        orientation=(row_x, row_y, row_z, column_x, column_y, column_z),
        pixel_spacing=(spacing[0], spacing[1]),
        rescale=read_rescale(
            _number(values, "RescaleSlope"),
            _number(values, "RescaleIntercept"),
            str(values.get("RescaleType") or ""),
            details.modality,
        ),
        frame_of_reference_uid=reference,
        reconstruction=(
            kernel or details.convolution_kernel or "",
            round(_number(measures, "SliceThickness") or 0.0, 2),
            _number(groups.item(index, "CTXRayDetailsSequence"), "KVP") or details.kvp,
        ),
        acquisition=(
            str(content.get("FrameAcquisitionNumber") or ""),
            str(content.get("TemporalPositionIndex") or ""),
            _strings(groups.item(index, "CTImageFrameTypeSequence").get("FrameType")),
        ),
    )


def _fill(details: Acquisition, header: Dataset, groups: _FunctionalGroups) -> Acquisition:
    """Header values of the first frame where the top level is silent (PS3.3 C.8.15.3).

    A contrast agent was given where one frame says so, and where no frame says anything of the
    agents that the object names.
    """
    usage = [groups.item(index, "ContrastBolusUsageSequence") for index in range(len(groups))]
    told = {str(item.get("ContrastBolusAgentAdministered") or "") for item in usage}
    given = "YES" in told or bool(told == {""} and header.get("ContrastBolusAgentSequence"))
    anatomy = groups.item(0, "FrameAnatomySequence").get("AnatomicRegionSequence")
    return replace(
        details,
        convolution_kernel=details.convolution_kernel
        or _kernel(groups.item(0, "CTReconstructionSequence")),
        slice_thickness_mm=details.slice_thickness_mm
        or _number(groups.item(0, "PixelMeasuresSequence"), "SliceThickness"),
        kvp=details.kvp or _number(groups.item(0, "CTXRayDetailsSequence"), "KVP"),
        contrast_agent=details.contrast_agent or ("given" if given else None),
        body_part_examined=details.body_part_examined
        or (str(anatomy[0].get("CodeMeaning") or "") or None if anatomy else None),
    )


def _kernel(reconstruction: Dataset) -> str | None:
    return "\\".join(_strings(reconstruction.get("ConvolutionKernel"))) or None


def _strings(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _numbers(item: Dataset, keyword: str) -> tuple[float, ...]:
    value = item.get(keyword)
    if value is None:
        return ()
    found = tuple(float(entry) for entry in value)
    return found if all(abs(entry) < float("inf") for entry in found) else ()


def _number(item: Dataset, keyword: str) -> float | None:
    value = item.get(keyword)
    return None if value is None else float(value)
