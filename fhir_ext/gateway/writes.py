"""What may be written: for whom, over what, and never over a result that a machine made.

Results of this software are changed by `$review` alone, so that a signed result stays what a
human signed, whoever holds a token. They are known by the identifiers that only we give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from fhir_ext.errors import (
    BadRequestError,
    ForbiddenError,
    UnprocessableError,
    UpstreamError,
)
from fhir_ext.gateway.compartment import touches_compartment
from fhir_ext.gateway.interaction import Interaction, Kind, Params
from fhir_ext.gateway.paths import encode_params
from fhir_ext.gateway.references import (
    check_reference,
    check_shape,
    check_write_params,
    references,
)
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight, unseen
from fhir_ext.gateway.upstream import Upstream
from fhir_ext.resources.codes import CANONICAL

Json = dict[str, Any]

#: Identifier systems under which this software keeps its own resources.
OWN_IDENTIFIERS = f"{CANONICAL}/identifier/"

#: Types of our results and tasks.
GUARDED = frozenset({"DetectedIssue", "Observation", "RiskAssessment", "Task"})

#: Ids of resources that hold this software together; HAPI would call others with our secret.
OWN_IDS = "fhir-ext-"

WRITES = frozenset(
    {
        Kind.CREATE,
        Kind.CONDITIONAL_CREATE,
        Kind.UPDATE,
        Kind.CONDITIONAL_UPDATE,
        Kind.PATCH,
        Kind.CONDITIONAL_PATCH,
        Kind.DELETE,
        Kind.CONDITIONAL_DELETE,
    }
)

#: Conditional forms that change what matches.
_MATCHING = frozenset({Kind.CONDITIONAL_UPDATE, Kind.CONDITIONAL_PATCH, Kind.CONDITIONAL_DELETE})

_JSON = frozenset({"application/fhir+json", "application/json", "text/json"})
_PATCH_JSON = frozenset({"application/json-patch+json"})


class UnsupportedMediaType(BadRequestError):
    status = 415
    default_code = "media-type"
    issue_type = "not-supported"


def media_type(headers: Mapping[str, str]) -> str:
    """Content-Type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_resource(body: bytes, headers: Mapping[str, str]) -> Json:
    """The resource in a request's body.

    Raises:
        UnsupportedMediaType: it is not JSON.
        BadRequestError: it is not a JSON object with a resourceType.
    """
    if media_type(headers) not in _JSON:
        raise UnsupportedMediaType("what is written here must be application/fhir+json")
    try:
        resource = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError("the body is not JSON", code="not-json") from error
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise BadRequestError("the body is not a FHIR resource", code="not-a-resource")
    return resource


