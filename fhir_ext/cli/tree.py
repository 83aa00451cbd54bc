"""`fhir-ext up`: HAPI, archive, serve and worker as one supervised tree of processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import requests
from rich.console import Console

from fhir_ext.cli.demo_names import DEMO_ISSUERS, SUMMARY
from fhir_ext.cli.identity import issuer_settings
from fhir_ext.cli.parts import prepare_stores
from fhir_ext.embedded.archive import OrthancServer
from fhir_ext.embedded.hapi import HapiServer, ensure_hapi
from fhir_ext.embedded.process import ChildProcess, free_port, wait_until
from fhir_ext.embedded.server import EmbeddedServer
from fhir_ext.errors import SettingsError
from fhir_ext.settings import Settings

Progress = Callable[[str], None]

#: A program that ends by itself is started again, but not more often than this in a minute.
RESTARTS_PER_MINUTE = 5


@dataclass
class Supervised:
    """One program of ours: how to start it, and its running child."""

    name: str
    start: Callable[[], ChildProcess]
    child: ChildProcess
    held: bool = False
    restarts: list[float] = field(default_factory=list)


class Tree:
    """A running tree on loopback and free ports.

    Everything is started from the thread that calls `start`, which must be the main
    thread: the children die with it even when this process is killed.

    Args:
        directory: data, logs and `state.json`; kept between runs unless `fresh`.
        progress: takes one line per event, for people.
        environment: further `FHIR_EXT_*` settings for our programs.

    Raises:
        SettingsError: another tree runs in this folder.
    """

    def __init__(
        self,
        directory: Path,
        progress: Progress,
        *,
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory, self._progress = directory.resolve(), progress
        self._extra = dict(environment or {})
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.directory / "lock")
        if fresh:
            # Versions without a row would stand in the way of those that are installed next.
            for name in ("hapi", "archive", "db", "audit", "models"):
                shutil.rmtree(self.directory / name, ignore_errors=True)
        self.environment: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        self._servers: list[EmbeddedServer] = []
        self._programs: list[Supervised] = []

    @property
    def settings(self) -> Settings:
        """Settings as the tree's own programs see them."""
        with _environment(self.environment):
            return Settings()

    def start(self) -> None:
        """Start everything and wait until it is ready to work.

        Raises:
            FhirExtError: a part could not be installed or did not start; says which and why.
        """
        archive, hapi = self._start_servers()
        self.environment = self._settings_of(archive, hapi)
        self._progress("preparing the database; loading code systems and profiles into HAPI")
        prepare_stores(self.settings)
        for name in ("issuer", "serve", "worker"):
            self._programs.append(self._supervised(name))
        service = self.urls["status page"]
        wait_until(
            lambda: _answers(f"{self.urls['issuer']}/.well-known/openid-configuration"),
            60,
            "the development issuer of tokens",
            self._child("issuer"),
        )
        wait_until(
            lambda: _answers(f"{service}health/live"), 60, "the service", self._child("serve")
        )
        self._progress("waiting until HAPI has activated our Subscription")
        wait_until(
            lambda: _answers(f"{service}health/ready"), 90, "readiness", self._child("worker"), 0.2
        )
        self._write_state()

    def _start_servers(self) -> tuple[OrthancServer, HapiServer]:
        build = ensure_hapi(self._progress)
        archive = OrthancServer.ensure(self.directory / "archive", self._progress)
        self._progress("starting the archive (Orthanc) and HAPI FHIR; HAPI takes 10 to 30 s")
        archive.start(self.directory / "logs" / "archive.log")
        self._servers.append(archive)
        hapi = HapiServer(build, self.directory / "hapi", free_port())
        hapi.start(self.directory / "logs" / "hapi.log")
        self._servers.append(hapi)
        archive.wait_ready()
        seconds = hapi.wait_ready()
        self._progress(f"HAPI FHIR is ready after {seconds:.0f} s")
        return archive, hapi

    def _settings_of(self, archive: OrthancServer, hapi: HapiServer) -> dict[str, str]:
        port, metrics, issuer = free_port(), free_port(), free_port()
        service = f"http://127.0.0.1:{port}/"
        self.urls = {
            "status page": service,
            "gateway": f"{service}fhir",
            "issuer": f"http://127.0.0.1:{issuer}",
            "FHIR server": hapi.base_url,
            "DICOMweb": archive.dicomweb_url,
            "archive pages": archive.rest_url,
            "worker metrics": f"http://127.0.0.1:{metrics}/metrics",
        }
        database = self.directory / "db"
        database.mkdir(exist_ok=True)
        return {
            "FHIR_EXT_FHIR__BASE_URL": hapi.base_url,
            "FHIR_EXT_ARCHIVE__QIDO_URL": archive.dicomweb_url,
            "FHIR_EXT_ARCHIVE__WADO_URL": archive.dicomweb_url,
            "FHIR_EXT_ARCHIVE__STOW_URL": archive.dicomweb_url,
            "FHIR_EXT_ARCHIVE__ORTHANC_URL": archive.rest_url,
            "FHIR_EXT_ARCHIVE__AUTH__KIND": "basic",
            "FHIR_EXT_ARCHIVE__AUTH__USERNAME": archive.username,
            "FHIR_EXT_ARCHIVE__AUTH__PASSWORD": archive.password,
            "FHIR_EXT_DATABASE__URL": f"sqlite:///{database / 'fhir-ext.sqlite'}",
            "FHIR_EXT_INTAKE__HOOK_SECRET": secrets.token_urlsafe(24),
            "FHIR_EXT_INTAKE__HOOK_URL": f"{service}hooks",
            "FHIR_EXT_SERVER__PORT": str(port),
            "FHIR_EXT_SERVER__PUBLIC_URL": service,
            "FHIR_EXT_TELEMETRY__WORKER_METRICS_PORT": str(metrics),
            "FHIR_EXT_TELEMETRY__LOG_SALT": secrets.token_urlsafe(16),
            "FHIR_EXT_WORKER__EXECUTOR_ID": "local",
            "FHIR_EXT_MODELS__FOLDER": str(self.directory / "models"),
            "FHIR_EXT_MODELS__INBOX": str(self.directory / "model-inbox"),
            **issuer_settings(self.directory, issuer, service.rstrip("/")),
            **self._extra,
        }

    def _supervised(self, name: str) -> Supervised:
        def start() -> ChildProcess:
            return ChildProcess(
                name,
                [sys.executable, "-m", "fhir_ext", name],
                self.directory / "logs" / f"{name}.log",
                environment=self.environment,
            )

        self._progress(f"starting fhir-ext {name}")
        return Supervised(name, start, start())

    def _child(self, name: str) -> ChildProcess:
        return next(program.child for program in self._programs if program.name == name)

    def pid(self, name: str) -> int:
        """Process id of `issuer`, `serve` or `worker`."""
        return self._child(name).pid

    def hold(self, name: str) -> None:
        """Stop `serve` or `worker` and leave it stopped until `release`."""
        program = next(program for program in self._programs if program.name == name)
        program.held = True
        program.child.stop()

    def release(self, name: str) -> None:
        """Start what `hold` stopped."""
        program = next(program for program in self._programs if program.name == name)
        program.held, program.child = False, program.start()

    def server(self, name: str) -> EmbeddedServer:
        """The running HAPI (`hapi`) or archive (`archive`)."""
        return next(server for server in self._servers if server.name == name)

    def watch_once(self) -> None:
        """Start again what ended by itself; called in turns while the tree is up."""
        for program in self._programs:
            if program.held or program.child.alive():
                continue
            moment = time.monotonic()
            program.restarts = [t for t in program.restarts if moment - t < 60]
            if len(program.restarts) >= RESTARTS_PER_MINUTE:
                continue
            program.restarts.append(moment)
            self._progress(f"fhir-ext {program.name} ended ({program.child.exit_code}); restarting")
            program.child = program.start()
            self._write_state()

    def stop(self) -> None:
        """Stop everything, ours first; returns when all of it is gone."""
        for program in reversed(self._programs):
            program.child.terminate()
        for program in reversed(self._programs):
            program.child.stop()
        for server in reversed(self._servers):
            server.stop()
        self._programs, self._servers = [], []
        (self.directory / "state.json").unlink(missing_ok=True)
        self._lock.close()

    def _write_state(self) -> None:
        pids = {program.name: program.child.pid for program in self._programs}
        pids |= {server.name: server.pid for server in self._servers}
        state = {
            "urls": self.urls,
            "pids": {"up": os.getpid(), **pids},
            "logs": str(self.directory / "logs"),
            "environment": self.environment,
        }
        path = self.directory / "state.json"
        # It holds the archive's password and the hook secret.
        path.touch(mode=0o600)
        path.write_text(json.dumps(state, indent=2))


