"""What came of the demo's studies: progress while they run, then results beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from fhir_ext.cli.demo_studies import DemoCase
from fhir_ext.cli.parts import Parts
from fhir_ext.cli.watching import FINISHED, latest_run
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.phantom import RegionTruth
from fhir_ext.resources.reading import PanelReading, read_panel
from fhir_ext.results import Region
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome

#: Steps in the order in which they happen.
STEPS = ("prepare", "fetch", "infer", "analyze", "store-dicom", "write-fhir", "publish", "finish")

#: Largest difference between a phantom's truth and what is measured on its soft kernel:
#: volume in percent of the truth, the share below -950 HU in percentage points, HU for the
#: others. Noise, the airway wall and the mask's edge account for it; see the docs page.
TOLERANCE = {"lung-volume": 3.0, "laa-950": 1.5, "mean-lung-density": 12.0, "perc15": 15.0}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one study is."""

    label: str
    state: str
    step: str
    seconds: float
    finished: bool


def progress(repository: Repository, cases: Sequence[DemoCase]) -> list[Progress]:
    """One row per case, from the service's own tables."""
    return [_progress(repository, case) for case in cases]


def _progress(repository: Repository, case: DemoCase) -> Progress:
    run = latest_run(repository, case.study_instance_uid)
    if run is not None:
        finished = run.state in FINISHED
        end = run.finished_at if finished and run.finished_at else now()
        seconds = (end - case.stored_at).total_seconds()
        return Progress(case.label, run.state, run.reason or run.step, seconds, finished)
    seconds = (now() - case.stored_at).total_seconds()
    row = repository.archive_study(case.study_instance_uid)
    if row is None:
        return Progress(case.label, "in the archive", "", seconds, False)
    finished = row.state in ("failed", "ignored", "unmatched")
    return Progress(case.label, row.state, row.reason or "", seconds, finished)


@dataclass(slots=True)
class SeriesReport:
    """Every service of one series."""

    case: DemoCase
    series_instance_uid: str
    services: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "study_instance_uid": self.case.study_instance_uid,
            "series_instance_uid": self.series_instance_uid,
            "services": [
                {key: value for key, value in service.items() if key != "order"}
                for service in self.services
            ],
        }


@dataclass(slots=True)
class Report:
    """The whole demo, and whether it is what it should be."""

    series: list[SeriesReport]
    problems: list[str]
    seconds: dict[str, dict[str, float]]
    links: dict[str, str]

    @property
    def ok(self) -> bool:
        return not self.problems


def build_report(parts: Parts, archive: DicomWebClient, cases: Sequence[DemoCase]) -> Report:
    """Read the results back from HAPI and the archive, and compare phantoms with their truth."""
    series: list[SeriesReport] = []
    problems: list[str] = []
    seconds: dict[str, dict[str, float]] = {}
    links: dict[str, str] = {}
    for case in cases:
        run = latest_run(parts.repository, case.study_instance_uid)
        if run is None or run.state != "done":
            problems.append(f"{case.label}: {run.state if run else 'never reached the worker'}")
        if run is not None:
            seconds[case.label] = run.step_seconds
            links.setdefault(
                "results",
                f"{parts.fhir.base_url}/Observation?derived-from=ImagingStudy/{run.imaging_study_id}",
            )
        outcomes = parts.repository.outcomes(case.study_instance_uid)
        for uid in case.series:
            report = SeriesReport(case, uid)
            for row in outcomes:
                if row.series_instance_uid == uid:
                    panel = read_panel(parts.fhir, row.panel_id) if row.panel_id else None
                    report.services.append(_service(row, panel))
            series.append(report)
            problems += [f"{case.label}, {case.series[uid]}: {text}" for text in _check(report)]
        modalities = {item.modality for item in archive.list_series(case.study_instance_uid)}
        if any(row.status == "done" for row in outcomes) and "SR" not in modalities:
            problems.append(f"{case.label}: no SR in the archive")
    return Report(series, problems, seconds, links)


