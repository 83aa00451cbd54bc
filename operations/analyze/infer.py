"""Steps 7 and 8 of a study's way: gates and inference of one job's images."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.dicom.seg import Segmentation, read_segmentation
from fhir_ext.errors import (
    FhirExtError,
    ParkedWork,
    RefusedInput,
    SettingsError,
    UpstreamError,
)
from fhir_ext.results import Refusal, SeriesSource, ServiceResult
from fhir_ext.settings import LimitSettings
from models.registry import NotInstalledError, Registry
from models.review import review_of
from models.runtime.budget import PixelBudget
from models.said import all_withheld
from models.service import ModelInput, ServiceOutput
from operations.analyze.facts import facts
from operations.analyze.fetch import (
    FetchedObjects,
    FetchedSeries,
    fetch_objects,
    fetch_series,
    unusable,
)
from operations.analyze.keys import work_key
from operations.analyze.outputs import complete
from operations.analyze.pixel_bytes import image_bytes, room_for
from operations.analyze.plan import SeriesJob, SeriesRef, VersionRef
from operations.analyze.single_images import READABLE, SingleImage, of_images, reader_of
from operations.analyze.store_dicom import store_masks


@dataclass(frozen=True, slots=True)
class VersionFailure:
    """A version that gave nothing that may be used; the others' results stand.

    Attributes:
        code, message: of the ModelFailure; no patient data.
        again: a server was down or slow, so that the same may succeed later.
    """

    service: str
    version: str
    role: Literal["active", "canary", "shadow"]
    code: str
    message: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """Results of every version that looked at one job's images.

    Attributes:
        results: one for each version that writes into the record.
        shadows: one for each version that does not.
        rejected: reason code to number of instances that no input holds.
        seconds: `fetch` and `infer` wall time.
        latency: wall time (s) of each version, by inference key.
        failures: versions that gave nothing that may be used.
        facts: what is known of the images; see `operations.analyze.facts`.
    """

    series_instance_uid: str
    results: tuple[ServiceResult, ...]
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    shadows: tuple[ServiceResult, ...] = ()
    latency: dict[str, float] = field(default_factory=dict)
    failures: tuple[VersionFailure, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the versions of a job see, and what that is made of.

    Attributes:
        given: the images; None when nothing of the main series can be used.
        main_uids, further_uids: every SOP Instance UID that the archive holds of them.
        used_uids: instances in the volume.
        frame_of_reference_uid: of the volume.
        refusal: why `given` is None.
        rejected: reason code to number of instances.
    """

    given: ModelInput | None
    main_uids: tuple[str, ...]
    further_uids: tuple[str, ...]
    used_uids: tuple[str, ...] = ()
    frame_of_reference_uid: str = ""
    refusal: Refusal | None = None
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Fetches images once and shows them to every version that wants them.

    Attributes:
        budget: how many bytes of images all studies of a worker may hold; None: any number.
    """

    archive: DicomWebClient
    registry: Registry
    limits: LimitSettings
    budget: PixelBudget | None = None

    def analyze(
        self, study_instance_uid: str, job: SeriesJob, *, urgent: bool = False
    ) -> SeriesOutcome:
        """Fetch, gate and infer the images of one job.

        What may not be used is a refused result, not an error; a model that fails, or whose
        server does not answer, takes no other's result away.

        Raises:
            UpstreamError: the archive is down, or delivered too little.
        """
        with room_for(self.budget, job, urgent) as hold:
            begin = time.perf_counter()
            shown = self._shown(study_instance_uid, job, urgent)
            if hold is not None:
                hold.correct(image_bytes(shown.given))
            return self._inferred(study_instance_uid, job, shown, begin)

    def _inferred(
        self, study_instance_uid: str, job: SeriesJob, shown: _Shown, begin: float
    ) -> SeriesOutcome:
        fetched = time.perf_counter()
        written: list[ServiceResult] = []
        shadows: list[ServiceResult] = []
        latency: dict[str, float] = {}
        failures: list[VersionFailure] = []
        for version in job.versions:
            start = time.perf_counter()
            try:
                output = self._said(version, shown)
            except (ParkedWork, NotInstalledError, SettingsError, UpstreamError) as failure:
                failures.append(_failure(version, failure))
                continue
            try:
                result = self._result(study_instance_uid, job, version, shown, output)
            except ParkedWork as failure:
                failures.append(_failure(version, failure))
                continue
            (shadows if version.role == "shadow" else written).append(result)
            latency[result.inference_key] = time.perf_counter() - start
        return SeriesOutcome(
            job.series_instance_uid,
            tuple(written),
            shown.rejected,
            {"fetch": fetched - begin, "infer": time.perf_counter() - fetched},
            tuple(shadows),
            latency,
            tuple(failures),
            facts(shown.given),
        )

    def _shown(self, study_instance_uid: str, job: SeriesJob, urgent: bool) -> _Shown:
        show = self._images if job.whole_study else self._stack
        return show(study_instance_uid, job, urgent)

    def _stack(self, study_instance_uid: str, job: SeriesJob, urgent: bool) -> _Shown:
        try:
            stack = fetch_series(
                self.archive,
                self.limits,
                study_instance_uid,
                job.series_instance_uid,
                job.instance_count,
            )
        except RefusedInput as refused:
            stack = self._unusable(study_instance_uid, job, refused.code)
        segments: FetchedObjects[Segmentation] = fetch_objects(
            self.archive, self.limits, study_instance_uid, job.further, read_segmentation
        )
        if stack.volume is None:
            return _Shown(
                None,
                stack.listed_uids,
                segments.listed_uids,
                refusal=unusable(stack.rejected, "a readable stack of slices"),
                rejected=stack.rejected,
            )
        given = ModelInput(
            stack.volume,
            segmentations=segments.objects,
            study=study_instance_uid,
            urgent=urgent,
        )
        return _Shown(
            given,
            stack.listed_uids,
            segments.listed_uids,
            tuple(sorted(set(stack.volume.sop_instance_uids))),
            stack.volume.geometry.frame_of_reference_uid,
            rejected=dict(Counter(stack.rejected) + Counter(segments.rejected)),
        )

    def _images(self, study_instance_uid: str, job: SeriesJob, urgent: bool) -> _Shown:
        """All images of a kind that the study has."""
        first = SeriesRef(job.series_instance_uid, job.instance_count)
        found: FetchedObjects[SingleImage] = fetch_objects(
            self.archive,
            self.limits,
            study_instance_uid,
            (first, *job.further),
            reader_of(job.kind),
        )
        given = replace(of_images(found.objects), study=study_instance_uid, urgent=urgent)
        if given.mammograms or given.radiographs:
            return _Shown(given, found.listed_uids, (), rejected=found.rejected)
        refusal = unusable(found.rejected, READABLE[job.kind])
        return _Shown(None, found.listed_uids, (), refusal=refusal, rejected=found.rejected)

    def _unusable(self, study_instance_uid: str, job: SeriesJob, code: str) -> FetchedSeries:
        """A series refused before its instances were read; they are named by QIDO."""
        listed = self.archive.list_instances(study_instance_uid, job.series_instance_uid)
        uids = tuple(sorted(instance.sop_instance_uid for instance in listed))
        return FetchedSeries(None, 0, uids, {code: max(1, len(uids))})

    def _said(self, version: VersionRef, shown: _Shown) -> ServiceOutput:
        """What a version says; an UpstreamError is one of its own server."""
        manifest = self.registry.manifest(version.service, version.version)
        if shown.given is None:
            assert shown.refusal is not None
            return complete(manifest, all_withheld(manifest, shown.refusal))
        output = self.registry.load(version.service, version.version).run(shown.given)
        return complete(manifest, output)

    def _result(
        self,
        study_instance_uid: str,
        job: SeriesJob,
        version: VersionRef,
        shown: _Shown,
        output: ServiceOutput,
    ) -> ServiceResult:
        """The result of what was said; its masks are in the archive then."""
        manifest = self.registry.manifest(version.service, version.version)
        key = work_key(study_instance_uid, job, manifest, shown.main_uids, shown.further_uids)
        volume = shown.given.volume if shown.given is not None else None
        segments = None
        if volume is not None and version.role != "shadow":
            segments = store_masks(self.archive, manifest, key, output.masks, volume)
        main = output.main or SeriesSource(job.series_instance_uid, shown.used_uids)
        return ServiceResult(
            service=version.service,
            model=manifest.identity(),
            inference_key=key,
            study_instance_uid=study_instance_uid,
            series_instance_uid=main.series_instance_uid,
            sop_instance_uids=main.sop_instance_uids,
            status="done" if output.stands else "refused",
            measurements=output.measurements,
            risks=output.risks,
            issues=output.issues,
            classifications=output.classifications,
            detections=output.detections,
            further=output.further,
            notes=output.notes,
            frame_of_reference_uid=shown.frame_of_reference_uid if output.detections else "",
            seg_instance_uid=segments.sop_instance_uid if segments else None,
            seg_series_instance_uid=segments.series_instance_uid if segments else None,
            whole_study=job.whole_study,
            review=review_of(manifest, output),
        )


def _failure(version: VersionRef, failure: FhirExtError) -> VersionFailure:
    return VersionFailure(
        version.service,
        version.version,
        version.role,
        failure.code,
        failure.message,
        again=isinstance(failure, UpstreamError),
    )
