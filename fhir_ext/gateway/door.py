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
from dataclasses import dataclass
from typing import Any

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.errors import (
    BadRequestError,
    FhirExtError,
    UnauthorizedError,
)
from fhir_ext.gateway.access import SCOPE_KEY, Access
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
    request_of,
    timely,
)
from fhir_ext.gateway.cors import Cors
from fhir_ext.gateway.exchange import Exchange
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.members import Membership
from fhir_ext.gateway.paths import parse_params, parse_request, upstream_path
from fhir_ext.gateway.policy import Policy
from fhir_ext.gateway.relay import FHIR_JSON, Relay
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight
from fhir_ext.gateway.throttle import Flooded, Throttle
from fhir_ext.gateway.upstream import Upstream
from fhir_ext.gateway.ways import Asked, Ways
from fhir_ext.gateway.writes import (
    WriteGuard,
)
from fhir_ext.logs import get_logger, incident
from fhir_ext.outcome import SECURITY_HEADERS, error_response
from fhir_ext.settings import GatewaySettings

log = get_logger(__name__)

Json = dict[str, Any]

#: Headers by which some servers let a request claim another method.
_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")

#: Grants whose rights are remembered.
MOST_GRANTS = 5000

#: What anybody may read, and its type.
PUBLIC = {
    "/metadata": FHIR_JSON,
    "/.well-known/smart-configuration": b"application/json",
}


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
        self._mount, self._parts = mount, parts
        self._receive_timeout = settings.receive_timeout.total_seconds()
        self._policy = policy
        self._members = Membership(upstream, settings.membership_lifetime)
        self._throttle = Throttle(settings.requests_per_minute, settings.burst)
        self._relay = Relay(upstream, links, parts.note, settings.checked_bytes)
        self._ways = Ways(
            upstream,
            links,
            self._relay,
            WriteGuard(upstream, parts.check_address),
            parts.operations,
            bundle_entries=settings.bundle_entries,
            page_size=settings.page_size,
            body_bytes=body_bytes,
            receive_timeout=self._receive_timeout,
        )
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
        exchange.interaction = interaction = await self._ways.with_form(exchange, interaction)
        await self._ways.take(Asked(exchange, interaction, decision, rights, sight))

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
