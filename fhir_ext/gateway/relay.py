"""The way to the FHIR server and back: as it comes, or read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import aiohttp

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.errors import BadRequestError
from fhir_ext.gateway.answers import TELLING, patients_in, visible
from fhir_ext.gateway.asgi import Headers, Request
from fhir_ext.gateway.compartment import COMPARTMENT_TYPES
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.exchange import Exchange
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.gateway.links import Links, StreamRewriter
from fhir_ext.gateway.paths import MethodNotAllowed, upstream_path
from fhir_ext.gateway.records import access_record
from fhir_ext.gateway.sight import Sight, unseen
from fhir_ext.gateway.trails import Trails
from fhir_ext.gateway.upstream import (
    ADDRESSES,
    IN_FEW_CHUNKS,
    PASSED_BACK,
    PASSED_ON,
    WHOLE,
    Upstream,
    read_all,
)
from fhir_ext.gateway.writes import WRITES

FHIR_JSON = b"application/fhir+json;charset=UTF-8"

#: `Type/id` of an address with a version.
_ADDRESS = re.compile(r"([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})/_history/")


#: Answers that are short, where compressing costs more than the chunks.
_SHORT = WRITES | {Kind.READ, Kind.VREAD}

#: Answers of one resource.
_SINGLE = frozenset({Kind.READ, Kind.VREAD})

_PRECONDITIONS = frozenset({"if-match", "if-modified-since", "if-none-match"})

#: Longest query (characters) that is sent in an address.
LONGEST_QUERY = 2000


class Relay:
    """Sends requests that were allowed, and brings their answers back.

    Args:
        note: writes an access into the journal.
        checked_bytes: largest answer that is read to be checked.
    """

    def __init__(
        self,
        upstream: Upstream,
        links: Links,
        note: Callable[[AccessRecord], None],
        checked_bytes: int,
    ) -> None:
        self._upstream, self._links, self._write = upstream, links, note
        self._checked_bytes = checked_bytes
        self.trails = Trails(upstream)

    def note(self, exchange: Exchange, status: int) -> None:
        """Write the access into the journal, once."""
        if exchange.noted:
            return
        exchange.noted = True
        record = access_record(
            exchange.request_id,
            exchange.request,
            exchange.interaction,
            exchange.grant,
            status,
            bundle_type=exchange.bundle_type,
            patients=exchange.patients,
            resources=exchange.resources,
            refusal=exchange.refusal,
        )
        self._write(record)

    async def as_it_comes(
        self,
        exchange: Exchange,
        interaction: Interaction,
        query: str,
        body: bytes | None = None,
    ) -> None:
        """Send an answer on without reading it."""
        grant = exchange.grant
        assert grant is not None
        headers = _passed_on(exchange.request, interaction)
        method, path, query, body, form = _search_form(exchange.request, interaction, query, body)
        headers |= form
        async with self._upstream.request(method, path, query, headers, body) as response:
            pieces, size, more = [], 0, True
            while size <= WHOLE:
                piece = await response.content.readany()
                if not piece:
                    more = False
                    break
                pieces.append(piece)
                size += len(piece)
            start = b"".join(pieces)
            head = self._head(response)
            names_patients = interaction.resource_type in COMPARTMENT_TYPES
            exchange.resources = _written(exchange, response)
            if not more:
                if names_patients and response.status < 300:
                    exchange.patients |= patients_in(start)
                start = self._links.sign_pages(self._links.outward(start), grant)
                self.note(exchange, response.status)
                await exchange.answer.whole(response.status, head, start)
                return
            await self._stream(exchange, response, head, start, grant, names_patients)

    async def _stream(
        self,
        exchange: Exchange,
        response: aiohttp.ClientResponse,
        head: Headers,
        start: bytes,
        grant: Grant,
        names_patients: bool,
    ) -> None:
        rewriter = StreamRewriter(self._links, grant)
        if names_patients:
            exchange.patients |= patients_in(start)
        # Before the first piece: whatever ends the answer early, this much of it was shown.
        self.note(exchange, response.status)
        await exchange.answer.begin(response.status, head)
        piece = start
        while piece:
            ready = rewriter.feed(piece)
            self._add(exchange, response.status, ready, names_patients)
            await exchange.answer.piece(ready)
            piece = await response.content.readany()
        rest = rewriter.end()
        self._add(exchange, response.status, rest, names_patients)
        await exchange.answer.end(rest)

    def _add(self, exchange: Exchange, status: int, piece: bytes, names_patients: bool) -> None:
        """Note patients that a further piece of an answer tells about, before it is sent."""
        further = patients_in(piece) - exchange.patients if names_patients else frozenset()
        if further:
            told = exchange.patients
            exchange.patients, exchange.noted = frozenset(further), False
            self.note(exchange, status)
            exchange.patients = told | further

    async def checked(
        self,
        exchange: Exchange,
        interaction: Interaction,
        query: str,
        sight: Sight,
        body: bytes | None = None,
        *,
        complete: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Read an answer whole and take out what may not be seen."""
        _json_only(exchange.request, interaction)
        grant = exchange.grant
        assert grant is not None
        headers = _passed_on(exchange.request, interaction)
        headers["accept"] = "application/fhir+json"
        if interaction.kind not in WRITES:
            # The FHIR server would answer them without the resource that is to be checked.
            headers = {name: headers[name] for name in headers if name not in _PRECONDITIONS}
        method, path, query, body, form = _search_form(exchange.request, interaction, query, body)
        headers |= form
        async with self._upstream.request(method, path, query, headers, body) as response:
            content = await read_all(response, self._checked_bytes)
            head = self._head(response)
            status = response.status
            exchange.resources = _written(exchange, response)
        if content and status < 300:
            await self.trails.follow(content, sight)
            pretty = ("_pretty", "true") in interaction.params
            of_type = interaction.kind is Kind.HISTORY_TYPE
            shown = visible(content, sight, pretty=pretty, of_type=of_type)
            content = shown.body
            if interaction.kind in _SINGLE and _unchanged(exchange.request, dict(head)):
                status, content = 304, b""
            exchange.patients |= shown.patients
        elif status in (404, 410):
            raise unseen()
        elif content:
            content = _outcome_only(content, status)
        if complete is not None and status < 300:
            content = complete(content)
        content = self._links.sign_pages(self._links.outward(content), grant, sight.restricted)
        self.note(exchange, status)
        await exchange.answer.whole(status, head, content)

    def _head(self, response: aiohttp.ClientResponse) -> Headers:
        given = response.headers
        head: Headers = [
            (name.encode(), given[name].encode("latin-1")) for name in PASSED_BACK if name in given
        ]
        for name in ADDRESSES:
            if name in given:
                address = self._links.outward_text(given[name])
                head.append((name.encode(), address.encode("latin-1")))
        return head


