"""The connection pool to the FHIR server: one warm pool, timeouts, failures in our tree."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from yarl import URL

from fhir_ext.clients.http import authorization
from fhir_ext.errors import TooLargeError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import FhirSettings, HttpAuth

Json = dict[str, Any]

#: Headers of a request that FHIR gives a meaning (R4 http.html); no other one is passed on.
PASSED_ON = (
    "accept",
    "cache-control",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-exist",
    "if-none-match",
    "prefer",
)

#: Headers of an answer that are passed back.
PASSED_BACK = ("content-type", "etag", "last-modified", "retry-after", "x-progress")

#: Headers of an answer that hold an address.
ADDRESSES = ("content-location", "location")

#: Answers up to this size (bytes) are sent on whole, larger ones as they come.
WHOLE = 64 * 1024

#: HAPI writes a Bundle in hundreds of tiny chunks (RFC 9112 section 7.1), which cost more to
#: take apart than all else that is done with it; compressed, it comes in a few.
IN_FEW_CHUNKS = {"Accept-Encoding": "gzip"}

_FHIR_JSON = {"accept": "application/fhir+json", "cache-control": "no-cache", **IN_FEW_CHUNKS}


class Upstream:
    """HTTP to the FHIR server; opened and used on the event loop.

    Args:
        settings: base URL, credentials and timeout.
        connections: most connections at once; more requests wait.
    """

    def __init__(self, settings: FhirSettings, connections: int) -> None:
        self.base = settings.base_url.rstrip("/")
        self._timeout = settings.timeout.total_seconds()
        self._connections = connections
        self._auth = settings.auth
        self._authorization = authorization(settings.auth, settings.timeout)
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, keepalive_timeout=20, ssl=_tls(self._auth)
                ),
                # A large answer may take long as long as it does not stop.
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._timeout, sock_read=self._timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def request(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the body of the answer is read inside the context.

        Args:
            path: below the base, with its leading slash.
            query: encoded.

        Raises:
            UpstreamUnavailable: refused or reset.
            UpstreamTimeout: silent for too long.
        """
        url = URL(f"{self.base}{path}{'?' if query else ''}{query}", encoded=True)
        if self._auth.kind != "none":
            # May fetch a token.
            value = (
                await asyncio.to_thread(self._authorization)
                if self._auth.kind == "oauth2"
                else self._authorization()
            )
            headers = {**headers, "Authorization": value or ""}
        try:
            async with self._opened().request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                yield response
        except TimeoutError as error:
            raise UpstreamTimeout("the FHIR server did not answer in time") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamUnavailable("the FHIR server cannot be reached") from error

    async def get_json(self, path: str, query: str = "", most: int = 50_000_000) -> Json | None:
        """A resource or Bundle for ourselves; None where it does not exist or was deleted.

        Raises:
            UpstreamError: the FHIR server fails.
            TooLargeError: the answer is larger than `most` bytes.
        """
        async with self.request("GET", path, query, _FHIR_JSON, None) as response:
            if response.status in (404, 410):
                return None
            if response.status != 200:
                raise UpstreamError(
                    f"the FHIR server answered {response.status}", code="fhir-server-error"
                )
            return parsed(await read_all(response, most))


async def read_all(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body of an answer.

    Raises:
        TooLargeError: it is larger than `most` bytes.
    """
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > most:
            raise TooLargeError(
                "the answer is too large to be checked; ask for less at a time", code="too-large"
            )
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parsed(body: bytes) -> Json:
    """An answer of the FHIR server as JSON.

    Raises:
        UpstreamError: it is no JSON object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UpstreamError("the FHIR server did not answer with JSON") from error
    if not isinstance(value, dict):
        raise UpstreamError("the FHIR server did not answer with a resource")
    return value


def _tls(auth: HttpAuth) -> ssl.SSLContext | bool:
    if auth.ca_bundle is None and auth.client_certificate is None:
        return True
    context = ssl.create_default_context(cafile=str(auth.ca_bundle) if auth.ca_bundle else None)
    if auth.client_certificate is not None:
        context.load_cert_chain(auth.client_certificate, auth.client_key)
    return context
