"""Last of the run: no name, record number or UID that went in is in what our programs wrote."""

from __future__ import annotations

import requests

#: Logs of our own programs, whatever a test called them.
OURS = ("serve", "worker")


def _our_logs(tree) -> dict[str, str]:
    return {
        path.name: path.read_text("utf-8", errors="replace")
        for path in sorted((tree.directory / "logs").glob("*.log"))
        if path.name.startswith(OURS)
    }


def test_logs_hold_no_patient_data(installation) -> None:
    logs = _our_logs(installation.tree)
    assert any("hook-accepted" in text for text in logs.values()), "the logs are not empty"
    assert any("step-retried" in text for text in logs.values())
    found = {
        (name, index)
        for name, text in logs.items()
        for index, value in enumerate(sorted(installation.planted))
        if value in text
    }
    assert len(installation.planted) > 100
    assert not found, "patient data in the logs (file, number in the sorted list)"


def test_metrics_hold_no_patient_data(installation) -> None:
    urls = installation.tree.urls
    installation.wait_for(installation.ready, "readiness after the last fault")
    pages = [
        requests.get(url, timeout=10).text
        for url in (f"{urls['status page']}metrics", urls["worker metrics"])
    ]
    assert all("fhir_ext_" in page for page in pages)
    assert not [v for v in installation.planted if any(v in page for page in pages)]