def _unchanged(request: Request, head: dict[bytes, bytes]) -> bool:
    """Whether the caller has what is answered (RFC 9110 sections 13.1.2 and 13.1.3)."""
    known = request.headers.get("if-none-match")
    if known is not None:
        tag = head.get(b"etag", b"").decode("latin-1").removeprefix("W/")
        given = {item.strip().removeprefix("W/") for item in known.split(",")}
        return bool(tag) and bool(given & {tag, "*"})
    try:
        since = parsedate_to_datetime(request.headers["if-modified-since"])
        changed = parsedate_to_datetime(head[b"last-modified"].decode("latin-1"))
        return changed <= since
    except (KeyError, TypeError, ValueError):
        return False


def _written(exchange: Exchange, response: aiohttp.ClientResponse) -> tuple[str, ...]:
    """What a write made, with the id that the server gave it (FHIR R4 http.html#create)."""
    if exchange.bundle_type is not None or not exchange.resources or response.status >= 300:
        return exchange.resources
    headers = response.headers
    address = headers.get("Location") or headers.get("Content-Location") or ""
    found = _ADDRESS.search(address)
    return (found[1],) if found else exchange.resources


def _search_form(
    request: Request, interaction: Interaction, query: str, body: bytes | None
) -> tuple[str, str, str, bytes | None, dict[str, str]]:
    """Method, path, query, body and headers; a long search goes as a form."""
    path = upstream_path(interaction)
    long = interaction.kind is Kind.SEARCH_TYPE and len(query) > LONGEST_QUERY
    if not (interaction.posted or long):
        return request.method, path, query, body, {}
    path = path if interaction.posted else f"{path}/_search"
    form = {"content-type": "application/x-www-form-urlencoded"}
    return "POST", path, "", query.encode(), form


def _passed_on(request: Request, interaction: Interaction) -> dict[str, str]:
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    return headers if interaction.kind in _SHORT else {**headers, **IN_FEW_CHUNKS}


def _json_only(request: Request, interaction: Interaction) -> None:
    """An answer that must be read can be given in JSON only.

    Raises:
        UnsupportedMediaType: the caller asks for another format (406).
    """
    formats = [value.lower() for name, value in interaction.params if name == "_format"]
    wanted = formats[-1] if formats else request.headers.get("accept", "").lower()
    if ("_summary", "text") in interaction.params:
        # HAPI answers with a page of HTML.
        raise BadRequestError("_summary=text cannot be checked")
    if wanted and "json" not in wanted and "*/*" not in wanted:
        raise NotAcceptable("an answer that must be checked is given as JSON only")


class NotAcceptable(MethodNotAllowed):
    status = 406
    default_code = "not-acceptable"


def _outcome_only(content: bytes, status: int) -> bytes:
    """An error of the FHIR server; its diagnostics only where they speak of the request alone."""
    try:
        issues = loads_exact(content).get("issue", [])
    except (AttributeError, BadRequestError):
        issues = []
    told = [
        {
            key: issue[key]
            for key in ("severity", "code", "diagnostics", "location", "expression")
            if key in issue and (key != "diagnostics" or str(status) in TELLING)
        }
        for issue in issues
        if isinstance(issue, dict)
    ]
    fallback = [{"severity": "error", "code": "processing"}]
    return dumps({"resourceType": "OperationOutcome", "issue": told or fallback})
