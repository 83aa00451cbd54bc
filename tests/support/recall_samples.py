"""Recalls for tests: a server in memory that pages over Provenances, and sample recalls."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from result_samples import MODEL, context, result
from review_samples import MemoryFhir

from fhir_ext.resources import codes
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.ids import device_id, imaging_study_id
from fhir_ext.resources.recall import Counts, Recall
from fhir_ext.results import ModelIdentity, ServiceResult
from operations.analyze.prepare import Prepared
from operations.analyze.write_fhir import ResultWriter

Json = dict[str, Any]

STARTED = datetime(2026, 2, 3, 10, 0, tzinfo=UTC)
REASON = "Numbers of the upper lobes are wrong."
RECALL = Recall(
    device_id(MODEL), MODEL.id, MODEL.version, MODEL.settings_hash, REASON, "ops", STARTED
)


class PagedFhir(MemoryFhir):
    """Also answers the searches of a recall; each write is a second later than the last."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = datetime(2026, 1, 5, tzinfo=UTC)
        self.writes = 0
        #: How many matches stand on one page.
        self.page = 2

    def put(self, resource: Json, *, replace_labels: bool = False) -> None:
        super().put(resource, replace_labels=replace_labels)
        self.clock += timedelta(seconds=1)
        self.writes += 1
        newest = self.store[f"{resource['resourceType']}/{resource['id']}"][-1]
        newest["meta"]["lastUpdated"] = self.clock.isoformat()

    def search(self, resource_type: str, params: Any, limit: int = 1000) -> list[Json]:
        found = super().search(resource_type, params, 10**6)
        if "agent" in params:
            found = [p for p in found if any(_who(a) == params["agent"] for a in p["agent"])]
        if "entity" in params:
            found = [p for p in found if params["entity"] in _sources(p)]
        if "code" in params:
            found = [r for r in found if params["code"] in _tokens(r)]
        if "subject" in params:
            found = [r for r in found if r["subject"]["reference"] == params["subject"]]
        if "status" in params:
            found = [r for r in found if r["status"] == params["status"]]
        if since := params.get("authored-on"):
            found = [r for r in found if _moment(r["authoredOn"]) >= _moment(since[2:])]
        if since := params.get("_lastUpdated"):
            found = [r for r in found if r["meta"]["lastUpdated"] >= since.removeprefix("ge")]
        found.sort(key=lambda item: item["meta"]["lastUpdated"])
        return found[:limit]

    def pages(self, resource_type: str, params: Any) -> Iterator[Json]:
        found = self.search(resource_type, params, 10**6)
        for start in range(0, max(len(found), 1), self.page):
            matches = found[start : start + self.page]
            targets = {t["reference"] for p in matches for t in p.get("target", [])}
            included = [self.find(*url.split("/")) for url in sorted(targets)]
            entries = [{"resource": p, "search": {"mode": "match"}} for p in matches]
            entries += [{"resource": r, "search": {"mode": "include"}} for r in included if r]
            yield copy.deepcopy({"entry": entries})


def add(fhir: MemoryFhir, number: int, **changes: Any) -> ServiceResult:
    """Write one more result of the same version, of a study and patient of its own."""
    study = f"1.2.826.0.1.3680043.8.498.7.{number}"
    of = result(study=study, series=f"{study}.1")
    fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": imaging_study_id(study),
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study}"}],
        }
    )
    made = context(of, patient_reference=f"Patient/p{number}", **changes)
    for entry in result_bundle(of, made)["entry"]:
        if (
            entry["resource"]["resourceType"] != "Device"
            or entry["request"]["url"] not in fhir.store
        ):
            fhir.put(entry["resource"])
    return of


def write_result(fhir: Any, model: ModelIdentity, patient: str) -> ServiceResult:
    """Write one result of a version for a study of its own, as a worker does; no pixels."""
    study = f"1.2.826.0.1.3680043.8.498.4713.{uuid.uuid4().int % 10**12}"
    of = result(study=study, series=f"{study}.1", model=model)
    fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": imaging_study_id(study),
            # Not `available`: nobody is to look for it in the archive.
            "status": "registered",
            "subject": {"reference": patient},
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study}"}],
        }
    )
    prepared = Prepared(
        "work",
        imaging_study_id(study),
        version="1",
        study_instance_uid=study,
        patient_reference=patient,
    )
    ResultWriter(fhir).write(prepared, [of], datetime.now(UTC))
    return of


def statuses(fhir: MemoryFhir, *kinds: str) -> set[str]:
    """Statuses of the newest versions of some types."""
    return {item["status"] for kind in kinds for item in fhir.search(kind, {})}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _tokens(resource: Json) -> set[str]:
    return {f"{c['system']}|{c['code']}" for c in resource.get("code", {}).get("coding", [])}


def _sources(provenance: Json) -> set[str]:
    """Without their versions, by which HAPI does not tell them apart."""
    named = (e["what"].get("reference", "") for e in provenance.get("entity", []))
    return {reference.partition("/_history/")[0] for reference in named}


def _who(agent: Json) -> str:
    return str(agent["who"].get("reference", ""))


def counts_of(task: Json) -> Counts:
    """What a summary Task counts."""
    found = {
        coding["code"]: int(output["valueInteger"])
        for output in task.get("output", [])
        for coding in output["type"].get("coding", [])
        if coding.get("system") == codes.RECALL_OUTPUT.url
    }
    return Counts(**found)
