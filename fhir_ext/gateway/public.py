"""What the gateway shows to anybody: the CapabilityStatement and SMART's configuration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fhir_ext import __version__
from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.gateway.capability import merged_capabilities
from fhir_ext.gateway.exact import dumps
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.upstream import Upstream

Json = dict[str, Any]

#: How long an answer is shown before it is made anew (s).
LIFETIME = 60.0


class PublicPages:
    """`/metadata` and `/.well-known/smart-configuration`, made at most once a minute.

    Args:
        definitions: OperationDefinitions of our operations.
        endpoints: the issuer's OAuth endpoints; may block, and may raise UpstreamError.
        smart: SMART's configuration; likewise.
    """

    def __init__(
        self,
        upstream: Upstream,
        links: Links,
        definitions: Sequence[Json],
        endpoints: Callable[[], Mapping[str, str]],
        smart: Callable[[], Json],
    ) -> None:
        self._upstream, self._links, self._definitions = upstream, links, definitions
        self._endpoints, self._smart = endpoints, smart
        self._made: dict[str, tuple[float, bytes]] = {}
        self._lock = asyncio.Lock()

    async def get(self, path: str) -> bytes:
        """Content of one page.

        Raises:
            UpstreamError: the FHIR server or the issuer is down.
        """
        made = self._made.get(path)
        if made is not None and time.monotonic() - made[0] < LIFETIME:
            return made[1]
        async with self._lock:
            made = self._made.get(path)
            if made is None or time.monotonic() - made[0] >= LIFETIME:
                made = (time.monotonic(), await self._make(path))
                self._made[path] = made
        return made[1]

    async def _make(self, path: str) -> bytes:
        if path != "/metadata":
            return dumps(await asyncio.to_thread(self._smart))
        endpoints = await asyncio.to_thread(self._endpoints)
        statement = await self._upstream.get_json("/metadata")
        if statement is None:
            raise UpstreamUnavailable("the FHIR server has no CapabilityStatement")
        merged = merged_capabilities(
            statement, self._links.public, self._definitions, endpoints, __version__
        )
        return self._links.outward(dumps(merged))
