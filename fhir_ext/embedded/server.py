"""What all servers that we run ourselves have in common: start, readiness, stop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import requests

from fhir_ext.embedded.process import ChildProcess, wait_until


class EmbeddedServer(ABC):
    """One server on loopback, as a child of this process.

    Args:
        data_dir: its data; also its working directory.

    Attributes:
        name: of the process.
        title: how people know it.
        start_limit: longest wait (s) for its readiness.
        stop_grace: how long (s) it may take to stop before it is killed.
        poll: pause (s) between two looks at its readiness.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    start_limit: ClassVar[float]
    stop_grace: ClassVar[float] = 20.0
    poll: ClassVar[float] = 0.1

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self._child: ChildProcess | None = None
        self._started = 0.0

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables that `command` needs besides the usual ones; may hold passwords."""

    @abstractmethod
    def prepare(self) -> None:
        """Write what `command` needs."""

    @abstractmethod
    def works(self) -> bool:
        """Whether it answers as one that does its work."""

    @property
    def child(self) -> ChildProcess:
        """The running process; RuntimeError before `start`."""
        if self._child is None:
            raise RuntimeError(f"{self.title} was not started")
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    def start(self, log_file: Path) -> None:
        """Start it; returns at once. Call from the main thread, see `ChildProcess`."""
        self.prepare()
        self._started = time.monotonic()
        self._child = ChildProcess(
            self.name, self.command(), log_file, environment=self.environment(), cwd=self.data_dir
        )

    def wait_ready(self, limit: float | None = None) -> float:
        """Wait until it does its work; returns seconds since `start`.

        Args:
            limit: longest wait (s); `start_limit` without it.

        Raises:
            UpstreamUnavailable: it ended; the message quotes its log.
            UpstreamTimeout: it was not ready within `limit` seconds.
        """
        longest = self.start_limit if limit is None else limit
        wait_until(self.ready, longest, f"readiness of {self.title}", self.child, self.poll)
        return time.monotonic() - self._started

    def ready(self) -> bool:
        """Whether it lives and does its work."""
        # Asked again: another program on the same port would answer while ours is ending.
        return self.child.alive() and self.works() and self.child.alive()

    def stop(self, grace: float | None = None) -> None:
        """Ask it to stop, kill it after `grace` seconds; returns when it is gone."""
        if self._child is not None:
            self._child.stop(self.stop_grace if grace is None else grace)


def answers(url: str, auth: tuple[str, str] | None = None, patience: float = 30.0) -> bool:
    """Whether a GET is answered with 200.

    Args:
        auth: user and password.
        patience: longest wait (s) for the answer.
    """
    try:
        with requests.Session() as session:
            # A proxy of the environment must not stand between us and loopback.
            session.trust_env = False
            session.auth = auth
            return session.get(url, timeout=patience).status_code == 200
    except requests.RequestException:
        return False
