"""The archive bridge: what changes in the archive becomes `PUT ImagingStudy/{uuid5(uid)}`.

The change feed only marks studies; a stored quiet timer per study decides when it is
announced. Nothing depends on a notice that could be lost: cursor, marks and timers are in
our database, and at start every study is compared with what was bridged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Self

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient, SeriesInfo
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.clients.orthanc import OrthancChanges
from fhir_ext.errors import FhirExtError, NotFoundError, UpstreamError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.codes import MANUFACTURER
from fhir_ext.resources.ids import imaging_study_id
from fhir_ext.resources.imaging_study import ArchiveSeries, build_imaging_study, study_from_header
from fhir_ext.settings import BridgeSettings, LimitSettings, Settings
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ArchiveStudy
from subscriptions.intake.feeds import ChangeFeed, OrthancFeed, QidoFeed
from subscriptions.intake.patients import link_patient

log = get_logger(__name__)

#: Modalities whose series may be our own results; only these are looked into. Segmentations of
#: ours are announced like those of others: services measure in them.
RESULT_MODALITIES = frozenset({"SR", "KO"})

#: How often an unmatched study looks for its patient again.
UNMATCHED_RETRY = timedelta(seconds=30)


@dataclass(slots=True)
class ArchiveBridge:
    """Turns archive studies into ImagingStudy resources."""

    settings: BridgeSettings
    limits: LimitSettings
    fhir: FhirClient
    archive: DicomWebClient
    repository: Repository
    feed: ChangeFeed
    _compared: bool = False
    _own_series: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        settings: Settings,
        fhir: FhirClient,
        archive: DicomWebClient,
        repository: Repository,
    ) -> Self:
        feed: ChangeFeed
        if settings.archive.orthanc_url:
            feed = OrthancFeed(OrthancChanges(settings.archive), repository)
        else:
            feed = QidoFeed(archive, repository)
        return cls(settings.bridge, settings.limits, fhir, archive, repository, feed)

    def poll(self) -> None:
        """One round: hear of changes, then announce what has been quiet long enough.

        Raises:
            UpstreamError: the archive or HAPI is down; the next round goes on from there.
        """
        if not self._compared:
            for uid in self.feed.compare_all():
                self.repository.mark_study_changed(uid)
            self._compared = True
        for uid in self.feed.changed():
            self.repository.mark_study_changed(uid)
        quiet = now() - self.settings.quiet_period
        for study in self.repository.archive_studies("settling"):
            if study.changed_at <= quiet:
                self._announce(study)
        for study in self.repository.archive_studies("unmatched"):
            if study.bridged_at is None or study.bridged_at <= now() - UNMATCHED_RETRY:
                self._announce(study)

    def reconcile(self, since: date) -> int:
        """Mark every study of the archive since a study date, for a back-load.

        Returns:
            How many studies were marked.
        """
        count = 0
        for study in self.archive.search_studies(since, now().date() + timedelta(days=1)):
            self.repository.mark_study_changed(study.study_instance_uid)
            count += 1
        return count

    def _announce(self, study: ArchiveStudy) -> None:
        try:
            state, reason, count = self._bridge(study)
        except UpstreamError:
            raise
        except FhirExtError as error:
            # One study that cannot be read must not hold up the others.
            state, reason, count = "failed", error.code, study.instances
        settled = self.repository.settle_archive_study(
            study.study_instance_uid,
            study.changed_at,
            state=state,
            reason=reason,
            instances=count,
            bridged_at=now(),
        )
        if settled and (state != study.state or reason != study.reason):
            event(log, "study-announced", state=state, reason=reason or "none")

    def _bridge(self, study: ArchiveStudy) -> tuple[str, str | None, int]:
        """(state, reason, instances) after trying to write the ImagingStudy."""
        uid = study.study_instance_uid
        try:
            series = self._foreign_series(uid)
        except NotFoundError:
            return "ignored", "not-in-archive", 0
        count = sum(item.instance_count for item in series)
        if not series:
            return "ignored", "no-images", 0
        if len(series) > self.limits.series_per_study:
            return "failed", "too-large", count
        header = self._header(uid, series[0])
        existing = self.fhir.find("ImagingStudy", imaging_study_id(uid))
        subject = (existing or {}).get("subject", {}).get("reference")
        if study.patient_id:
            subject = f"Patient/{study.patient_id}"
        if not subject:
            link = link_patient(self.fhir, header, self.settings)
            if link.patient_id is None:
                return "unmatched", link.reason, count
            subject = f"Patient/{link.patient_id}"
        resource = build_imaging_study(
            study_from_header(uid, header, [_as_archive_series(item) for item in series]),
            patient_reference=subject,
            existing=existing,
        )
        if resource != existing:
            self.fhir.put(resource)
        return "bridged", None, count

    def _foreign_series(self, study_instance_uid: str) -> Sequence[SeriesInfo]:
        """All series but the documents we wrote: they hold results and nothing to work on."""
        return [
            series
            for series in self.archive.list_series(study_instance_uid)
            if not self._is_own(study_instance_uid, series)
        ]

    def _is_own(self, study_instance_uid: str, series: SeriesInfo) -> bool:
        if series.modality not in RESULT_MODALITIES:
            return False
        known = self._own_series.get(series.series_instance_uid)
        if known is None:
            header = self._header(study_instance_uid, series)
            known = str(header.get("Manufacturer", "")) == MANUFACTURER
            self._own_series[series.series_instance_uid] = known
        return known

    def _header(self, study_instance_uid: str, series: SeriesInfo) -> Dataset:
        instances = self.archive.list_instances(study_instance_uid, series.series_instance_uid)
        if not instances:
            raise NotFoundError("a listed series has no instances", code="no-slices")
        return self.archive.instance_metadata(
            study_instance_uid, series.series_instance_uid, instances[0].sop_instance_uid
        )


def _as_archive_series(series: SeriesInfo) -> ArchiveSeries:
    return ArchiveSeries(
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        number=series.number,
        description=series.description,
        instance_count=series.instance_count,
        body_part=series.body_part,
    )
