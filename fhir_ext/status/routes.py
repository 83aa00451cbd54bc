"""The status page, the same as JSON, and health for load balancers."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fhir_ext.errors import NotFoundError
from fhir_ext.status.service import StatusDeps, health, overview

#: Files that the page loads, and their types.
ASSETS = {
    "icon.svg": "image/svg+xml",
    "status.css": "text/css",
    "status.js": "text/javascript",
}

Limit = Annotated[int, Query(ge=1, le=500, description="Newest runs to show.")]


def status_router(deps: StatusDeps) -> APIRouter:
    """Routes `/`, `/status.json`, `/assets/…`, `/health/live` and `/health/ready`."""
    router = APIRouter(tags=["status"])
    templates = Environment(
        loader=PackageLoader("fhir_ext.status", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["short"] = shortened

    @router.get("/", include_in_schema=False)
    def page(limit: Limit = 50) -> Response:
        """The status page."""
        html = templates.get_template("page.html").render(status=overview(deps, limit))
        return Response(html, media_type="text/html", headers={"Cache-Control": "no-store"})

    @router.get("/status.json")
    def as_json(limit: Limit = 50) -> dict[str, Any]:
        """What the status page shows, as JSON."""
        return overview(deps, limit)

    @router.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        """Style and script of the page."""
        if name not in ASSETS:
            raise NotFoundError("no such file")
        content = resources.files("fhir_ext.status").joinpath("assets", name).read_bytes()
        return Response(content, media_type=ASSETS[name])

    @router.get("/health/live")
    def live() -> dict[str, bool]:
        """This process answers."""
        return {"ok": True}

    @router.get("/health/ready")
    def ready(response: Response) -> dict[str, Any]:
        """Every part is there; 503 when one is not."""
        states = health(deps.checks)
        ok = all(state.ok for state in states.values())
        response.status_code = 200 if ok else 503
        parts = {name: {"ok": s.ok, "detail": s.detail} for name, s in states.items()}
        return {"ok": ok, "parts": parts}

    return router


def shortened(uid: str) -> str:
    """A UID as it fits a table: its beginning and its end."""
    return uid if len(uid) <= 24 else f"{uid[:10]}…{uid[-10:]}"
