"""Step 10 of a study's way: results as one FHIR transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.bundle import merge_bundles, result_bundle
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

    def write(self, prepared: Prepared, results: Sequence[ServiceResult], issued: datetime) -> None:
        """One transaction for all given results of a study.

        Args:
            issued: the instant of the results; stored with the work, so that a repeat
                writes the same bytes.

        Raises:
            UpstreamError: HAPI is down.
            UnprocessableError: HAPI refuses a resource.
        """
        if not results:
            return
        conditions = self._known_conditions(prepared, results)
        earlier = self._earlier(prepared, results) if prepared.has_earlier else []
        bundles = [
            result_bundle(
                result,
                WriteContext(
                    patient_reference=prepared.patient_reference,
                    imaging_study_id=prepared.imaging_study_id,
                    imaging_study_version=prepared.version,
                    issued=issued,
                    known_conditions=conditions,
                    superseded=tuple(
                        resource
                        for panel, resources in earlier
                        for resource in resources
                        if _same_subject(panel, result)
                    ),
                    sr_instance_uid=(
                        dicom_uid(result.inference_key, "sr") if result.sop_instance_uids else None
                    ),
                ),
            )
            for result in results
        ]
        self.fhir.transaction(merge_bundles(bundles))