def _service(row: ServiceOutcome, panel: PanelReading | None) -> dict[str, Any]:
    """One entry of `demo.json`: numbers come from HAPI, not from the worker."""
    measurements: dict[str, Any] = {}
    withheld: dict[str, str] = {}
    categories: dict[str, str] = {}
    order: list[str] = []
    for item in panel.members if panel else ():
        name = item.name if item.region == Region.LUNGS else f"{item.name}/{item.region}"
        if item.kind == "measurement":
            order.append(name)
        if item.value is not None:
            measurements[name] = {"value": item.value, "unit": item.unit}
        elif item.category_text:
            categories[name] = item.category_text
        else:
            withheld[name] = item.reason
    reasons = "; ".join(
        f"{r['rule']}: {r['seen']}" + (f" (needed: {r['needed']})" if r["needed"] else "")
        for r in row.reasons
    )
    return {
        "service": row.service,
        "status": row.status,
        "reason": reasons,
        "measurements": measurements,
        "categories": categories,
        "withheld": withheld,
        "order": order,
    }


def _check(report: SeriesReport) -> Iterator[str]:
    if not report.services:
        yield "no service said anything"
    for service in report.services:
        if service["status"] == "failed":
            yield f"{service['service']} failed: {service['reason']}"
        said = service["measurements"] or service["categories"]
        if service["status"] == "done" and not said:
            yield f"{service['service']} is done, but HAPI holds nothing of it"
    if report.case.truth is None:
        return
    kernel = report.case.series[report.series_instance_uid]
    density = next((s for s in report.services if s["service"] == "lung-density"), None)
    if density is None:
        yield "lung density did not run"
    elif kernel.startswith("soft"):
        yield from _compare(density["measurements"], report.case.truth.lungs)
    elif density["withheld"].get("laa-950") != "kernel":
        yield "the sharp kernel was not refused for LAA-950"


def _compare(measurements: dict[str, Any], truth: RegionTruth) -> Iterator[str]:
    for name, expected in truth_values(truth).items():
        if name not in measurements:
            yield f"{name} is missing"
            continue
        difference = abs(measurements[name]["value"] - expected)
        if name == "lung-volume":
            difference *= 100.0 / expected
        if difference > TOLERANCE[name]:
            yield f"{name} differs from the truth by {difference:.1f}"


def truth_values(truth: RegionTruth) -> dict[str, float]:
    """A phantom's truth under the names of the measurements."""
    return {
        "lung-volume": truth.volume_ml,
        "mean-lung-density": truth.mean_hu,
        "laa-950": truth.laa_950_percent,
        "perc15": truth.perc15_hu,
    }


def tables(report: Report) -> Iterator[Table]:
    """Results beside the truth, and the time that each step took."""
    results = Table("study", "series", "measurement", "truth", "result", title="Results")
    results.columns[3].justify = results.columns[4].justify = "right"
    for series in report.series:
        place = [series.case.label, series.case.series[series.series_instance_uid]]
        truth = truth_values(series.case.truth.lungs) if series.case.truth else {}
        for row in _result_rows(series, truth):
            results.add_row(*place, *row)
            place = ["", ""]
        results.add_section()
    yield results
    reasons = Table("series", "why a number is refused, or a service not applied", title="Reasons")
    for series in report.series:
        for service in series.services:
            if service["reason"] and not _is_no_news(service):
                where = f"{series.case.label}, {series.case.series[series.series_instance_uid]}"
                reasons.add_row(where, service["reason"])
    if reasons.row_count:
        yield reasons
    steps = [step for step in STEPS if any(step in times for times in report.seconds.values())]
    timing = Table("study", *steps, title="Seconds by step (fetch and infer are parts of analyze)")
    for label, times in report.seconds.items():
        timing.add_row(label, *(f"{times[step]:.2f}" if step in times else "" for step in steps))
    yield timing


def _is_no_news(service: dict[str, Any]) -> bool:
    """That a model of mammograms does not look at CT, or one that is off at anything."""
    rule = service["reason"].partition(":")[0]
    return rule in ("modality", "model-not-active", "no-segmentation")


def _result_rows(series: SeriesReport, truth: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    """(measurement, truth, result) of both lungs together; each lung's are in `demo.json`."""
    for service in series.services:
        if service["status"] == "not-applied" and not _is_no_news(service):
            yield service["service"], "", "not applied"
        both = [name for name in service["order"] if "/" not in name]
        for name in both:
            expected = f"{truth[name]:.1f}" if name in truth else ""
            item = service["measurements"].get(name)
            yield name, expected, f"{item['value']:.1f} {_unit(item)}" if item else "refused"
        for name, category in service["categories"].items():
            yield name, "", category


def _unit(measurement: dict[str, Any]) -> str:
    """The unit as people write it: UCUM's `[hnsf'U]` is the Hounsfield unit."""
    return str(measurement["unit"]).replace("[hnsf'U]", "HU")
