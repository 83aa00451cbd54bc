"""Networks that pass their cases and then misbehave: the study is parked, everybody else lives."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from network_samples import manifest_of
from pydicom import Dataset

from models.lifecycle import State
from operations.model_registry.actor import Actor

Json = dict[str, Any]
Study = Callable[..., list[list[Dataset]]]

ACTOR = Actor("test", "cli")
SERVICE = "site-fault"


# The phantom of a case has 120 slices, the tests' studies have fewer.


class Hangs(torch.nn.Module):
    """Mean of the volume; never ends for one of another length than the case's."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        found = volume.flatten(1).mean(1, keepdim=True)
        while volume.shape[2] != 120:
            found = found + 0.0
        return found


class Grows(torch.nn.Module):
    """Mean of the volume; takes memory without end for one of another length than the case's."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        found = volume.flatten(1).mean(1, keepdim=True)
        kept: list[torch.Tensor] = []
        while volume.shape[2] != 120:
            # Each another one: what is the same in every round torch makes once.
            kept.append(torch.ones([10_000_000]) * float(len(kept)))
        return found + float(len(kept))


class NotFinite(torch.nn.Module):
    """Mean of the volume; NaN for one of another length than the case's."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        found = volume.flatten(1).mean(1, keepdim=True)
        return found if volume.shape[2] == 120 else found / 0.0 * 0.0


