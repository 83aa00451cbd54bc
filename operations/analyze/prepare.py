"""Steps 4 and 5 of a study's way: read the study again, wait for all of it, make the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from fhir_ext.clients.dicomweb import DicomWebClient, SeriesInfo
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import NotFoundError, ParkedWork, SettingsError
from fhir_ext.resources.ids import result_id
from fhir_ext.resources.imaging_study import study_instance_uid_of
from models.lifecycle import Assignment, VersionState, assign
from models.registry import NotInstalledError, Registry
from operations.analyze.keys import work_key
from operations.analyze.narrow import Narrower
from operations.analyze.plan import NotApplied, SeriesJob, make_plan
from operations.analyze.rules import Rules
from operations.analyze.withdrawn import why_withdrawn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the worker decided about one study.

    Attributes:
        kind: `work` to do; `incomplete`: come back later; `nothing` to do, for `reason`.
        reason: code; set unless `kind` is `work`.
        detail: counts for an operator; no patient data.
        imaging_study_id: id in HAPI.
        version: the version that was read, which may be newer than the notice's.
        study_instance_uid: DICOM Study Instance UID; empty when the resource has none.
        patient_reference: ImagingStudy.subject.reference.
        started: ImagingStudy.started, empty when it is not known.
        jobs: series to fetch and the services to show them to.
        not_applied: services that do not look at a series, with reasons.
        already: (series, service) pairs whose results stand in HAPI.
        has_earlier: whether earlier results of this study exist in HAPI.
        urgent: the request behind the study is urgent, asap or stat.
    """

    kind: Literal["work", "incomplete", "nothing"]
    imaging_study_id: str
    version: str = ""
    study_instance_uid: str = ""
    patient_reference: str = ""
    started: str = ""
    reason: str = ""
    detail: str = ""
    jobs: tuple[SeriesJob, ...] = ()
    not_applied: tuple[NotApplied, ...] = ()
    already: tuple[tuple[str, str], ...] = ()
    has_earlier: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Preparer:
    """Reads HAPI and the archive, and plans. Changes nothing.

    Attributes:
        states: where the installed versions stand at this moment.
    """

    fhir: FhirClient
    archive: DicomWebClient
    registry: Registry
    rules: Rules
    states: Callable[[], Iterable[VersionState]]

    def prepare(self, imaging_study_id: str) -> Prepared:
        """Decide what to do about the newest version of an ImagingStudy.

        Raises:
            UpstreamError: HAPI or the archive is down.
            ParkedWork: the resource names no study, or a patient that does not exist.
        """
        nothing = Prepared("nothing", imaging_study_id)
        study = self.fhir.find("ImagingStudy", imaging_study_id)
        if study is None:
            return replace(nothing, reason="resource-gone")
        version = str(study["meta"]["versionId"])
        if study.get("status") != "available":
            return replace(nothing, version=version, reason="not-available")
        uid = study_instance_uid_of(study)
        if uid is None:
            raise ParkedWork("the ImagingStudy names no Study Instance UID", code="no-study-uid")
        subject = study.get("subject", {}).get("reference", "")
        base = Prepared(
            "work",
            imaging_study_id,
            version=version,
            study_instance_uid=uid,
            patient_reference=subject,
            started=str(study.get("started", "")),
        )
        kind, _, patient_id = subject.rpartition("/")
        patient = self.fhir.find("Patient", patient_id) if kind == "Patient" else None
        if patient is None:
            raise ParkedWork("the ImagingStudy's patient does not exist", code="unknown-patient")
        if (difference := _difference(study, self._series(uid))) is not None:
            reason, detail = difference
            return replace(base, kind="incomplete", reason=reason, detail=detail)
        assigned = self._usable(assign(self.states(), uid))
        manifests = (
            self.registry.manifest(service, (assignment.writes or assignment.shadows[0]))
            for service, assignment in sorted(assigned.items())
            if assignment.writes or assignment.shadows
        )
        plan = make_plan(
            self.rules.completed(manifests),
            study,
            birth_date=patient.get("birthDate"),
            programs=self._programs(patient_id),
            assigned=assigned,
            images=lambda service, version: self.registry.manifest(service, version).inputs.images,
        )
        withdrawn = partial(why_withdrawn, self.fhir, study["id"])
        plan = Narrower(self.archive, self.registry, uid, withdrawn).narrow(plan, study)
        base = replace(base, jobs=plan.jobs, not_applied=plan.not_applied)
        return self._without_finished(replace(base, urgent=self._urgent(study)))

    def _usable(self, assigned: Mapping[str, Assignment]) -> dict[str, Assignment]:
        """Without versions whose folder is gone or cannot be read any more."""

        def readable(service: str, version: str) -> bool:
            try:
                self.registry.manifest(service, version)
            except (NotInstalledError, SettingsError):
                return False
            return True

        usable = {}
        for service, item in assigned.items():
            if item.writes is not None and not readable(service, item.writes):
                # Named as not installed, for each series that it would have seen.
                continue
            shadows = tuple(version for version in item.shadows if readable(service, version))
            usable[service] = replace(item, shadows=shadows)
        return usable

    def _urgent(self, study: Json) -> bool:
        """Whether a ServiceRequest behind the study says so (ImagingStudy.basedOn)."""
        for item in study.get("basedOn", []):
            kind, _, request_id = item.get("reference", "").rpartition("/")
            request = self.fhir.find(kind, request_id) if kind == "ServiceRequest" else None
            if request is not None and request.get("priority") in ("urgent", "asap", "stat"):
                return True
        return False

    def _series(self, study_instance_uid: str) -> Sequence[SeriesInfo]:
        try:
            return self.archive.list_series(study_instance_uid)
        except NotFoundError:
            return ()

    def _programs(self, patient_id: str) -> frozenset[str]:
        if not self.rules.programs:
            return frozenset()
        groups = self.fhir.search("Group", {"member": f"Patient/{patient_id}", "_elements": "id"})
        return frozenset(group["id"] for group in groups)

    def _without_finished(self, prepared: Prepared) -> Prepared:
        """Drop what is already written: the same instances under the same model version.

        Only a study with earlier results costs the instance query.
        """
        earlier = self.fhir.search(
            "Provenance",
            {"entity": f"ImagingStudy/{prepared.imaging_study_id}", "_elements": "id"},
            limit=1,
        )
        if not earlier:
            return (
                prepared if prepared.jobs else replace(prepared, kind="nothing", reason="no-rule")
            )
        jobs, already = [], []
        for job in prepared.jobs:
            main, further = self._listed(prepared.study_instance_uid, job)
            left = []
            for version in job.versions:
                manifest = self.registry.manifest(version.service, version.version)
                key = work_key(prepared.study_instance_uid, job, manifest, main, further)
                # What shadows said stands nowhere in HAPI; to run them again is harmless.
                writes = version.role != "shadow"
                if writes and self.fhir.find("Provenance", result_id(key, "provenance")):
                    already.append((job.series_instance_uid, version.service))
                else:
                    left.append(version)
            if any(version.role != "shadow" for version in left):
                jobs.append(replace(job, versions=tuple(left)))
        kind: Literal["work", "nothing"] = "work" if jobs else "nothing"
        reason = "" if jobs else "already-written" if already else "no-rule"
        return replace(
            prepared,
            kind=kind,
            reason=reason,
            jobs=tuple(jobs),
            already=tuple(already),
            has_earlier=True,
        )

    def _listed(self, study_instance_uid: str, job: SeriesJob) -> tuple[set[str], set[str]]:
        """SOP Instance UIDs of a job's series, and of those that are read beside it."""

        def uids(series_instance_uid: str) -> set[str]:
            listed = self.archive.list_instances(study_instance_uid, series_instance_uid)
            return {instance.sop_instance_uid for instance in listed}

        further: set[str] = set()
        for series in job.further:
            further |= uids(series.series_instance_uid)
        return uids(job.series_instance_uid), further


def _difference(study: Json, archive: Sequence[SeriesInfo]) -> tuple[str, str] | None:
    """Why the archive does not hold what the ImagingStudy says; None when it does.

    Only counts of the series that the resource names are compared: results that we or
    others store later as further series do not make a study incomplete.
    """
    held = {series.series_instance_uid: series.instance_count for series in archive}
    if not held:
        return "not-in-archive", "the archive has no such study"
    for series in study.get("series", []):
        wanted, found = int(series.get("numberOfInstances", 0)), held.get(series["uid"], 0)
        if wanted and found != wanted:
            return "incomplete-study", f"a series has {found} of {wanted} instances"
    return None
