"""Cross-origin calls of browser apps (the Fetch standard's CORS protocol), from settings."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_ext.gateway.asgi import Headers, Request

_METHODS = b"GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = (
    b"Accept, Authorization, Cache-Control, Content-Type, If-Match, If-Modified-Since, "
    b"If-None-Exist, If-None-Match, Prefer"
)
_EXPOSED = b"Content-Location, ETag, Last-Modified, Location, Retry-After, X-Request-Id"


class Cors:
    """Headers for origins that are allowed; others get none, and their browser refuses.

    Args:
        origins: exact origins such as `https://app.example.org`; no wildcard.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def headers(self, request: Request) -> Headers:
        """What every answer to an allowed origin has."""
        if not self._origins:
            return []
        origin = request.headers.get("origin", "")
        found: Headers = [(b"vary", b"origin")]
        if origin in self._origins:
            found.append((b"access-control-allow-origin", origin.encode("latin-1")))
            found.append((b"access-control-expose-headers", _EXPOSED))
        return found

    def is_preflight(self, request: Request) -> bool:
        """Whether a browser asks before it asks."""
        return request.method == "OPTIONS" and "access-control-request-method" in request.headers

    def preflight(self, request: Request) -> Headers:
        """What a preflight from an allowed origin is answered besides `headers`."""
        if request.headers.get("origin") not in self._origins:
            return []
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", b"600"),
        ]