class WriteGuard:
    """Checks one write before it goes to the FHIR server.

    Args:
        upstream: where the resource stands that is changed.
        check_address: refuses addresses that the FHIR server should not call.
    """

    def __init__(self, upstream: Upstream, check_address: Callable[[str], None]) -> None:
        self._upstream, self._check_address = upstream, check_address

    async def check(
        self,
        interaction: Interaction,
        decision: Decision,
        rights: Rights,
        sight: Sight,
        resource: Json | None,
        patch: bytes | None = None,
        conditions: Params = (),
    ) -> None:
        """Check a write.

        Args:
            resource: what is created or updated.
            patch: body of a JSON Patch (RFC 6902).
            conditions: of If-None-Exist; other conditional forms have theirs in the address.

        Raises:
            ForbiddenError: not for this patient, or over a result of ours.
            NotFoundError: nothing that this token may see stands there.
            BadRequestError, UnprocessableError: the body does not fit the address.
        """
        if decision.restriction:
            raise ForbiddenError("a scope with a restriction does not allow writing", code="scope")
        kind = interaction.resource_type or ""
        if interaction.resource_id and interaction.resource_id.startswith(OWN_IDS):
            raise ForbiddenError("this resource belongs to the service itself", code="guarded")
        check_write_params(interaction, (*interaction.params, *conditions), decision, rights)
        if resource is not None:
            self._check_body(interaction, decision, rights, sight, resource)
        if interaction.kind in _MATCHING and kind in GUARDED:
            await self._check_matches(kind, interaction.params)
        standing = await self._standing(interaction, decision)
        if standing is not None:
            if kind in GUARDED and _is_ours(standing):
                raise ForbiddenError(
                    "results of this service are changed by $review only", code="guarded"
                )
            if decision.confined and not sight.owned(standing, decision.rule):
                raise unseen()
        elif decision.confined and interaction.kind is Kind.UPDATE and not rights.may("c", kind):
            raise ForbiddenError("no scope of the token allows 'c' on this type", code="scope")
        if interaction.kind in (Kind.PATCH, Kind.CONDITIONAL_PATCH) and patch is not None:
            _check_patch(patch, kind, decision, rights, sight)

    def _check_body(
        self,
        interaction: Interaction,
        decision: Decision,
        rights: Rights,
        sight: Sight,
        resource: Json,
    ) -> None:
        kind = interaction.resource_type
        check_shape(resource)
        if resource["resourceType"] != kind:
            raise BadRequestError("the resource is not of the type in the address")
        if (
            interaction.kind is Kind.UPDATE
            and resource.get("id", interaction.resource_id) != interaction.resource_id
        ):
            raise BadRequestError("the resource's id is not the one in the address")
        if kind in GUARDED and _is_ours(resource):
            raise ForbiddenError("only this service uses its identifiers", code="guarded")
        if kind == "Subscription":
            self._check_subscription(resource)
        if decision.confined and not sight.owned(resource, decision.rule):
            raise ForbiddenError(
                "the resource is not about a patient of this token", code="confinement"
            )
        for reference in references(resource):
            check_reference(reference, decision, rights, sight)

    def _check_subscription(self, resource: Json) -> None:
        if _masked(resource):
            raise UnprocessableError(
                "channel.header was masked when this was read: give it again", code="masked"
            )
        channel = resource.get("channel")
        if not isinstance(channel, dict):
            raise BadRequestError("a Subscription has one channel", code="not-a-resource")
        endpoint = channel.get("endpoint")
        if endpoint is not None:
            # The FHIR server calls it, from inside of the network.
            self._check_address(str(endpoint))

    async def _check_matches(self, kind: str, params: Params) -> None:
        """Refuse a conditional form that would change a result of ours."""
        try:
            found = await self._upstream.get_json(f"/{kind}", encode_params(params))
        except UpstreamError as error:
            raise BadRequestError("the condition cannot be searched") from error
        resources = [entry.get("resource") for entry in (found or {}).get("entry", [])]
        if any(isinstance(item, dict) and _is_ours(item) for item in resources):
            raise ForbiddenError(
                "results of this service are changed by $review only", code="guarded"
            )

    async def _standing(self, interaction: Interaction, decision: Decision) -> Json | None:
        """What stands at the address, when somebody must know it."""
        kind = interaction.resource_type or ""
        if interaction.resource_id is None or not (decision.confined or kind in GUARDED):
            return None
        return await self._upstream.get_json(f"/{kind}/{interaction.resource_id}")


def _is_ours(resource: Json) -> bool:
    return any(
        isinstance(item, dict) and any(map(_is_own_system, _listed(item.get("system"))))
        for item in _listed(resource.get("identifier"))
    )


def _is_own_system(system: object) -> bool:
    return str(system).strip().startswith(OWN_IDENTIFIERS)


def _listed(value: object) -> list[Any]:
    """A value as HAPI reads it: one that is not in a list is the only one."""
    return value if isinstance(value, list) else [value]


def _masked(resource: Json) -> bool:
    channel = resource.get("channel")
    return isinstance(channel, dict) and bool(channel.get("_header"))


def _check_patch(patch: bytes, kind: str, decision: Decision, rights: Rights, sight: Sight) -> None:
    try:
        steps = orjson.loads(patch)
    except orjson.JSONDecodeError as error:
        raise BadRequestError("the patch is not JSON", code="not-json") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadRequestError("a JSON Patch is an array of operations (RFC 6902)")
    for step in steps:
        for reference in _patched_references(step):
            check_reference(reference, decision, rights, sight)
        for key in ("path", "from"):
            path = step.get(key)
            if path is None:
                continue
            root = str(path).strip("/").partition("/")[0]
            if kind in GUARDED and root in ("", "identifier"):
                raise ForbiddenError("only this service uses its identifiers", code="guarded")
            if decision.confined and (not root or touches_compartment(root, kind)):
                raise ForbiddenError(
                    "a patch may not change whose resource it is", code="confinement"
                )


def _patched_references(step: Json) -> list[str]:
    """References that a step of a JSON Patch writes.

    Raises:
        ForbiddenError: it makes one out of another element, which nobody looked at.
    """
    value, path = step.get("value"), str(step.get("path", "")).rstrip("/")
    check_shape(value)
    found = list(references(value))
    if "/reference/" in path:
        raise ForbiddenError("a patch may not look into a reference", code="confinement")
    if path.endswith("/reference"):
        if step.get("op") in ("copy", "move"):
            raise ForbiddenError("a patch may not copy into a reference", code="confinement")
        if step.get("op") != "remove":
            check_shape({"reference": value})
        found += [value] if isinstance(value, str) else []
    return found


def patch_body(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The body of a PATCH.

    Raises:
        UnsupportedMediaType: it is not a JSON Patch, and the others cannot be checked.
    """
    if media_type(headers) not in _PATCH_JSON:
        raise UnsupportedMediaType("a patch must be application/json-patch+json here")
    return body
