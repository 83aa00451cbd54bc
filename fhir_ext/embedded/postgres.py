"""Postgres from Debian's package on this machine, run as a child process by an ordinary user."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from fhir_ext.embedded.cache import Progress
from fhir_ext.embedded.debian import Installation, ensure_programs
from fhir_ext.embedded.process import ChildProcess, free_port, wait_until
from fhir_ext.errors import SettingsError, UpstreamError, UpstreamUnavailable

PACKAGES = ("postgresql",)
PROGRAMS = "usr/lib/postgresql/*/bin"
PROGRAM_FILES = (f"{PROGRAMS}/postgres", f"{PROGRAMS}/initdb")

USERNAME = "fhir_ext"
#: Postgres refuses to run as root; the first of these that exists is used then.
UNPRIVILEGED_USERS = ("postgres", "nobody")

#: A busy machine of two cores needs 3 s to recover a small cluster after a kill.
START_LIMIT = 60.0
STOP_GRACE = 30.0


def ensure_postgres(progress: Progress) -> Installation:
    """Postgres, installed now or earlier.

    Raises:
        SettingsError: it cannot be had on this machine; says what to do.
    """
    return ensure_programs(PACKAGES, PROGRAM_FILES, progress)


class PostgresServer:
    """One Postgres cluster on 127.0.0.1, with a password and without a Unix socket.

    Args:
        installation: of `ensure_postgres`.
        data_dir: cluster and password; made by the first `start`, kept between runs. When
            we are root the cluster belongs to another user, who must be able to enter all
            folders above it.
        port: a free one without it.
        durable: False switches fsync off: quicker, and lost when the machine stops. For tests.
    """

    name = "postgres"

    def __init__(
        self,
        installation: Installation,
        data_dir: Path,
        *,
        port: int | None = None,
        durable: bool = True,
    ) -> None:
        self.installation, self.data_dir, self.durable = installation, data_dir.resolve(), durable
        self.port = port or free_port()
        self.username = USERNAME
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._child: ChildProcess | None = None
        self._started = 0.0

    @classmethod
    def ensure(cls, data_dir: Path, progress: Progress) -> Self:
        """Install what is missing; a durable server on a free port."""
        return cls(ensure_postgres(progress), data_dir)

    @classmethod
    @contextmanager
    def temporary(cls, progress: Progress, *, durable: bool = False) -> Iterator[Self]:
        """A running server on a folder that is deleted afterwards. Call from the main thread."""
        installation = ensure_postgres(progress)
        with tempfile.TemporaryDirectory(prefix="fhir-ext-postgres-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            server = cls(installation, folder / "data", durable=durable)
            server.start(folder / "postgres.log")
            try:
                server.wait_ready()
                yield server
            finally:
                server.stop()

    @property
    def password(self) -> str:
        """Password of `username`; there after the first `start`."""
        return self._password_file.read_text()

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database; holds the password."""
        host = f"127.0.0.1:{self.port}"
        return f"postgresql+psycopg://{self.username}:{self.password}@{host}/{database}"

    def command(self) -> list[str]:
        """Program and arguments, dropping root first where we are root."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self.durable else "off",
            "logging_collector": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._as_user(["postgres", "-D", str(self._cluster), *options])

    def environment(self) -> dict[str, str]:
        """Variables that `command` needs besides the usual ones."""
        return dict(self.installation.environment)

    @property
    def child(self) -> ChildProcess:
        """The running process; RuntimeError before `start`."""
        if self._child is None:
            raise RuntimeError("Postgres was not started")
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    def start(self, log_file: Path) -> None:
        """Make the cluster if there is none, and start it. Call from the main thread.

        Raises:
            SettingsError: the folder cannot be used, or initdb failed.
        """
        if not self._password_file.exists():
            self._initialize()
        self._started = time.monotonic()
        self._child = ChildProcess(
            self.name, self.command(), log_file, environment=self.environment()
        )

    def wait_ready(self, limit: float = START_LIMIT) -> float:
        """Wait until it takes connections; returns seconds since `start`.

        Raises:
            UpstreamUnavailable: it ended; the message quotes its log.
            UpstreamTimeout: it was not ready within `limit` seconds.
        """
        wait_until(self.ready, limit, "readiness of Postgres", self.child, 0.05)
        return time.monotonic() - self._started

    def ready(self) -> bool:
        """Whether it lives and lets us in."""
        if not self.child.alive():
            return False
        try:
            with self._connect():
                return self.child.alive()
        except psycopg.OperationalError:
            return False

    def create_database(self, name: str) -> str:
        """Create an empty database in UTF-8, unless it is there; returns its SQLAlchemy URL.

        Raises:
            UpstreamUnavailable: the server is not running.
            UpstreamError: the server refused.
        """
        try:
            with self._connect() as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
                if found.fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.OperationalError as error:
            raise UpstreamUnavailable("Postgres cannot be reached") from error
        except psycopg.Error as error:
            raise UpstreamError("Postgres refused to create a database") from error
        return self.url(name)

    def stop(self, grace: float = STOP_GRACE) -> None:
        """Close all sessions and shut down cleanly, kill after `grace` seconds."""
        if self._child is None:
            return
        if self._child.alive():
            # Postgres's fast shutdown; SIGTERM would wait for every client to leave.
            os.kill(self._child.pid, signal.SIGINT)
            limit = time.monotonic() + grace
            while self._child.alive() and time.monotonic() < limit:
                time.sleep(0.02)
        self._child.stop(grace=0)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.username,
            password=self.password,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "password"

    def _initialize(self) -> None:
        self._make_folders()
        # In place only when initdb is through: without it a cluster is not finished.
        password = self._password_file.with_suffix(".new")
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        self._hand_over(password)
        options = ["--encoding=UTF8", "--locale=C.UTF-8", f"--username={self.username}"]
        options += ["--auth=scram-sha-256", f"--pwfile={password}"]
        options += [] if self.durable else ["--no-sync"]
        done = subprocess.run(
            self._as_user(["initdb", "-D", str(self._cluster), *options]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment()},
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise SettingsError(f"initdb failed:\n{said}", code="install-failed")
        password.replace(self._password_file)

    def _make_folders(self) -> None:
        missing = [path for path in (self.data_dir, *self.data_dir.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o755)
        # Left over by an initdb that was killed.
        shutil.rmtree(self._cluster, ignore_errors=True)
        self._cluster.mkdir(mode=0o700)
        if self._user is None:
            return
        self._hand_over(self._cluster)
        if not self._may_use(self._cluster) or not self._may_use(self._program("postgres")):
            raise SettingsError(
                f"Postgres does not run as root, and user {self._user.pw_name} may not enter "
                f"{self.data_dir}; choose a folder whose parents all may enter, for example "
                "below /var/lib/fhir-ext",
                code="folder-closed",
            )

    def _hand_over(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _may_use(self, path: Path) -> bool:
        probe = [*self._dropping(), "test", "-x", str(path)]
        return subprocess.run(probe, check=False).returncode == 0

    def _program(self, name: str) -> Path:
        return self.installation.file(f"{PROGRAMS}/{name}")

    def _as_user(self, command: Sequence[str]) -> list[str]:
        return [*self._dropping(), str(self._program(command[0])), *command[1:]]

    def _dropping(self) -> list[str]:
        if self._user is None:
            return []
        # A change of user clears the death signal that ChildProcess has set.
        return [
            "setpriv",
            f"--reuid={self._user.pw_uid}",
            f"--regid={self._user.pw_gid}",
            "--clear-groups",
            "--pdeathsig=KILL",
            "--",
        ]


def _unprivileged_user() -> pwd.struct_passwd:
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SettingsError(
        "Postgres does not run as root, and there is no user to run it as", code="no-user"
    )
