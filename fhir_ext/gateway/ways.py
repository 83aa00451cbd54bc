"""The ways through to the FHIR server: a read, a search, a write, a bundle, its own operations.

What comes here was let through by the table. Here it is confined to what the token may see, and
goes on as it comes when the token may see all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fhir_ext.errors import BadRequestError, ForbiddenError
from fhir_ext.gateway.answers import patients_in
from fhir_ext.gateway.asgi import read_body
from fhir_ext.gateway.bundle import BundleGuard
from fhir_ext.gateway.compartment import COMPARTMENT_TYPES
from fhir_ext.gateway.confine import check_params, confined_params, confinement, includes
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.exchange import Exchange
from fhir_ext.gateway.interaction import Interaction, Kind, Params
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.paths import encode_params, parse_params
from fhir_ext.gateway.references import condition_of_create
from fhir_ext.gateway.relay import FHIR_JSON, Relay
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight, unseen
from fhir_ext.gateway.upstream import Upstream
from fhir_ext.gateway.writes import (
    GUARDED,
    WRITES,
    UnsupportedMediaType,
    WriteGuard,
    media_type,
    parse_resource,
    patch_body,
)

Json = dict[str, Any]

#: Read interactions whose answer holds only what was asked for.
_PLAIN = frozenset({Kind.READ, Kind.VREAD, Kind.HISTORY_INSTANCE})

#: Interactions over many patients that take no parameter to confine them.
_UNCONFINABLE = frozenset({Kind.HISTORY_TYPE, Kind.HISTORY_SYSTEM, Kind.SEARCH_SYSTEM})

_XML = frozenset({"application/fhir+xml", "application/xml", "text/xml"})

#: Types that are always looked into: Subscriptions hold secrets of other servers, and a Device
#: may be affixed to a patient.
LOOKED_INTO = frozenset({"Device", "Subscription"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the table lets through.

    Attributes:
        decision: of the table and the scopes.
        rights: of the token.
        sight: what the token may see.
    """

    exchange: Exchange
    interaction: Interaction
    decision: Decision
    rights: Rights
    sight: Sight

    @property
    def resource_type(self) -> str:
        """Empty for the whole server."""
        return self.interaction.resource_type or ""

    @property
    def query(self) -> str:
        return encode_params(self.interaction.params)

    @property
    def looked_into(self) -> bool:
        """Whether the answer may hold what this token may not see."""
        return not self.decision.unlimited or self.resource_type in LOOKED_INTO

    def with_params(self, params: Params) -> Asked:
        return replace(self, interaction=replace(self.interaction, params=params))


