"""Batches and transactions: every entry is decided like a request of its own before one is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fhir_ext.errors import (
    BadRequestError,
    FhirExtError,
    OutcomeIssue,
    TooLargeError,
    UpstreamError,
)
from fhir_ext.gateway.confine import confined_params
from fhir_ext.gateway.contents import patient_ids
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.interaction import Interaction, Kind, Params
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.paths import encode_params, parse_params, parse_request, upstream_path
from fhir_ext.gateway.references import condition_of_create
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight
from fhir_ext.gateway.writes import WRITES, UnsupportedMediaType, WriteGuard, media_type
from fhir_ext.outcome import operation_outcome

Json = dict[str, Any]

#: Interactions that an entry may ask for; no operation, page or Bundle inside a Bundle.
_ALLOWED = WRITES | {
    Kind.READ,
    Kind.VREAD,
    Kind.HISTORY_INSTANCE,
    Kind.SEARCH_TYPE,
}


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A Bundle that may be sent.

    Attributes:
        kind: `batch` or `transaction`.
        body: what is sent; written again from what was checked. Empty when nothing is left.
        refused: entries of a batch's answer by their place, for those that are not sent.
        writes: `Type/id` or `Type` of what entries write.
        patients: ids of Patients that they are about.
    """

    kind: str
    body: bytes
    refused: Mapping[int, Json]
    writes: tuple[str, ...]
    patients: frozenset[str] = frozenset()

    def complete(self, answer: bytes) -> bytes:
        """The answer with the entries that were refused, each in its place."""
        if not self.refused:
            return answer
        bundle = loads_exact(answer) if answer else _EMPTY_ANSWER.copy()
        entries = list(bundle.get("entry", []))
        for place, entry in sorted(self.refused.items()):
            entries.insert(place, entry)
        return dumps({**bundle, "entry": entries})


_EMPTY_ANSWER: Json = {"resourceType": "Bundle", "type": "batch-response"}


