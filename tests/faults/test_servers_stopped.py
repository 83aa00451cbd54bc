"""HAPI or the archive is away for a while: nothing is lost, nothing is doubled."""

from __future__ import annotations

import time

import pytest

from fhir_ext.errors import UpstreamError

#: HAPI drops a notice after about a minute of failures, so it stays away for longer.
OUTAGE_SECONDS = 90


def _assert_once(installation, uid) -> None:
    results = installation.results(uid)
    assert len(results["Provenance"]) == 1
    versions = {
        r["meta"]["versionId"] for kind, rs in results.items() if kind != "Device" for r in rs
    }
    assert versions == {"1"}


def test_hapi_stopped_for_90_seconds(installation, small_study) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    (other,) = small_study(installation.patient())
    hapi = tree.server("hapi")
    uid = installation.store(series)
    hapi.stop()
    try:
        with pytest.raises(UpstreamError):
            installation.fhir.metadata()
        away = installation.store(other)
        time.sleep(OUTAGE_SECONDS)
    finally:
        hapi.start(tree.directory / "logs" / "hapi.log")
        hapi.wait_ready()
    for study in (uid, away):
        installation.wait_done(study, timeout=150)
        _assert_once(installation, study)


def test_archive_stopped_while_a_study_is_worked_on(installation, small_study) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    archive = tree.server("archive")
    tree.hold("worker")
    uid = installation.store(series)
    tree.release("worker")
    installation.wait_for(lambda: installation.runs(uid), "the study's run")
    archive.stop()
    try:
        time.sleep(5)
    finally:
        archive.start(tree.directory / "logs" / "archive.log")
        archive.wait_ready()
    installation.wait_done(uid)
    _assert_once(installation, uid)


def test_notices_lost_while_we_were_away_are_found_by_the_sweep(installation, small_study) -> None:
    """The HTTP side is down, so every hook of this study fails and is dropped."""
    tree = installation.tree
    (series,) = small_study(installation.patient())
    tree.hold("serve")
    try:
        uid = installation.store(series)
        # The sweep enqueues it although no hook could be delivered.
        installation.wait_done(uid, timeout=60)
    finally:
        tree.release("serve")
    _assert_once(installation, uid)