class WrongShape(torch.nn.Module):
    """Mean of the volume; twice for one of another length than the case's."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        found = volume.flatten(1).mean(1, keepdim=True)
        return found if volume.shape[2] == 120 else torch.cat([found, found], 1)


def folder_of(folder: Path, network: torch.nn.Module, version: str, **runtime: Any) -> Path:
    folder.mkdir()
    output = {
        "name": "mean",
        "region": "lungs",
        "unit": "[hnsf'U]",
        "valid": [-2000, 2000],
        "tensor": "mean",
    }
    manifest = manifest_of(
        folder,
        network,
        [output],
        id=SERVICE,
        version=version,
        tensors=[{"name": "mean", "shape": ["n", 1]}],
        batching={"max_size": 1},
        cases=[
            {
                "name": "phantom",
                "input": {"kind": "phantom"},
                "expect": [{"output": "mean", "value": -500, "tolerance": 500}],
            }
        ],
    )
    data = manifest.model_dump(mode="json", exclude_defaults=True)
    data["runtime"] |= runtime
    (folder / "manifest.yaml").write_text(yaml.safe_dump(data), "utf-8")
    return folder


class Site:
    """The running installation with one bad network at a time."""

    def __init__(self, installation: Any, small_study: Study, folder: Path) -> None:
        self.installation, self.folder = installation, folder
        self.small_study, self.models = small_study, installation.parts.models

    def activate(self, network: torch.nn.Module, version: str, **runtime: Any) -> None:
        folder = folder_of(self.folder / version, network, version, **runtime)
        self.models.install(folder, ACTOR)
        assert self.models.test(SERVICE, version, ACTOR).test_passed
        self.models.activate(SERVICE, version, ACTOR)

    def study(self) -> str:
        (series,) = self.small_study(self.installation.patient())
        uid: str = self.installation.store(series)
        return uid

    def parked(self, uid: str) -> Any:
        return self.installation.wait_for(
            lambda: next((r for r in self.installation.runs(uid) if r.state == "parked"), None),
            "a parked study",
        )

    def retire(self) -> None:
        for row in self.models.versions(SERVICE):
            if row.state in (State.ACTIVE, State.SHADOW):
                self.models.retire(SERVICE, row.version, ACTOR)


@pytest.fixture
def site(installation: Any, small_study: Study, tmp_path: Path) -> Iterator[Site]:
    made = Site(installation, small_study, tmp_path)
    yield made
    made.retire()


@pytest.mark.parametrize(
    ("network", "version", "runtime", "code"),
    [
        (Hangs(), "1.0.0", {"isolate": True, "deadline_s": 8.0}, "model-hung"),
        (Grows(), "1.0.7", {"isolate": True, "deadline_s": 60.0}, "model-memory"),
        (NotFinite(), "1.0.1", {}, "model-not-finite"),
        (WrongShape(), "1.0.2", {}, "model-output"),
    ],
    ids=["hangs", "grows", "not a number", "wrong shape"],
)
def test_its_study_is_parked_and_the_others_results_stand(
    site: Site, network: torch.nn.Module, version: str, runtime: Json, code: str
) -> None:
    site.activate(network, version, **runtime)
    uid = site.study()
    run = site.parked(uid)
    assert run.reason == code
    panels = [o for o in site.installation.results(uid)["Observation"] if "hasMember" in o]
    assert [p["code"]["coding"][0]["code"] for p in panels] == ["lung-density-panel"]
    failed = [o for o in site.installation.repository.outcomes(uid) if o.status == "failed"]
    assert [(o.service, o.reasons[0]["rule"]) for o in failed] == [(SERVICE, code)]

    # The worker lives, and the next study of a service that works is done.
    site.retire()
    site.installation.wait_done(site.study())


def test_a_shadow_that_fails_is_nobodys_business(site: Site) -> None:
    folder = folder_of(site.folder / "shadow", NotFinite(), "1.0.3")
    site.models.install(folder, ACTOR)
    site.models.test(SERVICE, "1.0.3", ACTOR)
    site.models.shadow(SERVICE, "1.0.3", ACTOR)
    uid = site.study()
    run = site.installation.wait_done(uid)
    assert run.reason is None


def test_weights_that_were_exchanged_on_the_disk_are_not_run(site: Site) -> None:
    site.activate(WrongShape(), "1.0.4")
    weights = site.installation.settings.models.folder / SERVICE / "1.0.4" / "net.ts"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    run = site.parked(site.study())
    assert run.reason == "weights-hash"


class ModelServer:
    """Speaks KServe v2 while `well`; else holds every call until it is well again, or is closed."""

    def __init__(self) -> None:
        self.well = threading.Event()
        self.well.set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                owner.well.wait(60)
                output = {"name": "mean", "datatype": "FP32", "shape": [1, 1], "data": [-500.0]}
                body = json.dumps({"model_name": "mean", "outputs": [output]}).encode()
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *details: object) -> None:
        self.well.set()
        self.http.shutdown()
        self.http.server_close()

    def manifest(self, folder: Path, version: str) -> Path:
        """A folder whose network is this server."""
        path = folder_of(folder, NotFinite(), version) / "manifest.yaml"
        data = yaml.safe_load(path.read_text("utf-8"))
        data["runtime"] = {
            "kind": "kserve",
            "url": f"http://127.0.0.1:{self.http.server_port}",
            "model": "mean",
            "deadline_s": 3.0,
            "inputs": data["runtime"]["inputs"],
            "outputs": data["runtime"]["outputs"],
        }
        path.write_text(yaml.safe_dump(data), "utf-8")
        return folder


@pytest.mark.parametrize("role", ["active", "shadow"])
def test_the_others_results_do_not_wait_for_a_model_server_that_stalls(
    site: Site, role: str
) -> None:
    version = {"active": "1.0.5", "shadow": "1.0.6"}[role]
    with ModelServer() as server:
        site.models.install(server.manifest(site.folder / role, version), ACTOR)
        assert site.models.test(SERVICE, version, ACTOR).test_passed
        (site.models.activate if role == "active" else site.models.shadow)(SERVICE, version, ACTOR)
        server.well.clear()
        uid = site.study()
        if role == "shadow":
            assert site.installation.wait_done(uid).reason is None
            return
        site.installation.wait_for(lambda: panels_of(site, uid), "the other's panel")
        assert panels_of(site, uid) == ["lung-density-panel"]
        waits = site.installation.wait_for(
            lambda: [r for r in site.installation.runs(uid) if r.state == "waiting"], "a wait"
        )
        assert waits[0].reason == "upstream-timeout"
        assert f"{SERVICE} {version}" in waits[0].detail
        server.well.set()
        site.installation.wait_for(lambda: len(panels_of(site, uid)) == 2, "the late panel")


def panels_of(site: Site, uid: str) -> list[str]:
    found = site.installation.results(uid).get("Observation", [])
    return [item["code"]["coding"][0]["code"] for item in found if "hasMember" in item]