class BundleGuard:
    """Checks Bundles entry by entry.

    Args:
        guard: checks each write.
        links: tells own addresses from foreign ones.
        most_entries: largest number of entries.
    """

    def __init__(self, guard: WriteGuard, links: Links, most_entries: int) -> None:
        self._guard, self._links, self._most = guard, links, most_entries

    async def check(
        self, body: bytes, headers: Mapping[str, str], rights: Rights, sight: Sight
    ) -> CheckedBundle:
        """Decide every entry.

        Raises:
            UnsupportedMediaType: not JSON.
            BadRequestError: not a batch or transaction, or an entry is malformed.
            TooLargeError: too many entries.
            FhirExtError: the status of the first entry of a transaction that is refused; the
                issues name all.
        """
        if media_type(headers) not in ("application/fhir+json", "application/json"):
            raise UnsupportedMediaType("a Bundle must be application/fhir+json")
        bundle = loads_exact(self._links.inward(body))
        self._links.relativize(bundle)
        entries = bundle.get("entry", []) if isinstance(bundle, dict) else None
        kind = bundle.get("type") if isinstance(bundle, dict) else None
        if kind not in ("batch", "transaction") or not isinstance(entries, list):
            raise BadRequestError("this address takes a Bundle of type batch or transaction")
        if len(entries) > self._most:
            raise TooLargeError(f"a Bundle may have {self._most} entries")
        refused: dict[int, FhirExtError] = {}
        sent: list[Json] = []
        writes: list[str] = []
        patients: set[str] = set()
        for number, entry in enumerate(entries):
            try:
                interaction = await self._entry(entry, rights, sight)
            except UpstreamError:
                raise
            except FhirExtError as error:
                refused[number] = error
                continue
            sent.append(entry)
            if interaction.kind in WRITES:
                parts = (interaction.resource_type, interaction.resource_id)
                writes.append("/".join(part for part in parts if part))
                patients |= patient_ids(entry.get("resource") or {})
        if refused and kind == "transaction":
            raise _whole(refused)
        if sent or not refused:
            body = dumps({**bundle, "entry": sent} if refused else bundle)
        else:
            body = b""
        answers = {number: _refusal(error) for number, error in refused.items()}
        return CheckedBundle(kind, body, answers, tuple(writes), frozenset(patients))

    async def _entry(self, entry: object, rights: Rights, sight: Sight) -> Interaction:
        """Decide one entry and write its address anew."""
        request = entry.get("request") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(request, dict):
            raise BadRequestError("an entry has no request")
        method, address = request.get("method"), request.get("url")
        if not isinstance(method, str) or not isinstance(address, str):
            raise BadRequestError("an entry's request has no method or url")
        path = self._links.local_path(address)
        if path is None:
            raise BadRequestError("an entry points to another server", code="foreign-address")
        path, _, query = path.partition("?")
        interaction = parse_request(
            method,
            path,
            self._links.inward_params(parse_params(query)),
            if_none_exist="ifNoneExist" in request,
        )
        if interaction.kind not in _ALLOWED:
            raise BadRequestError("this interaction may not be part of a Bundle", code="in-bundle")
        decision = rights.decide(interaction)
        params = interaction.params
        if interaction.kind in WRITES:
            resource = entry.get("resource")
            if resource is not None and not isinstance(resource, dict):
                raise BadRequestError("an entry's resource is not a resource")
            await self._write(interaction, decision, entry, rights, sight)
        elif decision.restriction:
            raise BadRequestError(
                "ask for this alone: its scope has a restriction", code="in-bundle"
            )
        elif interaction.kind is Kind.SEARCH_TYPE:
            if decision.confined and interaction.resource_type == "Provenance":
                # Its targets must be looked at first.
                raise BadRequestError("search for Provenances alone", code="in-bundle")
            params = confined_params(
                params, interaction.resource_type or "", decision, rights, sight
            )
        if not decision.unlimited and interaction.kind not in WRITES:
            # Answered without the resource that is to be checked.
            for name in ("ifMatch", "ifModifiedSince", "ifNoneMatch"):
                request.pop(name, None)
        query = encode_params(params)
        request["url"] = upstream_path(interaction)[1:] + (f"?{query}" if query else "")
        return interaction

    async def _write(
        self,
        interaction: Interaction,
        decision: Decision,
        entry: Json,
        rights: Rights,
        sight: Sight,
    ) -> None:
        resource = entry.get("resource")
        if interaction.kind in (Kind.PATCH, Kind.CONDITIONAL_PATCH):
            raise BadRequestError("a PATCH may not be part of a Bundle here", code="in-bundle")
        if interaction.kind not in (Kind.DELETE, Kind.CONDITIONAL_DELETE):
            if not isinstance(resource, dict) or "resourceType" not in resource:
                raise BadRequestError("an entry that writes has no resource")
        else:
            resource = None
        conditions: Params = ()
        if interaction.kind is Kind.CONDITIONAL_CREATE:
            kind, request = interaction.resource_type or "", entry["request"]
            conditions = condition_of_create(str(request["ifNoneExist"]), kind)
            request["ifNoneExist"] = f"{kind}?{encode_params(conditions)}"
        await self._guard.check(
            interaction, decision, rights, sight, resource, conditions=conditions
        )


def _whole(refused: Mapping[int, FhirExtError]) -> FhirExtError:
    """The error of a transaction, of which nothing happens when one entry is refused."""
    issues = [
        OutcomeIssue(
            error.issue_type,
            error.code,
            error.message,
            expression=f"Bundle.entry[{number}].request",
        )
        for number, error in refused.items()
    ]
    first = next(iter(refused.values()))
    return type(first)(first.message, code=first.code, issues=issues)


def _refusal(error: FhirExtError) -> Json:
    """The entry of a batch-response for one that was refused."""
    phrase = HTTPStatus(error.status).phrase
    return {
        "response": {
            "status": f"{error.status} {phrase}",
            "outcome": operation_outcome(error),
        }
    }
