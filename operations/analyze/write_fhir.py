"""Step 10 of a study's way: results as one FHIR transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.bundle import merge_bundles, result_bundle
from fhir_ext.resources.codes import CONDITIONS, SERIES_INSTANCE_UID
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import dicom_uid, result_id
from fhir_ext.results import ServiceResult
from operations.analyze.prepare import Prepared

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes results of one study."""

    fhir: FhirClient

    def unwritten(self, results: Sequence[ServiceResult]) -> tuple[ServiceResult, ...]:
        """The results that do not stand in HAPI yet.

        What stands is left as it is: a human may have signed it in the meantime. A
        transaction writes everything or nothing, so the Provenance speaks for all of it.
        """
        return tuple(
            result
            for result in results
            if self.fhir.find("Provenance", result_id(result.inference_key, "provenance")) is None
        )

    def write(
        self,
        prepared: Prepared,
        results: Sequence[ServiceResult],
        issued: datetime,
        trace_id: str | None = None,
    ) -> None:
        """One transaction for all given results of a study.

        Args:
            issued: the instant of the results; stored with the work, so that a repeat
                writes the same bytes.
            trace_id: W3C trace id of the work.

        Raises:
            UpstreamError: HAPI is down.
            UnprocessableError: HAPI refuses a resource.
        """
        if not results:
            return
        conditions = self._known_conditions(prepared, results)
        earlier = self._earlier(prepared) if prepared.has_earlier else ()
        bundles = [
            result_bundle(
                result,
                WriteContext(
                    patient_reference=prepared.patient_reference,
                    imaging_study_id=prepared.imaging_study_id,
                    imaging_study_version=prepared.version,
                    started=prepared.started or None,
                    issued=issued,
                    known_conditions=conditions,
                    superseded=_superseded(result, earlier),
                    sr_instance_uid=(
                        dicom_uid(result.inference_key, "sr") if result.sop_instance_uids else None
                    ),
                    trace_id=trace_id,
                ),
            )
            for result in results
        ]
        self.fhir.transaction(merge_bundles(bundles))

    def _known_conditions(
        self, prepared: Prepared, results: Sequence[ServiceResult]
    ) -> frozenset[str]:
        """Keys of `CONDITIONS` on the problem list, of those that an issue asks about."""
        asked = {
            issue.known_condition
            for result in results
            for issue in result.issues
            if issue.known_condition is not None
        }
        known = set()
        for key in sorted(asked):
            codes = ",".join(f"{coding.system}|{coding.code}" for coding in CONDITIONS[key])
            found = self.fhir.search(
                "Condition", {"patient": prepared.patient_reference, "code": codes}
            )
            if any(_is_active(condition) for condition in found):
                known.add(key)
        return frozenset(known)

    def _earlier(self, prepared: Prepared) -> tuple[tuple[Json, ...], ...]:
        """Everything written about this study before, one group per Provenance."""
        reference = f"ImagingStudy/{prepared.imaging_study_id}"
        return tuple(
            tuple(self._targets(provenance))
            for provenance in self.fhir.search("Provenance", {"entity": reference})
        )

    def _targets(self, provenance: Json) -> Iterator[Json]:
        for target in provenance.get("target", []):
            kind, resource_id = target["reference"].split("/")[:2]
            resource = self.fhir.find(kind, resource_id)
            if resource is not None:
                yield resource


def _superseded(result: ServiceResult, earlier: Sequence[tuple[Json, ...]]) -> tuple[Json, ...]:
    """Earlier results of the same service on the same series."""
    return tuple(
        resource
        for group in earlier
        if any(_speaks_of(resource, result) for resource in group)
        for resource in group
    )


def _speaks_of(resource: Json, result: ServiceResult) -> bool:
    if resource["resourceType"] != "Observation" or "hasMember" not in resource:
        return False
    codes = {coding.get("code") for coding in resource["code"].get("coding", [])}
    series = {
        component.get("valueString")
        for component in resource.get("component", [])
        if any(
            coding.get("code") == SERIES_INSTANCE_UID.code
            for coding in component["code"].get("coding", [])
        )
    }
    return f"{result.service}-panel" in codes and result.series_instance_uid in series


def _is_active(condition: Json) -> bool:
    """Whether a Condition counts as known: neither refuted nor entered in error."""
    codings = condition.get("verificationStatus", {}).get("coding", [])
    return not any(coding.get("code") in ("refuted", "entered-in-error") for coding in codings)
