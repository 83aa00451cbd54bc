"""The card of a model version: its manifest as a page for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.manifest import Manifest
from models.manifest.evidence import Evaluation, Metric
from models.manifest.outputs import MeasurementOutput

#: Largest page of its own that a card takes over, in bytes.
LARGEST_PAGE = 1_000_000


def card_markdown(manifest: Manifest, folder: Path | None = None) -> str:
    """All that a manifest says to people, in one order; the same manifest, the same text.

    Args:
        folder: of the version, where its own page (`card.file`) lies; left out without.
    """
    parts = [
        *_head(manifest),
        *_outputs(manifest),
        *_gates(manifest),
        *_evaluations(manifest),
        *_people(manifest),
    ]
    page = _page(manifest, folder)
    return "\n\n".join([*parts, *([page] if page else [])]) + "\n"


def _head(manifest: Manifest) -> Iterator[str]:
    yield f"# {manifest.title}"
    rows = [
        ("Id", f"`{manifest.id}`"),
        ("Version", manifest.version),
        ("Settings", f"`{manifest.identity().settings_hash}`"),
        ("Licence", manifest.licence),
        ("Runtime", manifest.runtime.kind),
        ("Review", manifest.review),
    ]
    yield _table(("field", "value"), rows)
    yield f"## Intended use\n\n{_flat(manifest.intended_use)}"
    yield f"## Not for\n\n{_flat(manifest.not_for)}"
    if manifest.citation:
        yield f"## Method\n\n{_flat(manifest.citation)}"


def _outputs(manifest: Manifest) -> Iterator[str]:
    rows = []
    for output in manifest.outputs:
        unit = valid = ""
        if isinstance(output, MeasurementOutput):
            unit, valid = output.unit, f"{output.valid[0]:g} to {output.valid[1]:g}"
        rows.append((output.name, str(output.region), output.kind, unit, valid))
    yield "## Outputs\n\n" + _table(("name", "region", "kind", "unit", "valid"), rows)


def _gates(manifest: Manifest) -> Iterator[str]:
    yield f"## Accepted images\n\nModality: {', '.join(manifest.inputs.modality)}."
    lines = [
        f"- `{gate.rule}`" + (f": {_flat(gate.because)}" if gate.because else "")
        for gate in manifest.gates
    ]
    if lines:
        yield "\n".join(lines)


def _evaluations(manifest: Manifest) -> Iterator[str]:
    if not manifest.evaluation:
        yield "## Evaluation\n\nNone is stated."
        return
    for number, item in enumerate(manifest.evaluation, start=1):
        yield f"## Evaluation {number}\n\n{_evaluation(item)}"


def _evaluation(item: Evaluation) -> str:
    said = "\n".join(
        f"- {name}: {_flat(text)}"
        for name, text in (
            ("Data", item.data),
            ("Cases", str(item.count)),
            ("Reference", item.reference),
            ("Source", item.citation),
        )
        if text
    )
    rows = [("all", str(item.count), *_metric(metric)) for metric in item.metrics]
    rows += [
        (f"{part.by}: {part.value}", str(part.count), *_metric(metric))
        for part in item.subgroups
        for metric in part.metrics
    ]
    return f"{said}\n\n{_table(('cases', 'count', 'metric', 'value', 'interval'), rows)}"


def _metric(metric: Metric) -> tuple[str, str, str]:
    interval = ""
    if metric.low is not None and metric.high is not None:
        interval = f"{metric.low:g} to {metric.high:g} ({metric.level:.0%})"
    of = f" of {metric.output}" if metric.output else ""
    return f"{metric.name}{of}", f"{metric.value:g}", interval


def _people(manifest: Manifest) -> Iterator[str]:
    card = manifest.card
    if card.training_data:
        yield f"## Training data\n\n{_flat(card.training_data)}"
    if card.limitations:
        yield "## Limitations\n\n" + "\n".join(f"- {_flat(item)}" for item in card.limitations)
    if card.contact:
        yield f"## Contact\n\n{_flat(card.contact)}"


def _page(manifest: Manifest, folder: Path | None) -> str:
    if folder is None or manifest.card.file is None:
        return ""
    path = folder / manifest.card.file
    if not path.is_file() or path.stat().st_size > LARGEST_PAGE:
        return ""
    return "---\n\n" + path.read_text("utf-8", errors="replace").strip()


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")


def _flat(text: str) -> str:
    return " ".join(text.split())
