"""The status page, the same as JSON, and health for load balancers."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fhir_ext.errors import NotFoundError
from fhir_ext.status import words
from fhir_ext.status.service import StatusDeps, StatusService
from fhir_ext.status.views import StatusView

#: Files that the page loads, and their types.
ASSETS = {
    "icon.svg": "image/svg+xml",
    "status.css": "text/css",
    "status.js": "text/javascript",
}

#: Newest studies on a page without `limit`, and the most that one may ask for.
DEFAULT_LIMIT, LARGEST_LIMIT = 50, 500

Limit = Annotated[int, Query(ge=1, le=LARGEST_LIMIT, description="Newest studies to show.")]


def status_router(deps: StatusDeps) -> APIRouter:
    """Routes `/`, `/status.json`, `/assets/…`, `/health/live` and `/health/ready`."""
    router = APIRouter(tags=["status"])
    service = StatusService(deps)
    page_template = _templates().get_template("page.html")

    @router.get("/", include_in_schema=False)
    def page(limit: Limit = DEFAULT_LIMIT) -> Response:
        """The status page."""
        html = page_template.render(
            status=service.overview(limit), limit=limit, largest=LARGEST_LIMIT
        )
        return Response(html, media_type="text/html", headers={"cache-control": "no-store"})

    @router.get("/status.json")
    def as_json(limit: Limit = DEFAULT_LIMIT) -> StatusView:
        """What the status page shows, as JSON."""
        return service.overview(limit)

    @router.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        """Style and script of the page."""
        if name not in ASSETS:
            raise NotFoundError("no such file")
        content = resources.files("fhir_ext.status").joinpath("assets", name).read_bytes()
        return Response(content, media_type=ASSETS[name])

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """This process answers, even when all of its threads wait for others."""
        return {"ok": True}

    @router.get("/health/ready")
    def ready(response: Response) -> dict[str, Any]:
        """Every part is there; 503 when one is not."""
        states = service.health()
        ok = all(state.ok for state in states.values())
        response.status_code = 200 if ok else 503
        parts = {name: {"ok": s.ok, "detail": s.detail} for name, s in states.items()}
        return {"ok": ok, "parts": parts}

    return router


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fhir_ext.status", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clock=words.clock,
        duration=words.duration,
        region=words.region_words,
        steps=words.steps,
        uid_parts=words.uid_parts,
        unit=words.unit_words,
    )
    return environment
