"""Step 10 of a study's way: results as one FHIR transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import CONFLICT_WAITS, FhirClient
from fhir_ext.errors import ConflictError, NotFoundError, UpstreamError
from fhir_ext.resources.bundle import (
    create_entry,
    create_only,
    merge_bundles,
    result_bundle,
    transaction,
)
from fhir_ext.resources.codes import SERIES_INSTANCE_UID
from fhir_ext.resources.codes.naming import service_in
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import dicom_uid, result_id
from fhir_ext.resources.reading import component_of, known_conditions
from fhir_ext.results import ServiceResult
from operations.analyze.prepare import Prepared
from operations.analyze.withdrawn import recalled

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

    def writable(self, results: Sequence[ServiceResult]) -> tuple[ServiceResult, ...]:
        """The results of versions that were not recalled while they were made."""
        gone = {m for m in {result.model for result in results} if recalled(self.fhir, m)}
        return tuple(result for result in results if result.model not in gone)

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
        left = tuple(results)
        for wait in CONFLICT_WAITS:
            if not left:
                return
            try:
                self._write(prepared, left, issued, trace_id)
                return
            except ConflictError:
                # Somebody else wrote: a reviewer signed what would be cancelled, or another
                # worker was quicker with the same results. Everything is read again.
                time.sleep(wait)
                left = self.unwritten(left)
        if left:
            raise UpstreamError("others keep writing the same results", code="write-conflict")

    def _write(
        self,
        prepared: Prepared,
        results: Sequence[ServiceResult],
        issued: datetime,
        trace_id: str | None,
    ) -> None:
        """One try.

        Raises:
            ConflictError: something that is to be written exists, or what is to be
                cancelled is not any more as it was read.
        """
        asked = (i.known_condition for r in results for i in r.issues if i.known_condition)
        conditions = known_conditions(self.fhir, prepared.patient_reference, asked)
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
                    seg_instance_uid=result.seg_instance_uid,
                    trace_id=trace_id,
                ),
            )
            for result in results
        ]
        self._create(transaction(list(self._missing(merge_bundles(bundles)["entry"]))))

    def _missing(self, entries: Sequence[Json]) -> Iterator[Json]:
        """The entries without the Devices that stand.

        A Device in the server may say more than its results know, and that its version was
        recalled: nothing that comes late may take this back.
        """
        for entry in entries:
            device = entry["resource"]
            if device["resourceType"] != "Device":
                yield entry
            elif self.fhir.find("Device", device["id"]) is None:
                deleted = self._is_deleted(entry["request"]["url"])
                yield entry if deleted else create_entry(device)

    def _create(self, bundle: Json) -> None:
        """Send a transaction that writes over nothing but what was deleted.

        A worker that slept between `unwritten` and here may find its results written by
        another, and signed: the transaction then fails as a whole.
        """
        try:
            self.fhir.transaction_once(create_only(bundle))
        except ConflictError:
            gone = {url for url in _created(bundle) if self._is_deleted(url)}
            if not gone:
                raise
            self.fhir.transaction_once(create_only(bundle, but=gone))

    def _is_deleted(self, url: str) -> bool:
        """Whether a resource was there once: an operator removed it, and asks for it again."""
        kind, _, resource_id = url.partition("/")
        if self.fhir.find(kind, resource_id) is not None:
            return False
        try:
            self.fhir.read(f"{kind}/{resource_id}", "_history")
        except NotFoundError:
            return False
        return True

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


def _created(bundle: Json) -> Iterator[str]:
    """URLs that only one result writes."""
    for entry in bundle["entry"]:
        if entry["resource"]["resourceType"] != "Device" and "ifMatch" not in entry["request"]:
            yield entry["request"]["url"]


def _superseded(result: ServiceResult, earlier: Sequence[tuple[Json, ...]]) -> tuple[Json, ...]:
    """Earlier results of the same service on the same series, or on the same study."""
    return tuple(
        resource
        for group in earlier
        if any(_speaks_of(resource, result) for resource in group)
        for resource in group
    )


def _speaks_of(resource: Json, result: ServiceResult) -> bool:
    if resource["resourceType"] != "Observation":
        return False
    if service_in(resource["code"]) != result.service:
        return False
    series = component_of(resource, SERIES_INSTANCE_UID.code).get("valueString")
    # What speaks of the whole study names the series that it happened to begin with.
    return result.whole_study or series == result.series_instance_uid
