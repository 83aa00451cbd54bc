"""What may be written: for whom, over what, and never over a result that a machine made.

Results of this software are changed by `$review` alone, so that a signed result stays what a
human signed, whoever holds a token. They are known by the identifiers that only we give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from fhir_ext.errors import (
    BadRequestError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
)
from fhir_ext.gateway.compartment import touches_compartment
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight
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
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def check(
        self,
        interaction: Interaction,
        decision: Decision,
        rights: Rights,
        sight: Sight,
        resource: Json | None,
        patch: bytes | None = None,
    ) -> None:
        """Check a write.

        Args:
            resource: what is created or updated.
            patch: body of a JSON Patch (RFC 6902).

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
        if resource is not None:
            self._check_body(interaction, decision, sight, resource)
        standing = await self._standing(interaction, decision)
        if standing is not None:
            if kind in GUARDED and _is_ours(standing):
                raise ForbiddenError(
                    "results of this service are changed by $review only", code="guarded"
                )
            if decision.confined and not sight.owned(standing, decision.rule):
                raise NotFoundError("no such resource for this token", code="resource-not-found")
        elif decision.confined and interaction.kind is Kind.UPDATE and not rights.may("c", kind):
            raise ForbiddenError("no scope of the token allows 'c' on this type", code="scope")
        if interaction.kind in (Kind.PATCH, Kind.CONDITIONAL_PATCH) and patch is not None:
            _check_patch(patch, kind, decision)

    def _check_body(
        self, interaction: Interaction, decision: Decision, sight: Sight, resource: Json
    ) -> None:
        kind = interaction.resource_type
        if resource["resourceType"] != kind:
            raise BadRequestError("the resource is not of the type in the address")
        if (
            interaction.kind is Kind.UPDATE
            and resource.get("id", interaction.resource_id) != interaction.resource_id
        ):
            raise BadRequestError("the resource's id is not the one in the address")
        if kind in GUARDED and _is_ours(resource):
            raise ForbiddenError("only this service uses its identifiers", code="guarded")
        if kind == "Subscription" and _masked(resource):
            raise UnprocessableError(
                "channel.header was masked when this was read: give it again", code="masked"
            )
        if decision.confined:
            if not sight.owned(resource, decision.rule):
                raise ForbiddenError(
                    "the resource is not about a patient of this token", code="confinement"
                )
            # HAPI would look for what such a reference matches, among all patients.
            if any("?" in reference for reference in _references(resource)):
                raise ForbiddenError("references may not be searches", code="confinement")

    async def _standing(self, interaction: Interaction, decision: Decision) -> Json | None:
        """What stands at the address, when somebody must know it."""
        kind = interaction.resource_type or ""
        if interaction.resource_id is None or not (decision.confined or kind in GUARDED):
            return None
        return await self._upstream.get_json(f"/{kind}/{interaction.resource_id}")


def _is_ours(resource: Json) -> bool:
    identifiers = resource.get("identifier", [])
    return any(
        isinstance(item, dict) and str(item.get("system", "")).startswith(OWN_IDENTIFIERS)
        for item in (identifiers if isinstance(identifiers, list) else [identifiers])
    )


def _masked(resource: Json) -> bool:
    channel = resource.get("channel")
    return isinstance(channel, dict) and bool(channel.get("_header"))


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str):
            yield reference
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _check_patch(patch: bytes, kind: str, decision: Decision) -> None:
    try:
        steps = orjson.loads(patch)
    except orjson.JSONDecodeError as error:
        raise BadRequestError("the patch is not JSON", code="not-json") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadRequestError("a JSON Patch is an array of operations (RFC 6902)")
    for step in steps:
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


def patch_body(body: bytes, headers: Mapping[str, str], decision: Decision, kind: str) -> bytes:
    """The body of a PATCH that must be looked into.

    Raises:
        UnsupportedMediaType: it is not a JSON Patch, and the others cannot be checked.
    """
    if (decision.confined or kind in GUARDED) and media_type(headers) not in _PATCH_JSON:
        raise UnsupportedMediaType("a patch must be application/json-patch+json here")
    return body