def _locked(path: Path) -> IO[bytes]:
    """A file that is locked until it is closed, also by our death.

    Raises:
        SettingsError: another process holds it.
    """
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SettingsError(
            f"something runs in {path.parent} already: stop it, or name another folder with --dir"
        ) from error
    return file


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of an exception in the middle."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _phantoms() -> dict[str, str]:
    """Settings by which the patients of `fhir-ext phantom` are found."""
    name = "FHIR_EXT_BRIDGE__ISSUERS"
    if "FHIR_EXT_CONFIG" in os.environ:
        return {}
    return {name: os.environ.get(name) or DEMO_ISSUERS}


def run_until_interrupted(directory: Path, *, fresh: bool) -> None:
    """Bring the tree up, show where to look, and keep it up until Ctrl-C or SIGTERM."""
    console = Console()
    tree = Tree(
        directory,
        lambda line: console.print(f"  {line}", highlight=False),
        fresh=fresh,
        environment=_phantoms(),
    )
    # What lies here is not the demo's any more, which would delete it.
    (tree.directory / SUMMARY).unlink(missing_ok=True)
    with interruptible() as stop:
        try:
            tree.start()
            console.print("\n[bold]Everything is up.[/] Ctrl-C stops it.")
            for name, url in tree.urls.items():
                console.print(f"  {name:15} {url}", highlight=False)
            console.print(f"  {'state':15} {tree.directory / 'state.json'}", highlight=False)
            while not stop.wait(0.5):
                tree.watch_once()
        finally:
            console.print("stopping …")
            tree.stop()
    console.print("everything is stopped")
