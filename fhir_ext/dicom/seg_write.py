"""Segments of a model as a DICOM Segmentation (PS3.3 A.51, C.8.20): BINARY, on the grid of a
volume, with references to the images that they were drawn in.

The same segments of the same images give the same bytes: UIDs derive from the inference key,
and the times are those of the images, since a step that runs again must not make another
object.

highdicom takes about a second to import: import this module only where a SEG is built.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence, PlanePositionSequence
from highdicom.seg import Segmentation as SegmentationObject
from highdicom.seg import SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from fhir_ext.dicom.inherit import finish, local_time, restore, usable_header
from fhir_ext.dicom.sr import SERIES_NUMBER_BASE
from fhir_ext.dicom.sr_items import best, concept, our_scheme
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.resources import codes
from fhir_ext.resources.codes import MANUFACTURER, Coding
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import ModelIdentity, Region

#: Content date of images that state none: it must stand there, and must not change.
UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment.

    Attributes:
        name: unique within the object.
        codings: what it shows; the best one becomes Segmented Property Type (0062,000F).
        region: Anatomic Region (0008,2218).
        labels: uint8 (slices, rows, columns) on the grid of the volume.
        value: of `labels` where the segment is; above 0.
    """

    name: str
    codings: tuple[Coding, ...]
    region: Region
    labels: npt.NDArray[np.uint8] = field(repr=False)
    value: int


def build_segmentation(
    model: ModelIdentity, inference_key: str, volume: CTVolume, segments: Sequence[Segment]
) -> Dataset | None:
    """The SEG of the segments that hold a voxel; the same arguments give the same bytes.

    Args:
        model: the version that drew them.
        inference_key: what UIDs derive from.
        volume: the images; only geometry and evidence are looked at.
        segments: of any number of outputs; they may overlap.

    Returns:
        With file meta information, Explicit VR Little Endian, UTF-8; None when no segment
        holds a voxel.

    Raises:
        ValueError: a mask is not on the grid of the volume, or the volume has no frame of
            reference, without which its voxels lie nowhere.
    """
    if any(segment.labels.shape != volume.voxels.shape for segment in segments):
        raise ValueError("a mask is not on the grid of the volume")
    if not volume.geometry.frame_of_reference_uid:
        raise ValueError("a segmentation needs a frame of reference")
    drawn = [item for item in segments if bool((item.labels == item.value).any())]
    if not drawn:
        return None
    first = volume.evidence[0]
    sources = _sources(volume)
    local = local_time(_made(first), first)
    found = SegmentationObject(
        source_images=sources,
        pixel_array=_stacked(drawn),
        # Slices say where they lie, each by itself.
        plane_positions=_frame_places(volume) if "NumberOfFrames" in first else None,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(model, inference_key, number, segment)
            for number, segment in enumerate(drawn, start=1)
        ],
        series_instance_uid=dicom_uid(inference_key, "seg-series"),
        series_number=SERIES_NUMBER_BASE + 1 + max(0, int(first.get("SeriesNumber") or 0)),
        sop_instance_uid=dicom_uid(inference_key, "seg"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.title[:64],
        software_versions=model.version[:64],
        device_serial_number=model.settings_hash[:64],
        series_description=f"{model.title}: segments"[:64],
        content_label="SEGMENTS",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_date=local.date(),
        content_time=local.time().replace(microsecond=0),
    )
    found.CodingSchemeIdentificationSequence = [our_scheme()]
    _refer_to(found, str(first.SOPClassUID))
    restore(found, first, sources[0])
    finish(found, first, local)
    _fix_dimension_uid(found, dicom_uid(inference_key, "seg-dimensions"))
    return found


def _description(
    model: ModelIdentity, inference_key: str, number: int, segment: Segment
) -> SegmentDescription:
    found = SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=concept(codes.ANATOMICAL_STRUCTURE),
        segmented_property_type=best(segment.codings),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model.id[:64],
            family=dictionary.DCM.ArtificialIntelligence,
            version=model.version,
            source=MANUFACTURER,
            parameters={"settings sha256": model.settings_hash},
        ),
        tracking_uid=dicom_uid(inference_key, f"tracking/segment/{segment.name}"),
        tracking_id=segment.name,
        anatomic_regions=[concept(codes.REGION_SITE[segment.region])],
    )
    side = codes.REGION_LATERALITY.get(segment.region)
    if side is not None:
        (region,) = found.AnatomicRegionSequence
        region.AnatomicRegionModifierSequence = [concept(side)]
    return found


