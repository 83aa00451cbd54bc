"""What an answer holds: the patients it tells about, for the audit; secrets, to be taken out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_ext.gateway.compartment import patients_of

Json = dict[str, Any]

#: FHIR core extension that says why an element has no value, and the code for "not shown".
_DATA_ABSENT_REASON = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_MASKED = "masked"

_PARTS = ("parameter", "part")


def patient_ids(resource: Json) -> frozenset[str]:
    """Ids of the Patients whose data an answer holds, for its audit.

    Everyone in whose compartment a resource is counts, also a performer; of a Bundle or
    Parameters those of all resources in it.
    """
    found = patients_of(resource)
    for inner in _inner(resource):
        found |= patient_ids(inner)
    return found


def redact(resource: Json) -> bool:
    """Take the secrets out of an answer, in place.

    The only one that R4 resources here hold is `Subscription.channel.header`: it carries what
    authorizes HAPI to a hook. `_header` then says `masked`, so a caller can tell that there
    are headers and does not write an empty list over them. Looked for in the resource itself,
    in `contained`, in entries of Bundles, their outcomes, and in Parameters, at any depth.

    Returns:
        Whether there was anything to take out.
    """
    changed = resource.get("resourceType") == "Subscription" and _mask_header(resource)
    for inner in _inner(resource):
        changed = redact(inner) or changed
    return changed


def _mask_header(subscription: Json) -> bool:
    channel = subscription.get("channel")
    if not isinstance(channel, dict) or not ("header" in channel or "_header" in channel):
        return False
    channel.pop("header", None)
    channel["_header"] = [{"extension": [{"url": _DATA_ABSENT_REASON, "valueCode": _MASKED}]}]
    return True


def _inner(resource: Json) -> Iterator[Json]:
    """Resources directly inside of a resource."""
    if (contained := resource.get("contained")) is not None:
        yield from _objects(contained)
    kind = resource.get("resourceType")
    if kind == "Bundle":
        for entry in _objects(resource.get("entry")):
            yield from _objects(entry.get("resource"))
            response = entry.get("response")
            if isinstance(response, dict):
                yield from _objects(response.get("outcome"))
    elif kind == "Parameters":
        yield from _in_parameters(resource)


def _in_parameters(holder: Json) -> Iterator[Json]:
    for name in _PARTS:
        for part in _objects(holder.get(name)):
            yield from _objects(part.get("resource"))
            yield from _in_parameters(part)


def _objects(value: object) -> Iterator[Json]:
    """The objects of a list, or the one that stands alone."""
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, dict):
            yield item
