"""The embedded Postgres: boots as an ordinary user, keeps data, stops cleanly."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy

from fhir_ext.embedded.postgres import PostgresServer, ensure_postgres
from fhir_ext.errors import SettingsError, UpstreamUnavailable


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="fhir-ext-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One durable server for the tests that leave it running; initdb takes seconds."""
    with PostgresServer.temporary(print, durable=True) as running:
        yield running


def dsn(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_runs_as_an_ordinary_user_on_loopback_with_a_password(server: PostgresServer) -> None:
    process = psutil.Process(server.pid)
    assert process.uids().effective != 0
    if os.geteuid() == 0:
        # Root's other identities and capabilities are gone as well.
        assert 0 not in (*process.uids(), *process.gids())
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "Groups:\t \n" in status or "Groups:\t\n" in status
    listening = {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", server.port)}
    assert not [c for c in process.net_connections("unix") if c.laddr]

    url = server.create_database("first")
    wrong = dsn(url).replace(server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(wrong, connect_timeout=5)


def test_durable_by_default(server: PostgresServer) -> None:
    with psycopg.connect(dsn(server.create_database("durable"))) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {name}").fetchone() == ("on",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_data_outlive_a_stop_and_a_kill(server: PostgresServer) -> None:
    url = server.create_database("kept")
    assert server.create_database("kept") == url
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE seen (number integer)")
    for number, end in enumerate((server.stop, lambda: server.child.kill()), start=1):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO seen VALUES ({number})")
        engine.dispose()
        end()
        server.start(server.data_dir.parent / "postgres.log")
        server.wait_ready()
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT number FROM seen ORDER BY number").all()
    engine.dispose()
    assert [row[0] for row in rows] == [1, 2]
    assert server.url("kept") == url


def test_stop_is_quick_and_clean_although_a_client_stays(
    server: PostgresServer,
) -> None:
    log_file = server.data_dir.parent / "postgres.log"
    process = psutil.Process(server.pid)
    url = dsn(server.create_database("busy"))
    with contextlib.closing(psycopg.connect(url)) as connection:
        connection.execute("SELECT 1")
        family = [process, *process.children(recursive=True)]
        begin = time.monotonic()
        server.stop()
        assert time.monotonic() - begin < 10
    assert server.child.exit_code == 0
    assert not [member for member in family if member.is_running()]
    assert "database system is shut down" in log_file.read_text()
    with pytest.raises(UpstreamUnavailable):
        server.create_database("late")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    server.start(log_file)
    server.wait_ready()


def test_killed_parent_takes_it_along(folder: Path) -> None:
    """The change of user clears the death signal of ChildProcess; it must be set again."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from fhir_ext.embedded.postgres import PostgresServer, ensure_postgres\n"
        "folder = Path(sys.argv[1])\n"
        "server = PostgresServer(ensure_postgres(lambda line: None), folder, durable=False)\n"
        "server.start(folder.with_suffix('.log')); server.wait_ready()\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "data")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    limit = time.monotonic() + 20
    while not gone(int(done.stdout)):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_start_fails_with_its_log_when_the_port_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = PostgresServer(
            ensure_postgres(print), folder / "data", port=taken.getsockname()[1], durable=False
        )
        server.start(folder / "postgres.log")
        with pytest.raises(UpstreamUnavailable, match="Address already in use"):
            server.wait_ready()
        server.stop()


def test_half_made_cluster_is_made_anew(folder: Path) -> None:
    cluster = folder / "data" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("15\n")
    server = PostgresServer(ensure_postgres(print), folder / "data", durable=False)
    server.start(folder / "postgres.log")
    try:
        server.wait_ready()
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the cluster to another user")
def test_root_is_told_that_the_folder_is_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = PostgresServer(ensure_postgres(print), closed / "data")
    with pytest.raises(SettingsError, match="/var/lib/fhir-ext") as raised:
        server.start(tmp_path / "postgres.log")
    assert raised.value.code == "folder-closed"


def test_temporary_leaves_nothing() -> None:
    with PostgresServer.temporary(print) as server:
        folder = server.data_dir.parent
        with psycopg.connect(dsn(server.create_database("brief"))) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
    assert not folder.exists()
    assert not psutil.pid_exists(server.pid)
