"""Provenances of what a confined caller may see.

R4 files a Provenance under a patient when it targets the Patient. Ours target results, so
whose they are is told by their targets: when all of these are about patients of the caller,
the Provenance may be seen. Which types the token may read does not matter, since a Provenance
names its targets and does not show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.compartment import subjects_of
from fhir_ext.gateway.confine import NOBODY
from fhir_ext.gateway.interaction import Params
from fhir_ext.gateway.paths import encode_params
from fhir_ext.gateway.sight import Sight
from fhir_ext.gateway.upstream import Upstream, parsed

Json = dict[str, Any]

#: Targets looked at for one answer; Provenances beyond are not shown.
MOST_TARGETS = 500

_TARGET = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})")


class Trails:
    """Looks at the targets of Provenances.

    Args:
        upstream: where the targets stand.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def follow(self, answer: bytes, sight: Sight) -> None:
        """Tell `sight` which Provenances of an answer it may show for their targets.

        Raises:
            UpstreamError: the FHIR server fails.
        """
        if b'"Provenance"' not in answer:
            return
        found = [item for item in _provenances(parsed(answer)) if not sight.shows(item)]
        found = [item for item in found if not subjects_of(item)]
        wanted: dict[str, set[str]] = {}
        targets = {str(item.get("id")): _targets(item) for item in found}
        for references in targets.values():
            for kind, resource_id in references:
                wanted.setdefault(kind, set()).add(resource_id)
        if not wanted or sum(map(len, wanted.values())) > MOST_TARGETS:
            return
        visible = {
            (kind, resource_id)
            for kind, ids in wanted.items()
            for resource_id in await self._visible(kind, ids, sight)
        }
        sight.follow(
            frozenset(
                name for name, references in targets.items() if references and references <= visible
            )
        )

    async def narrowed(self, params: Params, sight: Sight) -> Params:
        """Parameters of a search for Provenances; targets outside of sight are left out.

        Raises:
            ForbiddenError: too many targets.
            UpstreamError: the FHIR server fails.
        """
        found = []
        for name, value in params:
            if name == "target":
                kept = await self._kept(value.split(","), sight)
                name, value = ("target", ",".join(kept)) if kept else ("_id", NOBODY)
            found.append((name, value))
        return tuple(found)

    async def _kept(self, references: list[str], sight: Sight) -> list[str]:
        wanted: dict[str, set[str]] = {}
        for reference in references:
            local = reference.removeprefix(f"{self._upstream.base}/")
            match = _TARGET.fullmatch(local)
            if match and match[1] in RESOURCE_TYPES:
                wanted.setdefault(match[1], set()).add(match[2])
        if sum(map(len, wanted.values())) > MOST_TARGETS:
            raise ForbiddenError("too many targets", code="parameter")
        return [
            f"{kind}/{resource_id}"
            for kind, ids in wanted.items()
            for resource_id in sorted(await self._visible(kind, ids, sight))
        ]

    async def _visible(self, kind: str, ids: set[str], sight: Sight) -> set[str]:
        query = encode_params((("_id", ",".join(sorted(ids))), ("_count", str(len(ids)))))
        bundle = await self._upstream.get_json(f"/{kind}", query)
        resources = [entry.get("resource", {}) for entry in (bundle or {}).get("entry", [])]
        return {item["id"] for item in resources if "id" in item and sight.concerns(item)}


def _provenances(value: Json) -> Iterator[Json]:
    if value.get("resourceType") == "Provenance":
        yield value
    for entry in value.get("entry", []) if value.get("resourceType") == "Bundle" else ():
        resource = entry.get("resource")
        if isinstance(resource, dict):
            yield from _provenances(resource)


def _targets(provenance: Json) -> set[tuple[str, str]]:
    """(type, id) of every target; empty when one of them is no local reference."""
    found = set()
    for target in provenance.get("target", []):
        parts = str(target.get("reference", "")).split("/")
        if len(parts) not in (2, 4) or not all(parts):
            return set()
        found.add((parts[0], parts[1]))
    return found