class Ways:
    """Takes a request to the FHIR server and its answer back.

    Args:
        operations: OperationDefinitions of our own operations, by id.
        bundle_entries: most entries of a Bundle.
        page_size: largest `_count`.
        body_bytes: largest body.
        receive_timeout: longest wait for the next piece of a body (s).
    """

    def __init__(
        self,
        upstream: Upstream,
        links: Links,
        relay: Relay,
        writes: WriteGuard,
        operations: Mapping[str, Json],
        *,
        bundle_entries: int,
        page_size: int,
        body_bytes: int,
        receive_timeout: float,
    ) -> None:
        self._upstream, self._links, self._relay = upstream, links, relay
        self._writes, self._operations = writes, operations
        self._bundles = BundleGuard(writes, links, bundle_entries)
        self._page_size, self._body_bytes = page_size, body_bytes
        self._receive_timeout = receive_timeout

    async def with_form(self, exchange: Exchange, interaction: Interaction) -> Interaction:
        """A search with the parameters of its form (R4 http.html#search).

        Raises:
            BadRequestError: a parameter is not one that a search may have here.
            UnsupportedMediaType: the body of a search is no form.
        """
        params = interaction.params
        if interaction.posted:
            if media_type(exchange.request.headers) != "application/x-www-form-urlencoded":
                raise UnsupportedMediaType("POST _search takes a form")
            body = await self._body(exchange)
            try:
                params += parse_params(body.decode("ascii"))
            except UnicodeDecodeError as error:
                raise BadRequestError("the form is not percent-encoded") from error
        for name, value in params:
            if name == "_count" and not (value.isdigit() and int(value) <= self._page_size):
                raise BadRequestError(f"_count may be 0 to {self._page_size}")
        return replace(interaction, params=self._links.inward_params(params))

    async def take(self, asked: Asked) -> None:
        """Take the request its way, and answer it.

        Raises:
            ForbiddenError, NotFoundError: the token may not do or see this.
            BadRequestError: the request is not well formed.
            UpstreamError: the FHIR server gave no answer.
        """
        kind = asked.interaction.kind
        if asked.decision.restriction and kind in (Kind.READ, Kind.SEARCH_TYPE):
            asked.sight.restricted = asked.resource_type
        definition = self._own_definition(asked.interaction)
        if definition is not None:
            await self._show(asked.exchange, dumps(definition))
        elif kind is Kind.PAGE:
            await self._page(asked)
        elif kind is Kind.BUNDLE:
            await self._bundle(asked)
        elif kind in WRITES:
            await self._write(asked)
        elif kind is Kind.OPERATION:
            await self._foreign_operation(asked)
        elif kind is Kind.SEARCH_TYPE:
            await self._search(asked)
        else:
            await self._read(asked)

    def _own_definition(self, interaction: Interaction) -> Json | None:
        if interaction.kind is not Kind.READ or interaction.resource_type != "OperationDefinition":
            return None
        return self._operations.get(interaction.resource_id or "")

    async def _page(self, asked: Asked) -> None:
        params, asked.sight.restricted = self._links.check_page(
            asked.interaction.params, asked.rights.grant
        )
        await self._checked(asked.with_params(params))

    async def _search(self, asked: Asked) -> None:
        if asked.decision.confined and asked.resource_type == "Provenance":
            asked = asked.with_params(
                await self._relay.trails.narrowed(asked.interaction.params, asked.sight)
            )
        included = includes(asked.interaction.params)
        asked = asked.with_params(
            confined_params(
                asked.interaction.params,
                asked.resource_type,
                asked.decision,
                asked.rights,
                asked.sight,
            )
        )
        if asked.looked_into or included:
            await self._checked(asked)
        else:
            await self._as_it_comes(asked)

    async def _read(self, asked: Asked) -> None:
        kind = asked.interaction.kind
        if kind in _PLAIN and not asked.looked_into:
            await self._as_it_comes(asked)
            return
        if asked.decision.restriction:
            await self._within_restriction(asked)
        if kind in _UNCONFINABLE and not asked.decision.unlimited:
            raise ForbiddenError("this cannot be confined to what the token may see", code="policy")
        check_params(asked.interaction.params, asked.decision, asked.rights)
        await self._checked(asked)

    async def _within_restriction(self, asked: Asked) -> None:
        """Ask the FHIR server whether a resource is one that the scope's restriction allows."""
        params = (
            ("_id", asked.interaction.resource_id or ""),
            *asked.decision.restriction,
            *confinement(asked.resource_type, (), asked.decision, asked.sight),
            ("_elements", "id"),
        )
        found = await self._upstream.get_json(f"/{asked.resource_type}", encode_params(params))
        if not (found or {}).get("entry"):
            raise unseen()

    async def _foreign_operation(self, asked: Asked) -> None:
        """An operation of the FHIR server that the table opens."""
        instance = asked.interaction.resource_id
        if asked.resource_type == "Patient" and instance is not None:
            if not asked.sight.patient(instance, asked.decision.rule):
                raise unseen()
        elif instance is not None or asked.decision.confined:
            raise ForbiddenError("this operation is not open on an instance", code="policy")
        posted = asked.exchange.request.method == "POST"
        await self._checked(asked, await self._body(asked.exchange) if posted else None)

    async def _write(self, asked: Asked) -> None:
        exchange, kind = asked.exchange, asked.resource_type
        headers = exchange.request.headers
        body: bytes | None = await self._body(exchange)
        resource = patch = None
        if asked.interaction.kind in (Kind.PATCH, Kind.CONDITIONAL_PATCH):
            patch = dumps(loads_exact(patch_body(body or b"", headers)))
            body = self._links.inward(patch)
        elif asked.interaction.kind in (Kind.DELETE, Kind.CONDITIONAL_DELETE):
            body = None
        elif media_type(headers) not in _XML or not _xml_allowed(asked):
            parse_resource(body or b"", headers)
            resource = loads_exact(self._links.inward(body or b""))
            self._links.relativize(resource)
            # Only what was checked is sent, as it was read here.
            body = dumps(resource)
        conditions: Params = ()
        if asked.interaction.kind is Kind.CONDITIONAL_CREATE:
            conditions = condition_of_create(headers["if-none-exist"], kind)
            headers["if-none-exist"] = f"{kind}?{encode_params(conditions)}"
        await self._writes.check(
            asked.interaction,
            asked.decision,
            asked.rights,
            asked.sight,
            resource,
            patch,
            conditions,
        )
        if resource is not None and kind in COMPARTMENT_TYPES:
            exchange.patients = patients_in(body or b"")
        exchange.resources = ("/".join(filter(None, (kind, asked.interaction.resource_id))),)
        if not asked.rights.readable(kind):
            # What was written is not shown to a token that may not read it.
            headers["prefer"] = "return=minimal"
        if asked.looked_into:
            await self._checked(asked, body)
        else:
            await self._as_it_comes(asked, body)

    async def _bundle(self, asked: Asked) -> None:
        exchange = asked.exchange
        body = await self._body(exchange)
        checked = await self._bundles.check(
            body, exchange.request.headers, asked.rights, asked.sight
        )
        exchange.bundle_type, exchange.resources = checked.kind, checked.writes
        exchange.patients = checked.patients
        if checked.body:
            await self._relay.checked(
                exchange,
                asked.interaction,
                "",
                asked.sight,
                checked.body,
                complete=checked.complete,
            )
        else:
            await self._show(exchange, checked.complete(b""))

    async def _body(self, exchange: Exchange) -> bytes:
        return await read_body(
            exchange.receive,
            self._body_bytes,
            self._receive_timeout,
            exchange.request.headers.get("content-encoding", "").strip().lower(),
        )

    async def _show(self, exchange: Exchange, body: bytes) -> None:
        """Answer with JSON of our own."""
        self._relay.note(exchange, 200)
        await exchange.answer.whole(200, [(b"content-type", FHIR_JSON)], body)

    async def _as_it_comes(self, asked: Asked, body: bytes | None = None) -> None:
        await self._relay.as_it_comes(asked.exchange, asked.interaction, asked.query, body)

    async def _checked(self, asked: Asked, body: bytes | None = None) -> None:
        await self._relay.checked(asked.exchange, asked.interaction, asked.query, asked.sight, body)


def _xml_allowed(asked: Asked) -> bool:
    """Whether a write may be XML, which is not looked into."""
    open_type = asked.resource_type not in GUARDED | LOOKED_INTO
    return asked.decision.unlimited and asked.rights.wide() and open_type
