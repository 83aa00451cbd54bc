"""Engines for the two databases we run on, and their migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url

from fhir_ext.errors import SettingsError

#: Seconds a SQLite writer waits for another process before it gives up.
BUSY_SECONDS = 30


def create_store_engine(url: str) -> Engine:
    """Engine for our tables or the queue.

    SQLite is put into WAL mode, which is a property of the file and lets the HTTP side
    read while the worker writes; `synchronous=FULL` makes an answered enqueue survive a
    power cut, not only a killed process.

    Raises:
        SettingsError: neither SQLite nor Postgres.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True)
    raise SettingsError("database.url must be sqlite:/// or postgresql+psycopg://")


def _sqlite_engine(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The queue's transactions read before they write; IMMEDIATE takes the write lock
        # at once, where a deferred one could fail with "database is locked".
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def queue_url(url: str) -> str:
    """URL of the queue's database: a file beside ours on SQLite, the same one on Postgres.

    Two files, because SQLite has one writer per file and the queue is polled many times
    a second.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    path = Path(parsed.database)
    return parsed.set(
        database=str(path.with_name(f"{path.stem}-queue{path.suffix}"))
    ).render_as_string(hide_password=False)


def migrate(engine: Engine) -> None:
    """Bring our tables to the newest revision; does nothing when they are there."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
