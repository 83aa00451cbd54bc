"""What is known of a trained network: `training.json`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.nodule_detection.network import SPACING_MM
from models.nodule_detection.train.backgrounds import Background
from models.nodule_detection.train.cases import write_cases
from models.nodule_detection.train.froc import (
    RATES,
    Marked,
    interval,
    match,
    sensitivity,
    threshold,
)
from models.nodule_detection.train.loop import Plan, Say
from models.nodule_detection.train.nodules import place
from models.nodule_detection.train.scenes import Scene, scene
from models.nodule_detection.train.search import Rows, Run, search, shipped

#: Scenes of each background, and nodules of each scene.
SCENES, NODULES = 8, 8
#: Groups of diameters in mm.
SIZES = ((4.0, 6.0), (6.0, 8.0), (8.0, 12.0), (12.0, 20.1))
#: Seeds of the tests never meet those of the training.
_STREAM = 2


def write_report(
    folder: Path,
    plan: Plan,
    learn: Sequence[Background],
    test: Sequence[Background],
    say: Say,
) -> None:
    """Test `network.pt2` of a folder on backgrounds and annotated tumours.

    Writes `training.json`, and the tensors of the manifest's case.
    """
    found: dict[str, list[Marked]] = {}
    tumours: list[dict[str, Any]] = []
    with shipped(folder / "network.pt2") as run:
        for number, background in enumerate(test):
            found[background.name] = _marked(run, background, (plan.seed, _STREAM, number))
            tumours += _tumours(run, background)
            say(f"tested on {background.name}: {_line(found[background.name])}")
        write_cases(folder / "cases", run)
    everything = [item for items in found.values() for item in items]
    report = {
        "made_with": _made_with(),
        "plan": asdict(plan),
        "files": {
            name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size}
            for name in ("network.pt2", "network.safetensors")
        },
        "learnt_from": [_described(item) for item in learn],
        "tested_on": [{**_described(item), **_froc(found[item.name])} for item in test],
        "together": {**_froc(everything), "sizes": _sizes(everything)},
        "tumours": tumours,
    }
    text = json.dumps(report, indent=2, sort_keys=True)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    say(f"together: {_line(everything)}")


def _marked(run: Run, background: Background, seed: Sequence[int]) -> list[Marked]:
    found = []
    for number in range(SCENES):
        rng = np.random.default_rng([*seed, number])
        nodules = place(background, NODULES, rng)
        made = scene(background, nodules, rng)
        rows = search(run, made.image)
        rows = rows[~_ignored(rows, made)]
        centres = np.array([target.centre for target in made.targets]) * SPACING_MM
        diameters = [target.diameter_mm for target in made.targets]
        marks = rows[:, 2:5] * SPACING_MM
        found.append(match(marks, rows[:, 0], centres, diameters, background.scans))
    return found


def _ignored(rows: Rows, made: Scene) -> np.ndarray[Any, np.dtype[np.bool_]]:
    inside = np.zeros(len(rows), dtype=bool)
    for box in made.ignored:
        inside |= ((rows[:, 2:5] >= box[:, 0]) & (rows[:, 2:5] <= box[:, 1])).all(1)
    return inside


def _tumours(run: Run, background: Background) -> list[dict[str, Any]]:
    """The best mark whose centre lies in an annotated box, for each box; nothing is inserted."""
    if not background.tumours:
        return []
    rows = search(run, scene(background, (), np.random.default_rng(0)).image)
    scale = np.asarray(background.spacing_mm) / np.asarray(SPACING_MM)
    found = []
    for box in background.tumours:
        low, high = (np.array([pair[i] for pair in box]) * scale for i in (0, 1))
        inside = ((rows[:, 2:5] >= low) & (rows[:, 2:5] <= high)).all(1)
        extent = (np.array([pair[1] - pair[0] + 1 for pair in box])) * background.spacing_mm
        found.append(
            {
                "series": background.name,
                "size_mm": [round(float(value), 1) for value in extent],
                "best_score": round(float(rows[inside, 0].max(initial=0.0)), 3),
                "rank": int(np.flatnonzero(inside)[0]) + 1 if inside.any() else None,
            }
        )
    return found


def _froc(marked: Sequence[Marked]) -> dict[str, Any]:
    points = []
    for rate in RATES:
        above = threshold(marked, rate)
        share, count = sensitivity(marked, above)
        low, high = interval(share, count)
        points.append(
            {
                "false_marks_per_scan": rate,
                "score_above": round(above, 4),
                "sensitivity": round(share, 4),
                "low": round(low, 4),
                "high": round(high, 4),
            }
        )
    nodules = sum(len(item.scores) for item in marked)
    scans = sum(item.scans for item in marked)
    return {"nodules": nodules, "scans": scans, "froc": points}


def _sizes(marked: Sequence[Marked]) -> list[dict[str, Any]]:
    """Each group at the thresholds of all together."""
    found = []
    for low, high in SIZES:
        points = {}
        for rate in RATES:
            share, count = sensitivity(marked, threshold(marked, rate), low, high)
            points[f"{rate:g}"] = round(share, 4)
        found.append({"from_mm": low, "below_mm": high, "nodules": count, "sensitivity": points})
    return found


def _line(marked: Sequence[Marked]) -> str:
    values = (sensitivity(marked, threshold(marked, rate))[0] for rate in RATES)
    pairs = zip(RATES, values, strict=True)
    return ", ".join(f"{value:.2f} at {rate:g}" for rate, value in pairs)


def _described(background: Background) -> dict[str, Any]:
    return {
        "name": background.name,
        "scanned": background.real,
        "spacing_mm": [round(value, 4) for value in background.spacing_mm],
        "slice_thickness_mm": background.thickness_mm,
    }


def _made_with() -> dict[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": capability,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
