"""The FHIR client: fhirpy on one kept connection pool, errors in our tree.

Everything that talks to HAPI as a client goes through here; nothing else imports fhirpy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import orjson
import requests
from fhirpy import SyncFHIRClient
from requests import Response

from fhir_ext.clients.http import build_session
from fhir_ext.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from fhir_ext.settings import FhirSettings

Json = dict[str, Any]

#: HAPI answers 409 when two writers meet on one resource; the loser waits this long (s)
#: and tries again. The last wait is followed by an error.
CONFLICT_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)

#: HAPI's header by which labels of a resource are replaced and not merged.
META_SNAPSHOT = {"X-Meta-Snapshot-Mode": "TAG, PROFILE, SECURITY_LABEL"}


class _PooledClient(SyncFHIRClient):
    """fhirpy with its one transport method on a session of ours.

    fhirpy opens a new connection for every request and reports upstream failures, conflicts
    and bad requests by one exception; the session keeps connections and `_checked` tells
    the cases apart by status.
    """

    def __init__(self, settings: FhirSettings) -> None:
        super().__init__(settings.base_url)
        self._timeout = settings.timeout.total_seconds()
        self._session = build_session(settings.auth, settings.timeout)

    def _do_request(
        self,
        method: str,
        path: str,
        data: Json | None = None,
        params: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        *,
        returning_status: bool = False,
    ) -> Any:
        response = self.send(method, path, data, params, extra_headers)
        body = response.json() if response.content else None
        return (body, response.status_code) if returning_status else body

    def send(
        self,
        method: str,
        path: str,
        data: Json | None = None,
        params: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Response:
        headers = {
            "Accept": "application/fhir+json",
            # A fresh search instead of a stored result. `no-store` would also be fresh, but
            # HAPI then keeps nothing to page through and leaves out the `next` link.
            "Cache-Control": "no-cache",
            **(extra_headers or {}),
        }
        body = None
        if data is not None:
            headers["Content-Type"] = "application/fhir+json"
            body = json.dumps(data, separators=(",", ":")).encode()
        url = self._build_request_url(path, params)
        try:
            response = self._session.request(
                method, url, data=body, headers=headers, timeout=self._timeout
            )
        except requests.Timeout as error:
            raise UpstreamTimeout("the FHIR server did not answer in time") from error
        except requests.RequestException as error:
            raise UpstreamUnavailable("the FHIR server cannot be reached") from error
        return _checked(response)


def _checked(response: Response) -> Response:
    status = response.status_code
    if status < 400:
        return response
    if status in (404, 410):
        raise NotFoundError("no such resource in the FHIR server", code="resource-not-found")
    if status in (401, 403):
        raise ForbiddenError("the FHIR server refused our credentials", code="fhir-credentials")
    if status in (409, 412):
        raise ConflictError("the FHIR server reports a conflict", code="write-conflict")
    if status in (408, 429) or status >= 500:
        raise UpstreamError(f"the FHIR server answered {status}", code="fhir-server-error")
    # The diagnostics may quote the resource, so only the status is told.
    raise UnprocessableError(f"the FHIR server refused a resource ({status})", code="fhir-refused")


def _entry_answer(entry: Json) -> Json | None:
    """What one entry of a batch was answered."""
    status = str(entry.get("response", {}).get("status", ""))[:3]
    if status in ("404", "410"):
        return None
    if not status.startswith("2") or "resource" not in entry:
        raise UpstreamError("the FHIR server failed in a batch", code="fhir-server-error")
    return cast("Json", entry["resource"])


class FhirClient:
    """Reads, searches and writes in HAPI.

    Safe to share between threads. Every method raises `UpstreamError` (and children) when
    the server is down or slow, `NotFoundError` for 404 and 410, `ForbiddenError`,
    `ConflictError` and `UnprocessableError` for what their names say.
    """

    def __init__(self, settings: FhirSettings) -> None:
        self.base_url = settings.base_url.rstrip("/")
        self._client = _PooledClient(settings)

    def read(self, resource_type: str, resource_id: str) -> Json:
        return cast("Json", self._client.send("GET", f"{resource_type}/{resource_id}").json())

    def find(self, resource_type: str, resource_id: str) -> Json | None:
        """Like `read`, None where it does not exist or was deleted."""
        try:
            return self.read(resource_type, resource_id)
        except NotFoundError:
            return None

    def search(
        self, resource_type: str, params: Mapping[str, Any], limit: int = 1000
    ) -> list[Json]:
        """All matches (not the included resources), following pages, at most `limit`."""
        found = []
        for bundle in self.pages(resource_type, params):
            for entry in bundle.get("entry", []):
                if entry.get("search", {}).get("mode", "match") == "match":
                    found.append(entry["resource"])
                    if len(found) >= limit:
                        return found
        return found

    def pages(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[Json]:
        """Pages of a search as Bundles, following `next` links."""
        bundle: Json = self._client.send("GET", resource_type, params=params).json()
        while True:
            yield bundle
            following = next(
                (link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None
            )
            if following is None:
                return
            # A link may name the server as others see it; only its query is taken.
            query = following.partition("?")[2]
            bundle = self._client.send("GET", f"{self.base_url}?{query}").json()

    def put(self, resource: Json) -> Json:
        """Create or update under the resource's own id; waits out write conflicts."""
        path = f"{resource['resourceType']}/{resource['id']}"
        return self._retrying("PUT", path, resource)

    def transaction(self, bundle: Json) -> Json:
        """Send a transaction Bundle; all of it happens or nothing does."""
        return self._retrying("POST", "", bundle)

    def transaction_once(self, bundle: Json, *, replace_labels: bool = False) -> Json:
        """A transaction that is not tried again: `ConflictError` is raised at once.

        For a caller that must read again before it knows what to write.

        Args:
            replace_labels: `meta.security` becomes what is sent. A server otherwise adds to
                what it has (FHIR R4 resource.html#Meta): a label could not be taken away.
        """
        headers = META_SNAPSHOT if replace_labels else None
        answer = self._client.send("POST", "", bundle, extra_headers=headers)
        return cast("Json", answer.json())

    def batch(self, queries: Sequence[str]) -> list[Json | None]:
        """Answers of several GETs in one request, in their order; None for 404 and 410.

        Args:
            queries: relative URLs, their values percent-encoded. A search answers its first
                page only, without a link to the next one: nothing is kept to page through.

        Raises:
            UpstreamError: also when one of the GETs failed.
        """
        entries = [{"request": {"method": "GET", "url": query}} for query in queries]
        bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
        fresh = {"Cache-Control": "no-store"}
        answer = orjson.loads(self._client.send("POST", "", bundle, extra_headers=fresh).content)
        found = [_entry_answer(entry) for entry in answer.get("entry", [])]
        if len(found) != len(queries):
            raise UpstreamError("the FHIR server left out answers", code="fhir-server-error")
        return found

    def validate(self, resource: Json) -> Json:
        """The OperationOutcome of `$validate`."""
        path = f"{resource['resourceType']}/$validate"
        return cast("Json", self._client.send("POST", path, resource).json())

    def metadata(self) -> Json:
        return cast("Json", self._client.send("GET", "metadata").json())

    def _retrying(self, method: str, path: str, resource: Json) -> Json:
        for wait in CONFLICT_WAITS:
            try:
                return cast("Json", self._client.send(method, path, resource).json())
            except ConflictError:
                time.sleep(wait)
        raise UpstreamError("the FHIR server keeps reporting a conflict", code="write-conflict")
