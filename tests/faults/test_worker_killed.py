"""kill -9 of the worker at every step boundary: nothing lost, nothing doubled."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from fhir_ext.embedded.process import ChildProcess

SCRIPT = Path(__file__).parent / "killing_worker.py"
STEPS = ("prepare", "analyze", "publish", "finish")


def _counts(results) -> Counter:
    return Counter({kind: len(resources) for kind, resources in results.items()})


def _assert_once(installation, uid) -> None:
    """Exactly one set of results, each written exactly once, and one SR."""
    results = installation.results(uid)
    assert len(results["Provenance"]) == 1
    panels = [o for o in results["Observation"] if o.get("hasMember")]
    assert len(panels) == 1
    for kind, resources in results.items():
        if kind != "Device":
            assert {r["meta"]["versionId"] for r in resources} == {"1"}, kind
    reports = [s for s in installation.archive.list_series(uid) if s.modality == "SR"]
    assert [series.instance_count for series in reports] == [1]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_worker_is_taken_up_again(installation, small_study, tmp_path, step, moment) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    marker = tmp_path / "killed"
    tree.hold("worker")
    child = ChildProcess(
        "worker",
        [sys.executable, str(SCRIPT), step, moment, str(marker)],
        tree.directory / "logs" / "worker-killing.log",
        environment=tree.environment,
    )
    try:
        uid = installation.store(series)
        installation.wait_for(lambda: not child.alive(), f"death {moment} {step}")
        assert child.exit_code == -9
        assert marker.read_text() == f"{moment} {step}"
    finally:
        child.stop()
        tree.release("worker")
    installation.wait_done(uid)
    _assert_once(installation, uid)


def test_a_peer_takes_over_a_worker_that_never_comes_back(
    installation, small_study, tmp_path
) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    marker = tmp_path / "killed"
    tree.hold("worker")
    child = ChildProcess(
        "worker",
        [sys.executable, str(SCRIPT), "publish", "before", str(marker)],
        tree.directory / "logs" / "worker-dead.log",
        environment={**tree.environment, "FHIR_EXT_WORKER__EXECUTOR_ID": "dead"},
    )
    try:
        uid = installation.store(series)
        installation.wait_for(lambda: not child.alive(), "death of the first worker")
        assert marker.exists()
    finally:
        child.stop()
        tree.release("worker")
    installation.wait_done(uid)
    _assert_once(installation, uid)


def test_work_that_kills_its_worker_again_and_again_is_parked(
    installation, small_study, tmp_path
) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    tree.hold("worker")
    try:
        uid = installation.store(series)
        for attempt in range(6):
            child = ChildProcess(
                "worker",
                [sys.executable, str(SCRIPT), "analyze", "before", str(tmp_path / str(attempt))],
                tree.directory / "logs" / "worker-crashing.log",
                environment=tree.environment,
            )
            try:
                installation.wait_for(
                    lambda c=child: (
                        not c.alive() or any(r.state == "parked" for r in installation.runs(uid))
                    ),
                    "another death, or a parked study",
                )
            finally:
                child.stop()
            if any(r.state == "parked" for r in installation.runs(uid)):
                break
    finally:
        tree.release("worker")
    (run,) = [r for r in installation.runs(uid) if r.state == "parked"]
    assert run.reason == "worker-crashed"
    (task,) = installation.fhir.search(
        "Task", {"focus": f"ImagingStudy/{run.imaging_study_id}", "status": "requested"}
    )
    assert task["intent"] == "order"
