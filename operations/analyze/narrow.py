"""The second half of planning: what only the archive's headers and the manifests decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.resources.codes import BODY_PARTS
from models.manifest import Manifest
from models.manifest.selection import SeriesFacts, select
from models.registry import Registry
from operations.analyze.plan import (
    NO_SEGMENTATION,
    SEGMENTATION,
    SEGMENTATION_RECALLED,
    SEGMENTATION_REJECTED,
    NotApplied,
    Plan,
    SeriesJob,
    SeriesRef,
    VersionRef,
)

Json = dict[str, Any]

#: Preferences that need a header beyond what an ImagingStudy says.
_OF_HEADERS = frozenset({"thinnest", "thickest", "softest-kernel"})
#: Why a version that needs segments does not look at a series, and what was seen.
_SEEN = {
    NO_SEGMENTATION: "other images",
    SEGMENTATION_RECALLED: "drawn by a recalled version",
    SEGMENTATION_REJECTED: "rejected by a reviewer",
}
#: A body part of DICOM for each site that an ImagingStudy may name.
_PARTS = {coding.code: part for part, coding in reversed(tuple(BODY_PARTS.items()))}


@dataclass(slots=True)
class Narrower:
    """Narrows the jobs of one study; asks the archive for a header of a series at most once.

    Attributes:
        withdrawn: why a SEG, by its header, must not be used any more; None when it may.
    """

    archive: DicomWebClient
    registry: Registry
    study_instance_uid: str
    withdrawn: Callable[[Dataset], str | None]
    _headers: dict[str, Dataset] = field(default_factory=dict)

    def narrow(self, plan: Plan, imaging_study: Json) -> Plan:
        """Leave each version the series that its manifest prefers, and each stack the SEG
        objects of its own frame of reference.

        Raises:
            UpstreamError: the archive is down.
        """
        dropped: list[NotApplied] = []
        jobs = [*self._preferred(plan.jobs, imaging_study, dropped)]
        jobs = [*self._segmented(jobs, dropped)]
        return Plan(tuple(jobs), tuple(dict.fromkeys((*plan.not_applied, *dropped))))

    def _preferred(
        self, jobs: Sequence[SeriesJob], study: Json, dropped: list[NotApplied]
    ) -> Iterator[SeriesJob]:
        stacks = [job for job in jobs if not job.whole_study]
        described = {series["uid"]: series for series in study.get("series", [])}
        unwanted: set[tuple[str, VersionRef]] = set()
        for version in dict.fromkeys(version for job in stacks for version in job.versions):
            manifest = self._manifest(version)
            if manifest.inputs.series is None and not manifest.inputs.body_part:
                continue
            uids = [job.series_instance_uid for job in stacks if version in job.versions]
            facts = (self._facts(described[uid], manifest) for uid in uids)
            for item in select(manifest.inputs, facts).dropped:
                uid = item.series.series_instance_uid
                unwanted.add((uid, version))
                dropped.append(NotApplied(uid, version.service, item.reason, item.seen))
        for job in jobs:
            left = tuple(v for v in job.versions if (job.series_instance_uid, v) not in unwanted)
            if left:
                yield replace(job, versions=left)

    def _facts(self, series: Json, manifest: Manifest) -> SeriesFacts:
        chosen = manifest.inputs.series
        header = Dataset()
        if chosen is not None and _OF_HEADERS.intersection(chosen.prefer):
            header = self._header(series["uid"])
        return SeriesFacts(
            series["uid"],
            int(series.get("numberOfInstances", 0)),
            str(series.get("description", "")),
            _PARTS.get(series.get("bodySite", {}).get("code", "")),
            _thickness(header),
            _kernel(header),
            series.get("number"),
        )

    def _segmented(
        self, jobs: Iterable[SeriesJob], dropped: list[NotApplied]
    ) -> Iterator[SeriesJob]:
        for job in jobs:
            if job.kind == "segmented-radiographs":
                further, segments = self._of_the_images(job)
            elif job.whole_study or not job.further:
                yield job
                continue
            else:
                further = segments = self._in_the_frame(job)
            gone = {item: why for item in segments if (why := self._withdrawn(item))}
            kept = tuple(item for item in segments if item not in gone)
            needing = [version for version in job.versions if self._needs_segments(version)]
            lacking = {item.series_instance_uid: why for item, why in gone.items()}
            if not kept:
                lacking[job.series_instance_uid] = next(iter(gone.values()), NO_SEGMENTATION)
            dropped += [
                NotApplied(uid, version.service, why, _SEEN[why])
                for uid, why in lacking.items()
                for version in needing
            ]
            if left := tuple(v for v in job.versions if kept or v not in needing):
                further = tuple(item for item in further if item not in gone)
                yield replace(job, versions=left, further=further)

    def _in_the_frame(self, job: SeriesJob) -> tuple[SeriesRef, ...]:
        """The SEG series in the frame of reference of a stack."""
        place = self._frame_of_reference(job.series_instance_uid)
        return tuple(
            item
            for item in job.further
            if place and self._frame_of_reference(item.series_instance_uid) == place
        )

    def _of_the_images(self, job: SeriesJob) -> tuple[tuple[SeriesRef, ...], tuple[SeriesRef, ...]]:
        """What is read beside the first series of single images, and the SEG series therein.

        A SEG stays when it refers to one of the other series (Referenced Series Sequence).
        """
        headers = {item: self._header(item.series_instance_uid) for item in job.further}
        segments = {item for item in job.further if headers[item].get("Modality") == SEGMENTATION}
        images = {job.series_instance_uid}
        images |= {item.series_instance_uid for item in job.further if item not in segments}
        kept = tuple(
            item
            for item in job.further
            if item in segments and images.intersection(_referenced_series(headers[item]))
        )
        return tuple(item for item in job.further if item not in segments or item in kept), kept

    def _withdrawn(self, segmentation: SeriesRef) -> str | None:
        return self.withdrawn(self._header(segmentation.series_instance_uid))

    def _needs_segments(self, version: VersionRef) -> bool:
        return self._manifest(version).inputs.segmented

    def _manifest(self, version: VersionRef) -> Manifest:
        return self.registry.manifest(version.service, version.version)

    def _frame_of_reference(self, series_instance_uid: str) -> str:
        return str(self._header(series_instance_uid).get("FrameOfReferenceUID", ""))

    def _header(self, series_instance_uid: str) -> Dataset:
        """The header of one instance of a series."""
        if series_instance_uid not in self._headers:
            study = self.study_instance_uid
            listed = self.archive.list_instances(study, series_instance_uid)
            self._headers[series_instance_uid] = self.archive.instance_metadata(
                study, series_instance_uid, listed[0].sop_instance_uid
            )
        return self._headers[series_instance_uid]


def _referenced_series(header: Dataset) -> Iterator[str]:
    for item in header.get("ReferencedSeriesSequence") or ():
        yield str(item.get("SeriesInstanceUID", ""))


def _thickness(header: Dataset) -> float | None:
    value = header.get("SliceThickness")
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _kernel(header: Dataset) -> str | None:
    value = header.get("ConvolutionKernel")
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else "\\".join(str(part) for part in value)
