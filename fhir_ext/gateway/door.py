"""The gateway as one ASGI application: who asks, what for, whether it may be, and the way through.

    request ─▶ throttle ─▶ token ─▶ interaction ─▶ table × scopes ─▶ confinement
                                                                        │
             own operation ◀──────────────┬────────────── bundle, write, read, search
                                          ▼
                                      FHIR server ─▶ as it comes, or checked ─▶ journal ─▶ caller

An answer goes on as it comes when the token may see all of it; otherwise it is read, bounded,
and what may not be seen is taken out. Either way the access is noted before the answer ends.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.errors import (
    BadRequestError,
    FhirExtError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
)
from fhir_ext.gateway.access import SCOPE_KEY, Access
from fhir_ext.gateway.answers import patients_in
from fhir_ext.gateway.asgi import (
    Answer,
    Disconnected,
    Headers,
    Message,
    Receive,
    Request,
    Scope,
    Send,
    accepts_gzip,
    read_body,
    request_of,
    timely,
)
from fhir_ext.gateway.bundle import BundleGuard
from fhir_ext.gateway.compartment import COMPARTMENT_TYPES
from fhir_ext.gateway.confine import check_params, confined_params, confinement, includes
from fhir_ext.gateway.cors import Cors
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.exchange import Exchange
from fhir_ext.gateway.interaction import Interaction, Kind, Params
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.members import Membership
from fhir_ext.gateway.paths import encode_params, parse_params, parse_request, upstream_path
from fhir_ext.gateway.policy import Policy
from fhir_ext.gateway.references import condition_of_create
from fhir_ext.gateway.relay import FHIR_JSON, Relay
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight
from fhir_ext.gateway.throttle import Flooded, Throttle
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
from fhir_ext.logs import get_logger, incident
from fhir_ext.outcome import SECURITY_HEADERS, error_response
from fhir_ext.settings import GatewaySettings

log = get_logger(__name__)

Json = dict[str, Any]

#: Headers by which some servers let a request claim another method.
_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")

#: Read interactions whose answer holds only what was asked for.
_PLAIN = frozenset({Kind.READ, Kind.VREAD, Kind.HISTORY_INSTANCE})

#: Interactions over many patients that take no parameter to confine them.
_UNCONFINABLE = frozenset({Kind.HISTORY_TYPE, Kind.HISTORY_SYSTEM, Kind.SEARCH_SYSTEM})

_XML = frozenset({"application/fhir+xml", "application/xml", "text/xml"})

#: Grants whose rights are remembered.
MOST_GRANTS = 5000

#: What anybody may read, and its type.
PUBLIC = {
    "/metadata": FHIR_JSON,
    "/.well-known/smart-configuration": b"application/json",
}

#: Types that are always looked into: Subscriptions hold secrets of other servers, and a Device
#: may be affixed to a patient.
LOOKED_INTO = frozenset({"Device", "Subscription"})


@dataclass(frozen=True, slots=True)
class DoorParts:
    """What the gateway works with.

    Attributes:
        authenticate: token to grant; None when it must be verified first.
        verify: token to grant; may block, and raises UnauthorizedError.
        note: writes an access into the journal.
        operations: OperationDefinitions of our own operations, by id. HAPI keeps them, but
            reads by id go to its own definitions there.
        inner: the ASGI application that answers them.
        public: path of `PUBLIC` to its content.
        check_address: raises for an address that the FHIR server should not call.
    """

    authenticate: Callable[[str], Grant | None]
    verify: Callable[[str], Grant]
    note: Callable[[AccessRecord], None]
    ready: Callable[[], None]
    operations: Mapping[str, Json]
    inner: Callable[[Scope, Receive, Send], Awaitable[None]]
    public: Callable[[str], Awaitable[bytes]]
    check_address: Callable[[str], None]


class Door:
    """ASGI application for everything under `/fhir`.

    Args:
        settings: limits and timeouts.
        body_bytes: largest request body.
        mount: path it is mounted at, without a slash at its end.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        body_bytes: int,
        upstream: Upstream,
        links: Links,
        policy: Policy,
        parts: DoorParts,
        mount: str = "/fhir",
    ) -> None:
        self._settings, self._mount, self._parts = settings, mount, parts
        self._body_bytes = body_bytes
        self._receive_timeout = settings.receive_timeout.total_seconds()
        self._upstream, self._links, self._policy = upstream, links, policy
        self._members = Membership(upstream, settings.membership_lifetime)
        self._throttle = Throttle(settings.requests_per_minute, settings.burst)
        self._relay = Relay(upstream, links, parts.note, settings.checked_bytes)
        self._writes = WriteGuard(upstream, parts.check_address)
        self._bundles = BundleGuard(self._writes, links, settings.bundle_entries)
        self._cors = Cors(settings.cors_origins)
        self._rights: dict[int, Rights] = {}
        self._own = frozenset(item["code"] for item in parts.operations.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())
        common: Headers = [(b"x-request-id", request_id.encode()), *_SECURITY]
        try:
            request = request_of(scope, self._mount)
        except BadRequestError as error:
            await error_response(error)(scope, receive, send)
            return
        common += self._cors.headers(request)
        answer = Answer(send, common, accepts_gzip(request))
        exchange = Exchange(request, request_id, receive, answer)
        if self._cors.is_preflight(request):
            await answer.whole(204, self._cors.preflight(request), b"")
            return
        try:
            await self._serve(exchange, scope, receive, send)
        except Disconnected:
            return
        except FhirExtError as error:
            await self._refuse(exchange, error)
        except Exception as error:
            number = incident(log, "request-failed", error)
            if answer.started:
                raise
            text = f"unexpected error; the log has it as incident {number}"
            await self._refuse(exchange, FhirExtError(text))

    async def _refuse(self, exchange: Exchange, error: FhirExtError) -> None:
        """Answer with an OperationOutcome, and note the refusal."""
        exchange.refusal = error.code
        # The first refusal of a flood is noted; the others would flood the audit.
        exchange.noted = exchange.noted or isinstance(error, Flooded)
        if exchange.answer.started:
            # What was begun cannot be taken back; the broken answer shows that it is none.
            raise error
        response = error_response(error)
        try:
            self._relay.note(exchange, response.status_code)
        except FhirExtError as failed:
            response = error_response(failed)
        headers = [
            (name, value)
            for name, value in response.raw_headers
            if name not in (b"content-length",)
        ]
        await exchange.answer.whole(response.status_code, headers, bytes(response.body))

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        request = exchange.request
        if request.method == "GET" and request.path in PUBLIC:
            # Anybody may read it, so there is no access to note.
            exchange.noted = True
            content = await self._parts.public(request.path)
            head = [(b"content-type", PUBLIC[request.path])]
            await exchange.answer.whole(200, head, content)
            return
        # A write is not taken back when it cannot be noted afterwards.
        self._parts.ready()
        exchange.grant = grant = await self._grant(request)
        # By user: all users of an app have its client id.
        self._throttle.take(f"{grant.client_id}/{grant.subject}")
        if any(name in request.headers for name in _OVERRIDES):
            raise BadRequestError("method overrides are not understood here", code="override")
        interaction = parse_request(
            request.method,
            request.path,
            parse_params(request.query),
            if_none_exist="if-none-exist" in request.headers,
        )
        exchange.interaction = interaction
        rights = self._rights_of(grant)
        own = interaction.operation in self._own
        decision = rights.decide(interaction)
        sight = Sight(rights, await self._members_for(rights))
        if own:
            await self._operation(exchange, decision, rights, sight, scope, receive, send)
            return
        interaction = await self._with_form(exchange, interaction)
        exchange.interaction = interaction
        await self._dispatch(exchange, interaction, decision, rights, sight)

    async def _grant(self, request: Request) -> Grant:
        """The grant of the request's token (RFC 6750 section 2.1).

        Raises:
            UnauthorizedError: there is none, or it does not hold.
        """
        header = request.headers.get("authorization", "")
        kind, _, token = header.partition(" ")
        if "authorization" in request.repeated or kind.lower() != "bearer" or not token.strip():
            self._throttle.take(f"address/{request.address}")
            raise UnauthorizedError("a bearer token is needed", code="no-token")
        token = token.strip()
        grant = self._parts.authenticate(token)
        if grant is None:
            # A flood of tokens that do not hold costs signatures to check.
            self._throttle.take(f"address/{request.address}")
            grant = await asyncio.to_thread(self._parts.verify, token)
        return grant

    def _rights_of(self, grant: Grant) -> Rights:
        # By identity, which is quicker than by value: the verifier hands out the same grant
        # for the same token, and the rights keep it alive.
        rights = self._rights.get(id(grant))
        if rights is None or rights.grant is not grant:
            if len(self._rights) >= MOST_GRANTS:
                self._rights.clear()
            rights = self._rights[id(grant)] = Rights(grant, self._policy)
        return rights

    async def _members_for(self, rights: Rights) -> frozenset[str]:
        programs = rights.grant.programs
        return await self._members.of(programs) if programs else frozenset()

    async def _with_form(self, exchange: Exchange, interaction: Interaction) -> Interaction:
        """A search with the parameters of its form (R4 http.html#search)."""
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
            if name == "_count" and not (
                value.isdigit() and int(value) <= self._settings.page_size
            ):
                raise BadRequestError(f"_count may be 0 to {self._settings.page_size}")
        return replace(interaction, params=self._links.inward_params(params))

    async def _body(self, exchange: Exchange) -> bytes:
        return await read_body(
            exchange.receive,
            self._body_bytes,
            self._receive_timeout,
            exchange.request.headers.get("content-encoding", "").strip().lower(),
        )

    # Ways through

    async def _dispatch(
        self,
        exchange: Exchange,
        interaction: Interaction,
        decision: Decision,
        rights: Rights,
        sight: Sight,
    ) -> None:
        kind = interaction.kind
        resource_type = interaction.resource_type or ""
        if decision.restriction and kind in (Kind.READ, Kind.SEARCH_TYPE):
            sight.restricted = resource_type
        if kind is Kind.READ and resource_type == "OperationDefinition":
            definition = self._parts.operations.get(interaction.resource_id or "")
            if definition is not None:
                await self._show(exchange, dumps(definition))
                return
        if kind is Kind.PAGE:
            params, sight.restricted = self._links.check_page(interaction.params, rights.grant)
            await self._relay.checked(exchange, interaction, encode_params(params), sight)
        elif kind is Kind.BUNDLE:
            await self._bundle(exchange, interaction, rights, sight)
        elif kind in WRITES:
            await self._write(exchange, interaction, decision, rights, sight)
        elif kind is Kind.OPERATION:
            await self._foreign_operation(exchange, interaction, decision, sight)
        elif kind is Kind.SEARCH_TYPE:
            if decision.confined and resource_type == "Provenance":
                params = await self._relay.trails.narrowed(interaction.params, sight)
                interaction = replace(interaction, params=params)
            params = confined_params(interaction.params, resource_type, decision, rights, sight)
            free = decision.unlimited and not includes(interaction.params)
            if free and resource_type not in LOOKED_INTO:
                await self._relay.as_it_comes(exchange, interaction, encode_params(params))
            else:
                await self._relay.checked(exchange, interaction, encode_params(params), sight)
        elif kind in _PLAIN and decision.unlimited and resource_type not in LOOKED_INTO:
            query = encode_params(interaction.params)
            await self._relay.as_it_comes(exchange, interaction, query)
        else:
            if decision.restriction:
                await self._within_restriction(interaction, decision, sight)
            if kind in _UNCONFINABLE and not decision.unlimited:
                raise ForbiddenError(
                    "this cannot be confined to what the token may see", code="policy"
                )
            check_params(interaction.params, decision, rights)
            query = encode_params(interaction.params)
            await self._relay.checked(exchange, interaction, query, sight)

    async def _within_restriction(
        self, interaction: Interaction, decision: Decision, sight: Sight
    ) -> None:
        """Ask the FHIR server whether a resource is one that the scope's restriction allows."""
        resource_type = interaction.resource_type or ""
        params = (
            ("_id", interaction.resource_id or ""),
            *decision.restriction,
            *confinement(resource_type, (), decision, sight),
            ("_elements", "id"),
        )
        found = await self._upstream.get_json(f"/{resource_type}", encode_params(params))
        if not (found or {}).get("entry"):
            raise NotFoundError("no such resource for this token", code="resource-not-found")

    async def _foreign_operation(
        self, exchange: Exchange, interaction: Interaction, decision: Decision, sight: Sight
    ) -> None:
        """An operation of the FHIR server that the table opens."""
        if interaction.resource_type == "Patient" and interaction.resource_id is not None:
            if not sight.patient(interaction.resource_id, decision.rule):
                raise NotFoundError("no such resource for this token", code="resource-not-found")
        elif interaction.resource_id is not None or decision.confined:
            raise ForbiddenError("this operation is not open on an instance", code="policy")
        body = await self._body(exchange) if exchange.request.method == "POST" else None
        query = encode_params(interaction.params)
        await self._relay.checked(exchange, interaction, query, sight, body)

    async def _write(
        self,
        exchange: Exchange,
        interaction: Interaction,
        decision: Decision,
        rights: Rights,
        sight: Sight,
    ) -> None:
        headers, kind = exchange.request.headers, interaction.resource_type or ""
        body: bytes | None = await self._body(exchange)
        resource = patch = None
        if interaction.kind in (Kind.PATCH, Kind.CONDITIONAL_PATCH):
            patch = dumps(loads_exact(patch_body(body or b"", headers)))
            body = self._links.inward(patch)
        elif interaction.kind in (Kind.DELETE, Kind.CONDITIONAL_DELETE):
            body = None
        elif media_type(headers) not in _XML or not _xml_allowed(kind, decision, rights):
            parse_resource(body or b"", headers)
            resource = loads_exact(self._links.inward(body or b""))
            self._links.relativize(resource)
            # Only what was checked is sent, as it was read here.
            body = dumps(resource)
        conditions: Params = ()
        if interaction.kind is Kind.CONDITIONAL_CREATE:
            conditions = condition_of_create(headers["if-none-exist"], kind)
            headers["if-none-exist"] = f"{kind}?{encode_params(conditions)}"
        await self._writes.check(interaction, decision, rights, sight, resource, patch, conditions)
        query = encode_params(interaction.params)
        if resource is not None and kind in COMPARTMENT_TYPES:
            exchange.patients = patients_in(body or b"")
        exchange.resources = ("/".join(filter(None, (kind, interaction.resource_id))),)
        if not rights.readable(kind):
            # What was written is not shown to a token that may not read it.
            exchange.request.headers["prefer"] = "return=minimal"
        if decision.unlimited and kind not in LOOKED_INTO:
            await self._relay.as_it_comes(exchange, interaction, query, body)
        else:
            await self._relay.checked(exchange, interaction, query, sight, body)

    async def _bundle(
        self, exchange: Exchange, interaction: Interaction, rights: Rights, sight: Sight
    ) -> None:
        body = await self._body(exchange)
        checked = await self._bundles.check(body, exchange.request.headers, rights, sight)
        exchange.bundle_type, exchange.resources = checked.kind, checked.writes
        exchange.patients = checked.patients
        if checked.body:
            await self._relay.checked(
                exchange, interaction, "", sight, checked.body, complete=checked.complete
            )
            return
        await self._show(exchange, checked.complete(b""))

    async def _show(self, exchange: Exchange, body: bytes) -> None:
        """Answer with JSON of our own."""
        self._relay.note(exchange, 200)
        await exchange.answer.whole(200, [(b"content-type", FHIR_JSON)], body)

    async def _operation(
        self,
        exchange: Exchange,
        decision: Decision,
        rights: Rights,
        sight: Sight,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """One of our own operations: the inner application answers, the door notes."""
        assert exchange.interaction is not None
        seen: set[str] = set()
        access = Access(
            grant=rights.grant,
            interaction=exchange.interaction,
            request_id=exchange.request_id,
            allowed_types=lambda letter, kind: sight.may(letter, kind, seen),
            allowed_patient=lambda patient: sight.patient(patient, decision.rule),
            seen=seen,
        )

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.patients = frozenset(access.seen)
                self._relay.note(exchange, message["status"])
                known = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in exchange.answer.common if pair[0] not in known),
                ]
                exchange.answer.started = True
            await send(message)

        path = upstream_path(exchange.interaction)
        inner = {
            **scope,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            SCOPE_KEY: access,
        }
        await self._parts.inner(inner, timely(receive, self._receive_timeout), noted)


#: The gateway serves no pages; what SECURITY_HEADERS says of them stays harmless.
_SECURITY: Headers = [
    (name.encode(), value.encode())
    for name, value in SECURITY_HEADERS.items()
    if name not in ("cross-origin-resource-policy",)
]


def _xml_allowed(kind: str, decision: Decision, rights: Rights) -> bool:
    """Whether a write may be XML, which is not looked into."""
    return decision.unlimited and rights.wide() and kind not in GUARDED | LOOKED_INTO
