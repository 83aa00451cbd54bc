"""The operation service that everything turns on: prepare, analyze, publish, park."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import ParkedWork, UnprocessableError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.ids import parked_task_id
from fhir_ext.resources.task import parked_task
from fhir_ext.results import ServiceResult
from fhir_ext.settings import LimitSettings
from models.lifecycle import VersionState
from models.registry import Registry
from models.runtime.budget import PixelBudget
from operations.analyze.infer import Analyzer, SeriesOutcome
from operations.analyze.plan import SeriesJob
from operations.analyze.prepare import Prepared, Preparer
from operations.analyze.rules import Rules
from operations.analyze.store_dicom import sr_is_stored, store_sr
from operations.analyze.withdrawn import drawn_by_recalled
from operations.analyze.write_fhir import ResultWriter

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AnalyzeService:
    """Steps 4 to 10 of a study's way as idempotent calls; knows nothing of queues."""

    preparer: Preparer
    analyzer: Analyzer
    writer: ResultWriter
    fhir: FhirClient
    archive: DicomWebClient

    @classmethod
    def build(
        cls,
        fhir: FhirClient,
        archive: DicomWebClient,
        registry: Registry,
        rules: Rules,
        limits: LimitSettings,
        states: Callable[[], Iterable[VersionState]],
        budget: PixelBudget | None = None,
    ) -> Self:
        """From the parts of one installation.

        Args:
            states: where the installed model versions stand at this moment.
            budget: how many bytes of images all studies together may hold.
        """
        return cls(
            Preparer(fhir, archive, registry, rules, states),
            Analyzer(archive, registry, limits, budget),
            ResultWriter(fhir),
            fhir,
            archive,
        )

    def prepare(self, imaging_study_id: str) -> Prepared:
        """Read the study again, check that all of it is there, and plan."""
        return self.preparer.prepare(imaging_study_id)

    def analyze(
        self, study_instance_uid: str, job: SeriesJob, *, urgent: bool = False
    ) -> SeriesOutcome:
        """Fetch, gate and infer one job's images."""
        return self.analyzer.analyze(study_instance_uid, job, urgent=urgent)

    def publish(
        self,
        prepared: Prepared,
        results: Sequence[ServiceResult],
        issued: datetime,
        trace_id: str | None = None,
    ) -> dict[str, dict[str, float]]:
        """Store the SRs and write the FHIR transaction, side by side.

        The transaction names the SRs by UIDs that are known before they exist, so neither
        waits for the other; a repeat of either changes nothing.

        Returns:
            `seconds`: wall time of `store-dicom` and `write-fhir`.

        Raises:
            ParkedWork: a version was recalled while it worked, or one that drew what was
                measured; the other results are written.
        """
        begin = time.perf_counter()
        asked, results = results, self._standing(prepared, self.writer.writable(results))
        fresh = self.writer.unwritten(results)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="stow") as pool:
            stowing = pool.submit(self._store, results, frozenset(fresh), issued)
            self.writer.write(prepared, fresh, issued, trace_id)
            written = time.perf_counter() - begin
            seconds = {"store-dicom": stowing.result(), "write-fhir": written}
        if len(results) < len(asked):
            text = "a model version was recalled while it worked on this study"
            raise ParkedWork(text, code="model-recalled")
        return {"seconds": seconds}

    def _standing(
        self, prepared: Prepared, results: Sequence[ServiceResult]
    ) -> tuple[ServiceResult, ...]:
        """Without what was measured in a SEG whose model version was recalled meanwhile."""
        # Beside a stack only SEG are read; beside images of a whole study mostly more images.
        drawn_on = any(job.kind == "segmented-radiographs" for job in prepared.jobs)
        return tuple(
            result
            for result in results
            if (result.whole_study and not drawn_on)
            or not any(drawn_by_recalled(self.fhir, header) for header in self._further(result))
        )

    def _further(self, result: ServiceResult) -> Iterator[Dataset]:
        """One header of each series that a result rests on beside its own."""
        for source in result.further:
            if source.sop_instance_uids:
                yield self.archive.instance_metadata(
                    result.study_instance_uid,
                    source.series_instance_uid,
                    source.sop_instance_uids[0],
                )

    def _store(
        self,
        results: Sequence[ServiceResult],
        fresh: frozenset[ServiceResult],
        issued: datetime,
    ) -> float:
        """Store the SR of every result; one that stands in HAPI may be in the archive too."""
        begin = time.perf_counter()
        for result in results:
            if result in fresh or not sr_is_stored(self.archive, result):
                store_sr(self.archive, result, issued)
        return time.perf_counter() - begin

    def write_parked_task(self, imaging_study_id: str, step: str, code: str, text: str) -> None:
        """Make a study that cannot go on visible as a Task.

        A Task that HAPI itself refuses is only logged: the run's row shows the study too.

        Raises:
            UpstreamError: HAPI is down.
        """
        study = self.fhir.find("ImagingStudy", imaging_study_id)
        task = parked_task(
            imaging_study_id,
            patient_reference=(study or {}).get("subject", {}).get("reference"),
            step=step,
            code=code,
            text=text,
            authored=datetime.now(UTC),
        )
        try:
            self.fhir.put(task)
        except UnprocessableError as error:
            event(log, "task-refused", code=error.code)

    def close_parked_task(self, imaging_study_id: str) -> None:
        """Complete the Task of a study that went on after all."""
        task = self.fhir.find("Task", parked_task_id(imaging_study_id))
        if task is not None and task.get("status") != "completed":
            self.fhir.put({**task, "status": "completed"})
