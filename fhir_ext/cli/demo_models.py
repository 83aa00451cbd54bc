"""The demo's third act: a new version of a model, from its installation to its recall."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fhir_ext.cli.demo_studies import DemoCase, Say, register, store_phantom
from fhir_ext.cli.parts import Parts
from fhir_ext.cli.watching import finished_run, version_of, within
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.phantom import PhantomPatient, PhantomSpec

if TYPE_CHECKING:
    from operations.model_drift.report import ShadowReport
    from operations.model_registry.recall_report import RecallReport

Json = dict[str, Any]

SERVICE, CANDIDATE = "lung-density", "2.0.0-demo"

#: What the candidate does otherwise: narrower vessels belong to the lung.
CHANGE = ("closing_mm: 4.0", "closing_mm: 2.0")

REASON = "the demo's candidate leaves out vessels that are lung"

#: Longest wait (s) for a study or a recall.
PATIENCE = 120.0


@dataclass(slots=True)
class Models:
    """What was done with model versions, and seen.

    Attributes:
        rows: (command, what came of it), in order.
        shadow: the candidate beside the active version, on the same study.
        recall: what the recall withdrew, and who had received it.
        problems: what was not as it should be.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    shadow: ShadowReport | None = None
    recall: RecallReport | None = None
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: object, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def as_json(self) -> Json:
        """For `demo.json`: counts, and no patient."""
        return {
            "models": [list(row) for row in self.rows],
            "shadow": {name: found.bias for name, found in self._numbers().items()},
            "recall": self.recall.counts if self.recall else {},
        }

    def _numbers(self) -> Json:
        return dict(self.shadow.numbers) if self.shadow else {}

    def tables(self) -> Iterator[Table]:
        """For the terminal."""
        commands = Table("fhir-ext model …", "what came of it", title="A model's life")
        for row in self.rows:
            commands.add_row(*row)
        yield commands
        if self.shadow is not None:
            title = f"Shadow {self.shadow.second} minus active {self.shadow.first}, same study"
            beside = Table("number", "difference", title=title)
            for name, found in self.shadow.numbers.items():
                beside.add_row(name, f"{found.bias:+.3g}")
            yield beside
        if self.recall is not None:
            counts = Table("concerned", "count", title=f"Recall of {SERVICE} {CANDIDATE}")
            for name, count in self.recall.counts.items():
                counts.add_row(name, str(count))
            yield counts


def show_models(parts: Parts, archive: DicomWebClient, system: str, say: Say) -> Models:
    """Install, test, shadow, activate, roll back and recall a version of lung density.

    Args:
        system: identifier system of the demo's patients.
    """
    from operations.model_registry.actor import Actor

    shown = Models()
    actor = Actor("demo", "cli")
    models = parts.models
    patient = PhantomPatient("DEMO-0004", "FHIR-EXT-DEMO", "Lenz^Dora", "F", "19550401")
    register(parts.fhir, patient, system, "demo-4")
    before = next(row.version for row in models.versions(SERVICE) if row.state == "active")

    say(f"a new version of {SERVICE} comes, passes its own cases, and runs as a shadow")
    with tempfile.TemporaryDirectory() as folder:
        models.install(_candidate(parts, Path(folder)), actor)
    row = models.test(SERVICE, CANDIDATE, actor)
    shown.expect(row.test_passed, "the candidate failed its cases")
    models.shadow(SERVICE, CANDIDATE, actor)
    shown.rows += [
        ("install candidate", "a draft that sees no study"),
        (f"test {SERVICE} {CANDIDATE}", "its own cases passed"),
        (f"shadow {SERVICE} {CANDIDATE}", "sees every study, writes nothing"),
    ]
    case = _study(parts, archive, patient, 0.08, say, shown)
    shown.expect(_writers(parts, case) == {before}, "a shadow wrote into the record")
    shown.shadow = _beside(parts)
    shown.expect(shown.shadow.pairs == 1, "the shadow was not compared")

    say("it becomes the active one, writes one study, and is rolled back")
    models.activate(SERVICE, CANDIDATE, actor)
    shown.rows.append((f"activate {SERVICE} {CANDIDATE}", f"{before} is retired"))
    case = _study(parts, archive, patient, 0.03, say, shown)
    shown.expect(_writers(parts, case) == {CANDIDATE}, "the activated version did not write")
    models.rollback(SERVICE, actor)
    active = next(row.version for row in models.versions(SERVICE) if row.state == "active")
    shown.expect(active == before, "the rollback did not bring the version before back")
    shown.rows.append((f"rollback {SERVICE}", f"{active} is active again"))

    say("it is recalled: what it wrote is withdrawn, and a report says whom it reached")
    models.recall(SERVICE, CANDIDATE, REASON, actor)
    shown.recall = _recalled(parts)
    withdrawn = shown.recall.counts["withdrawn"] if shown.recall else 0
    shown.expect(withdrawn, "the recall withdrew nothing")
    shown.rows.append(
        (f"recall {SERVICE} {CANDIDATE}", f"{withdrawn} resources are entered-in-error")
    )
    return shown


def _candidate(parts: Parts, folder: Path) -> Path:
    """The active version's folder under another version and with one setting changed."""
    manifest = parts.models.registry.find(SERVICE).folder / "manifest.yaml"
    text = manifest.read_text("utf-8")
    active = parts.models.registry.manifest(SERVICE).version
    text = text.replace(f"version: {active}", f"version: {CANDIDATE}", 1).replace(*CHANGE, 1)
    # Its lungs are a little smaller; that is what the demo wants to show.
    text = text.replace("value: 4166, tolerance: 15", "value: 4147, tolerance: 15")
    text = text.replace("value: -857, tolerance: 2", "value: -860, tolerance: 3")
    (folder / "manifest.yaml").write_text(text, "utf-8")
    return folder


def _study(
    parts: Parts,
    archive: DicomWebClient,
    patient: PhantomPatient,
    share: float,
    say: Say,
    shown: Models,
) -> DemoCase:
    spec = PhantomSpec(emphysema_fraction=share, seed=int(share * 1000))
    case = store_phantom(archive, patient, spec, ("soft",), say)

    over = within(PATIENCE, lambda: finished_run(parts.repository, case.study_instance_uid))
    shown.expect(over, f"{case.label} was not worked on in time")
    return case


def _writers(parts: Parts, case: DemoCase) -> set[str]:
    """Versions of the Devices that panels of a study name."""
    found = set()
    for row in parts.repository.outcomes(case.study_instance_uid):
        if row.service != SERVICE or row.panel_id is None:
            continue
        found.add(version_of(parts.fhir, parts.fhir.read("Observation", row.panel_id)))
    return found


def _beside(parts: Parts) -> ShadowReport:
    from fhir_ext.store.samples import SampleStore
    from operations.model_drift.service import DriftService

    samples = SampleStore(parts.repository.engine)
    drift = DriftService(samples, parts.repository, parts.settings.monitoring)
    return drift.compare_shadow(SERVICE, CANDIDATE)


def _recalled(parts: Parts) -> RecallReport | None:
    from operations.model_registry.recall_report import recall_report

    def finished() -> RecallReport | None:
        report = recall_report(parts.fhir, SERVICE, CANDIDATE)
        done = report.recall is not None and report.recall["status"] == "completed"
        return report if done else None

    return within(PATIENCE, finished)
