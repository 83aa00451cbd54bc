"""How long after HAPI's commit of an ImagingStudy is the last result readable?

Starts the whole tree, stores small phantom studies in the archive with the bridge off, then
writes one ImagingStudy after the other and asks HAPI for the Provenance of its results, by
its id, which is known beforehand and cheaper for HAPI than a search.
`overhead` is the total minus the transfer of the pixels and the inference, which depend on
the study; what is left is hook, queue, planning, SR, and the FHIR transaction.

    python bench/event_to_result.py [--studies 30]

The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from fhir_ext.cli.parts import Parts
from fhir_ext.cli.tree import Tree
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.phantom import PhantomPatient, PhantomSpec, build, write_series
from fhir_ext.resources.ids import imaging_study_id, inference_key, result_id
from models.registry import Registry

#: Studies that are not counted: HAPI needs some hundred requests to become quick.
WARM_UP = 15
POLL = 0.005
DCM = "http://dicom.nema.org/resources/ontology/DCM"


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def imaging_study(uid: str, series_uid: str, count: int, patient: str) -> dict[str, object]:
    return {
        "resourceType": "ImagingStudy",
        "id": imaging_study_id(uid),
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "subject": {"reference": f"Patient/{patient}"},
        "started": "2026-01-05T10:15:00Z",
        "series": [
            {
                "uid": series_uid,
                "modality": {"system": DCM, "code": "CT"},
                "numberOfInstances": count,
            }
        ],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--studies", type=int, default=30)
    count = arguments.parse_args().studies + WARM_UP
    phantom = build(PhantomSpec(shape=(50, 170, 232), spacing_mm=(5.0, 1.5, 1.5)))
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder), print, environment={"FHIR_EXT_BRIDGE__ENABLED": "false"})
        try:
            tree.start()
            measure(tree, phantom, count)
        finally:
            tree.stop()


def measure(tree: Tree, phantom, count: int) -> None:
    parts = Parts(tree.settings)
    archive = DicomWebClient(tree.settings.archive, tree.settings.limits)
    studies = []
    for number in range(count):
        patient = PhantomPatient(patient_id=f"BENCH-{number}", name=f"Bench^{number}")
        series = write_series(phantom, "soft", patient)
        archive.store(series)
        parts.fhir.put(
            {"resourceType": "Patient", "id": f"bench-{number}", "birthDate": "1960-01-01"}
        )
        first = series[0]
        study = imaging_study(
            first.StudyInstanceUID, first.SeriesInstanceUID, len(series), f"bench-{number}"
        )
        key = inference_key(
            first.StudyInstanceUID,
            first.SeriesInstanceUID,
            [str(instance.SOPInstanceUID) for instance in series],
            Registry().manifest("lung-density").identity(),
        )
        studies.append((study, result_id(key, "provenance")))
        print(f"stored study {number + 1} of {count}", flush=True)
    totals, overheads, steps = [], [], []
    for number, (study, provenance) in enumerate(studies):
        parts.fhir.put(study)
        begin = time.perf_counter()
        while not parts.fhir.find("Provenance", provenance):
            time.sleep(POLL)
            if time.perf_counter() - begin > 60:
                raise SystemExit("no result within 60 s")
        total = time.perf_counter() - begin
        while not (run := finished(parts, study["id"])):
            time.sleep(0.01)
        if number < WARM_UP:
            continue
        totals.append(total)
        steps.append(run.step_seconds)
        pixels = run.step_seconds.get("fetch", 0.0) + run.step_seconds.get("infer", 0.0)
        overheads.append(total - pixels)
        print(f"{total:.3f} s in all, {total - pixels:.3f} s besides pixels and inference")
    by_step = {
        f"{name}_p50_s": round(statistics.median(one.get(name, 0.0) for one in steps), 4)
        for name in sorted({name for one in steps for name in one})
    }
    print(
        json.dumps(
            {
                "bench": "event_to_result",
                "studies": len(totals),
                "total_p50_s": round(statistics.median(totals), 4),
                "total_p95_s": round(percentile(totals, 0.95), 4),
                "overhead_p50_s": round(statistics.median(overheads), 4),
                "overhead_p95_s": round(percentile(overheads, 0.95), 4),
                **by_step,
            }
        )
    )


def finished(parts: Parts, study_id: str):
    runs = [run for run in parts.repository.runs() if run.imaging_study_id == study_id]
    return next((run for run in runs if run.state == "done"), None)


if __name__ == "__main__":
    main()
