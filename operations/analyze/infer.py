"""Steps 7 and 8 of a study's way: gates and inference of one series."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.errors import RefusedInput
from fhir_ext.resources.ids import inference_key
from fhir_ext.results import Issue, Measurement, Refusal, Risk, ServiceResult
from fhir_ext.settings import LimitSettings
from models.manifest import Manifest
from models.registry import Registry
from operations.analyze.fetch import FetchedSeries, fetch_series
from operations.analyze.plan import SeriesJob


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """Results of every service that looked at one series.

    Attributes:
        results: one per service.
        rejected: reason code to number of instances that no volume holds.
        seconds: `fetch` and `infer` wall time.
    """

    series_instance_uid: str
    results: tuple[ServiceResult, ...]
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Fetches a series once and shows it to its services."""

    archive: DicomWebClient
    registry: Registry
    limits: LimitSettings

    def analyze(self, study_instance_uid: str, job: SeriesJob) -> SeriesOutcome:
        """Fetch, gate and infer one series.

        What may not be used is a refused result, not an error.

        Raises:
            UpstreamError: the archive is down or delivered too little.
        """
        begin = time.perf_counter()
        try:
            fetched = fetch_series(
                self.archive,
                self.limits,
                study_instance_uid,
                job.series_instance_uid,
                job.instance_count,
            )
        except RefusedInput as refused:
            fetched = self._unusable(study_instance_uid, job, refused.code)
        middle = time.perf_counter()
        results = tuple(
            self._run(study_instance_uid, job.series_instance_uid, service, fetched)
            for service in job.services
        )
        end = time.perf_counter()
        return SeriesOutcome(
            job.series_instance_uid,
            results,
            fetched.rejected,
            {"fetch": middle - begin, "infer": end - middle},
        )

    def _unusable(self, study_instance_uid: str, job: SeriesJob, code: str) -> FetchedSeries:
        """A series refused before its instances were read; they are named by QIDO."""
        listed = self.archive.list_instances(study_instance_uid, job.series_instance_uid)
        uids = tuple(sorted(instance.sop_instance_uid for instance in listed))
        return FetchedSeries(None, 0, uids, {code: max(1, len(uids))})

    def _run(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        service: str,
        fetched: FetchedSeries,
    ) -> ServiceResult:
        manifest = self.registry.manifest(service)
        key = inference_key(
            study_instance_uid, series_instance_uid, fetched.listed_uids, manifest.identity()
        )
        measurements: tuple[Measurement, ...]
        risks: tuple[Risk, ...] = ()
        issues: tuple[Issue, ...] = ()
        used: tuple[str, ...] = ()
        if fetched.volume is None:
            measurements = _all_refused(manifest, fetched)
        else:
            output = self.registry.load(service).run(fetched.volume)
            measurements, risks, issues = output.measurements, output.risks, output.issues
            used = tuple(sorted(set(fetched.volume.sop_instance_uids)))
        stands = any(item.value is not None for item in measurements)
        return ServiceResult(
            service=service,
            model=manifest.identity(),
            inference_key=key,
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            sop_instance_uids=used,
            status="done" if stands else "refused",
            measurements=measurements,
            risks=risks,
            issues=issues,
        )


def _all_refused(manifest: Manifest, fetched: FetchedSeries) -> tuple[Measurement, ...]:
    count = sum(fetched.rejected.values())
    refusal = Refusal(
        rule=fetched.main_rejection,
        seen=f"{count} unusable instances",
        needed="a readable stack of slices",
    )
    return tuple(
        Measurement(output.name, output.region, output.unit, refusal=refusal)
        for output in manifest.measurements
    )
