"""Commands that run programs: serve, worker, issuer, up, migrate."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from fhir_ext.cli.parts import load_settings, prepare_stores

PANEL = "Run"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel=PANEL)(serve)
    app.command(rich_help_panel=PANEL)(worker)
    app.command(rich_help_panel=PANEL)(issuer)
    app.command(rich_help_panel=PANEL)(up)
    app.command(rich_help_panel=PANEL)(migrate)


def serve() -> None:
    """Run the HTTP side: hooks, status page, health, metrics.

    Example: `FHIR_EXT_SERVER__PORT=8000 fhir-ext serve`
    """
    import uvicorn

    from fhir_ext.app import create_app
    from fhir_ext.logs import configure_logging
    from fhir_ext.telemetry import configure_tracing

    settings = load_settings()
    configure_logging(settings.telemetry, "serve")
    configure_tracing(settings.telemetry, "serve")
    uvicorn.run(
        create_app(settings),
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        server_header=False,
    )


def issuer() -> None:
    """Run the development issuer of tokens: loopback only, invented users, no passwords.

    Example: `FHIR_EXT_ISSUER__PORT=8001 fhir-ext issuer`
    """
    import uvicorn

    from fhir_ext.issuer.routes import create_issuer_app
    from fhir_ext.logs import configure_logging

    settings = load_settings()
    configure_logging(settings.telemetry, "issuer")
    uvicorn.run(
        create_issuer_app(settings.issuer),
        host=settings.issuer.host,
        port=settings.issuer.port,
        log_config=None,
        access_log=False,
        server_header=False,
    )


def worker() -> None:
    """Run a worker: takes studies from the queue; bridges, sweeps and repairs if it leads.

    Example: `FHIR_EXT_WORKER__EXECUTOR_ID=gpu-1 fhir-ext worker`
    """
    from prometheus_client import start_http_server

    from fhir_ext.logs import configure_logging
    from fhir_ext.telemetry import Metrics, configure_tracing
    from subscriptions.worker import running_worker

    settings = load_settings()
    configure_logging(settings.telemetry, "worker")
    configure_tracing(settings.telemetry, "worker")
    metrics = Metrics()
    if settings.telemetry.worker_metrics_port:
        start_http_server(
            settings.telemetry.worker_metrics_port, addr="127.0.0.1", registry=metrics.registry
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running_worker(settings, metrics):
        stop.wait()


def migrate() -> None:
    """Create or update our tables and the queue's, and load our code systems into HAPI.

    Example: `fhir-ext migrate`
    """
    settings = load_settings()
    prepare_stores(settings)
    typer.echo("databases are up to date; code systems and profiles are in the FHIR server")


def up(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where data, logs and state.json are kept.")
    ] = Path(".run"),
    fresh: Annotated[bool, typer.Option(help="Delete the data of an earlier run first.")] = False,
) -> None:
    """Start HAPI, archive, serve and worker as one tree on free ports; Ctrl-C stops all of it.

    Example: `fhir-ext up --dir .run`
    """
    from fhir_ext.cli.tree import run_until_interrupted

    run_until_interrupted(directory, fresh=fresh)
