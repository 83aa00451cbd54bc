"""Step 9 of a study's way: results as DICOM SR, and masks as DICOM SEG, in the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.dataelem import DataElement

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import NotFoundError, ParkedWork, UpstreamError
from fhir_ext.resources.codes.naming import segment_codings
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import SeriesSource, ServiceResult
from models.manifest import Manifest
from models.manifest.outputs import Segmentation
from models.service import MaskOutput
from operations.analyze.outputs import stated

#: DICOM PS3.18 failure reasons after which the same request may succeed: out of resources
#: (A7xx) and processing failure (0110); everything else is final.
_RETRY = frozenset({0x0110, *range(0xA700, 0xA800)})


@dataclass(frozen=True, slots=True)
class SegReference:
    """A SEG of ours in the archive."""

    series_instance_uid: str
    sop_instance_uid: str


def store_sr(archive: DicomWebClient, result: ServiceResult, issued: datetime) -> str | None:
    """Build the SR of one result and store it; the same result gives the same object.

    Returns:
        SOP Instance UID of the SR; None when no source instance could be read, since an SR
        must refer to one.

    Raises:
        UpstreamError: the archive is down, or refused for a passing reason.
        ParkedWork: the archive refused the object for good.
    """
    if not result.sop_instance_uids:
        return None
    # highdicom takes about a second to import and only the worker needs it.
    from fhir_ext.dicom.sr import build_sr

    return store_object(archive, build_sr(result, source_headers(archive, result), issued))


def store_object(archive: DicomWebClient, document: Dataset) -> str:
    """Store one document of ours; one that is there already is a success.

    Returns:
        Its SOP Instance UID.

    Raises:
        UpstreamError, ParkedWork: like `store_sr`.
    """
    uid = str(document.SOPInstanceUID)
    report = archive.store([document])
    if uid in report.stored:
        return uid
    reason = report.failed.get(uid)
    if reason is None or reason in _RETRY:
        raise UpstreamError("the archive did not store a document", code="stow-failed")
    raise ParkedWork(
        f"the archive refuses a document (failure reason {reason:#06x})", code="stow-refused"
    )


def sr_is_stored(archive: DicomWebClient, result: ServiceResult) -> bool:
    """Whether the archive holds the SR of a result, or there is none to hold."""
    if not result.sop_instance_uids:
        return True
    wanted = dicom_uid(result.inference_key, "sr")
    series = dicom_uid(result.inference_key, "sr-series")
    try:
        listed = archive.list_instances(result.study_instance_uid, series)
    except NotFoundError:
        return False
    return any(instance.sop_instance_uid == wanted for instance in listed)


def source_headers(archive: DicomWebClient, result: ServiceResult) -> list[Dataset]:
    """The source instances as the SR refers to them, of the main series first.

    Patient and study modules are those of one header; instances of one series share its
    header but for their UID.

    Raises:
        NotFoundError: an instance is not in the archive any more.
        UpstreamError: the archive is down.
    """
    main = SeriesSource(result.series_instance_uid, result.sop_instance_uids)
    evidence = []
    for source in (main, *result.further):
        if not source.sop_instance_uids:
            continue
        header = archive.instance_metadata(
            result.study_instance_uid, source.series_instance_uid, source.sop_instance_uids[0]
        )
        for uid in source.sop_instance_uids:
            item = Dataset()
            item.update(header)
            # A plain assignment would change the element that all of them share.
            item["SOPInstanceUID"] = DataElement("SOPInstanceUID", "UI", uid)
            evidence.append(item)
    return evidence


def store_masks(
    archive: DicomWebClient,
    manifest: Manifest,
    inference_key: str,
    masks: Sequence[MaskOutput],
    volume: CTVolume,
) -> SegReference | None:
    """Build the SEG of the masks of one result and store it; a repeat stores the same object.

    Args:
        manifest: names and codes of the labels.
        inference_key: what the UIDs derive from.
        masks: on the grid of `volume`.

    Returns:
        None when no segment holds a voxel, or the images name no frame of reference, without
        which a segmentation lies nowhere.

    Raises:
        UpstreamError, ParkedWork: like `store_sr`.
    """
    if not (masks and volume.geometry.frame_of_reference_uid):
        return None
    from fhir_ext.dicom.seg_write import Segment, build_segmentation

    labels = {mask.name: mask.labels for mask in masks}
    segments = [
        Segment(
            label.name,
            segment_codings(manifest.id, output.name, label.name, stated(label.code)),
            output.region,
            labels[output.name],
            label.value,
        )
        for output in manifest.outputs
        if isinstance(output, Segmentation) and output.name in labels
        for label in output.labels
    ]
    document = build_segmentation(manifest.identity(), inference_key, volume, segments)
    if document is None:
        return None
    return SegReference(str(document.SeriesInstanceUID), store_object(archive, document))
