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
import numpy.typing as npt
import torch

from models.nodule_detection.train.backgrounds import Background, Box
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
from models.nodule_detection.train.nodules import insert, place
from models.nodule_detection.train.scenes import MARGIN_MM
from models.nodule_detection.train.search import Marks, Searcher, shipped, shipped_score

#: Scenes of each background, and nodules of each scene.
SCENES, NODULES = 8, 8
#: Slices that the manifest's gates accept.
THICKEST_MM = 5.0
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
    with shipped(folder) as searcher:
        for number, background in enumerate(test):
            found[background.name] = _marked(searcher, background, (plan.seed, _STREAM, number))
            tumours += _tumours(searcher, background)
            say(f"tested on {background.name}: {_line(found[background.name])}")
        write_cases(folder / "cases", searcher.run)
    thin = {item.name for item in test if item.thickness_mm <= THICKEST_MM}
    within = [item for name, items in found.items() if name in thin for item in items]
    beyond = [item for name, items in found.items() if name not in thin for item in items]
    report = {
        "made_with": _made_with(),
        "plan": asdict(plan),
        "files": {
            name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size}
            for name in ("network.pt2", "network.safetensors")
        },
        "learnt_from": [_described(item) for item in learn],
        "tested_on": [{**_described(item), **_froc(found[item.name])} for item in test],
        "together": {
            **_froc(within),
            "sizes": _sizes(within),
            "at_the_manifests_score": _at(within, shipped_score()),
        },
        "thicker_slices": _froc(beyond) if beyond else None,
        "tumours": tumours,
    }
    text = json.dumps(report, indent=2, sort_keys=True)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    say(f"together, within the gates: {_line(within)}")


def _marked(searcher: Searcher, background: Background, seed: Sequence[int]) -> list[Marked]:
    found = []
    spacing = np.asarray(background.spacing_mm)
    for number in range(SCENES):
        rng = np.random.default_rng([*seed, number])
        nodules = place(background, NODULES, rng)
        hu = insert(background, nodules, 0, rng)
        rows = searcher.marks(hu, background.spacing_mm)
        rows = rows[~_inside(rows, background, background.ignored, MARGIN_MM).any(0)]
        centres = np.array([item.centre for item in nodules]).reshape(-1, 3) * spacing
        diameters = [item.diameter_mm for item in nodules]
        found.append(match(rows[:, 1:4], rows[:, 0], centres, diameters, background.scans))
    return found


def _inside(
    rows: Marks, background: Background, boxes: Sequence[Box], margin_mm: float
) -> npt.NDArray[np.bool_]:
    """Whether marks lie in boxes: (boxes, marks)."""
    found = np.zeros((len(boxes), len(rows)), dtype=bool)
    for index, box in enumerate(boxes):
        pairs = np.asarray(box) * np.asarray(background.spacing_mm)[:, None]
        low, high = pairs[:, 0] - margin_mm, pairs[:, 1] + margin_mm
        found[index] = ((rows[:, 1:4] >= low) & (rows[:, 1:4] <= high)).all(1)
    return found


def _tumours(searcher: Searcher, background: Background) -> list[dict[str, Any]]:
    """The best mark in each annotated box; nothing is inserted."""
    if not background.tumours:
        return []
    rows = searcher.marks(background.hu, background.spacing_mm)
    found = []
    for box, inside in zip(
        background.tumours, _inside(rows, background, background.tumours, 0.0), strict=True
    ):
        extent = np.array([pair[1] - pair[0] + 1 for pair in box]) * background.spacing_mm
        best = rows[inside][:1]
        found.append(
            {
                "series": background.name,
                "size_mm": [round(float(value), 1) for value in extent],
                "best_score": round(float(best[0, 0]), 3) if len(best) else 0.0,
                "best_mark_mm": round(float(best[0, 4]), 1) if len(best) else None,
                "rank_in_series": int(np.flatnonzero(inside)[0]) + 1 if len(best) else None,
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


def _at(marked: Sequence[Marked], score: float) -> dict[str, float]:
    """What a threshold gives."""
    false = sum(mark >= score for item in marked for mark in item.false)
    share, _ = sensitivity(marked, float(np.nextafter(score, 0)))
    return {
        "score": score,
        "sensitivity": round(share, 4),
        "false_marks_per_scan": round(false / sum(item.scans for item in marked), 3),
    }


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
