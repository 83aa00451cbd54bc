"""Step 10 of a study's way: results as one FHIR transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.bundle import merge_bundles, result_bundle
from fhir_ext.resources.ids import result_id
from fhir_ext.results import ServiceResult
from operations.analyze.prepare import Prepared

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes results of one study."""

    fhir: FhirClient

    def write(
        self,
        prepared: Prepared,
        results: Sequence[ServiceResult],
        issued: datetime,
        sr_uids: Mapping[str, str | None],
    ) -> None:
        """One transaction for all results of a study that are not written yet.

        What already stands is left as it is: a human may have signed it in the meantime.

        Args:
            issued: the instant of the results; stored with the work, so that a repeat
                writes the same bytes.
            sr_uids: inference key to SOP Instance UID of the SR.

        Raises:
            UpstreamError: HAPI is down.
            UnprocessableError: HAPI refuses a resource.
        """
        new = [
            result
            for result in results
            if self.fhir.find("Provenance", result_id(result.inference_key, "provenance")) is None
        ]
        if not new:
            return
        earlier = self._earlier(prepared) if prepared.has_earlier else []
        bundles = [
            result_bundle(result, self._context(prepared, result, issued, sr_uids, earlier))
            for result in new
        ]
        self.fhir.transaction(merge_bundles(bundles))