def _disjoint(segments: Sequence[Segment]) -> bool:
    """Whether no voxel is in two segments; those of one label map never are."""
    if len({id(segment.labels) for segment in segments}) == 1:
        return True
    taken = np.zeros(segments[0].labels.shape, dtype=np.bool_)
    for segment in segments:
        mask = segment.labels == segment.value
        if bool((taken & mask).any()):
            return False
        taken |= mask
    return True


def _stacked(segments: Sequence[Segment]) -> npt.NDArray[np.uint8 | np.uint16]:
    """Segment numbers (slices, rows, columns); of overlapping segments one channel for each."""
    if not _disjoint(segments):
        masks = [segment.labels == segment.value for segment in segments]
        return np.stack(masks, axis=-1).astype(np.uint8)
    kind = np.uint8 if len(segments) < 256 else np.uint16
    numbers = np.zeros(segments[0].labels.shape, dtype=kind)
    for number, segment in enumerate(segments, start=1):
        numbers[segment.labels == segment.value] = number
    return numbers


def _frame_places(volume: CTVolume) -> list[PlanePositionSequence]:
    """Where the frames of an enhanced object lie.

    Not as a highdicom.Volume: it knows no sheared stack, and takes directions that were rounded
    to a few decimals for one.
    """
    geometry = volume.geometry
    steps = np.outer(np.arange(len(volume.voxels)), geometry.slice_step)
    return [PlanePositionSequence("PATIENT", place) for place in geometry.origin + steps]


def _sources(volume: CTVolume) -> list[Dataset]:
    """Headers that highdicom can place.

    An enhanced object keeps the places of its frames in functional groups that are not part
    of the evidence: it is described as one slice, so that no frame is named, and `_refer_to`
    says afterwards what it is.
    """
    found = [usable_header(volume.evidence[0]), *volume.evidence[1:]]
    if "NumberOfFrames" not in found[0]:
        plane = found[0].ImageOrientationPatient
        same = (item.ImageOrientationPatient == plane for item in found)
        return [i if alike else _on(plane, i) for i, alike in zip(found, same, strict=True)]
    whole = copy.deepcopy(found[0])
    del whole.NumberOfFrames
    whole.SOPClassUID = CTImageStorage
    geometry = volume.geometry
    _, row_mm, column_mm = geometry.spacing_mm
    whole.Rows, whole.Columns = volume.voxels.shape[1:]
    whole.PixelSpacing = [row_mm, column_mm]
    whole.ImagePositionPatient = list(geometry.origin)
    column = np.array(geometry.column_step) / column_mm
    row = np.array(geometry.row_step) / row_mm
    # Along the normal: less than the length of a step where the stack leans.
    whole.SliceThickness = abs(float(np.cross(column, row) @ np.array(geometry.slice_step)))
    whole.ImageOrientationPatient = [float(round(value, 9)) for value in (*column, *row)]
    return [whole]


def _on(plane: Any, source: Dataset) -> Dataset:
    """A header whose directions differ in the last digits only; highdicom wants them equal."""
    found = copy.deepcopy(source)
    found.ImageOrientationPatient = plane
    return found


def _refer_to(document: Dataset, sop_class_uid: str) -> None:
    """Say of which SOP class the one source object is."""
    items = [
        instance
        for series in document.ReferencedSeriesSequence
        for instance in series.ReferencedInstanceSequence
    ]
    items += [
        source
        for frame in document.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence", ())
        for source in derivation.SourceImageSequence
    ]
    for item in items:
        item.ReferencedSOPClassUID = sop_class_uid


def _made(source: Dataset) -> datetime:
    """When the images were made, by the clock of their header."""
    for prefix in ("Series", "Study"):
        try:
            date = DA(source.get(f"{prefix}Date"))
            time = TM(source.get(f"{prefix}Time"))
        except ValueError:
            continue
        if date is not None:
            clock = UNDATED.time() if time is None else time.replace(microsecond=0)
            zone = local_time(UNDATED, source).tzinfo
            return datetime.combine(date, clock, tzinfo=zone)
    return UNDATED


def _fix_dimension_uid(document: Dataset, uid: str) -> None:
    """Dimension Organization UID (0020,9164), which highdicom makes up, as one of the key."""
    for item in (*document.DimensionOrganizationSequence, *document.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
