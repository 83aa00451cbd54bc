"""What IHE BALP 1.1.4 asks of AuditEvents, as profiles that a validator can load.

Written from the rules of the guide ("RESTful activities"), for tests only.
"""

from __future__ import annotations

from typing import Any

from fhir_ext.resources.codes import DCM, HL7, balp_profile

Json = dict[str, Any]

#: Interactions, action, client, server and user of each profile.
_RULES: dict[str, tuple[str, tuple[str, str], tuple[str, str]]] = {
    "Create": ("C", (DCM, "110153"), (DCM, "110152")),
    "Read": ("R", (DCM, "110152"), (DCM, "110153")),
    "Update": ("U", (DCM, "110153"), (DCM, "110152")),
    "Delete": ("D", (DCM, "110150"), (f"{HL7}/provenance-participant-type", "custodian")),
    "Query": ("E", (DCM, "110153"), (DCM, "110152")),
}


def balp_profiles() -> list[Json]:
    """The ten profiles of RESTful activities."""
    return [
        _profile(f"{who}{name}", [*_common(name), *(_patient() if who else [])])
        for name in _RULES
        for who in ("", "Patient")
    ]


def _profile(name: str, elements: list[Json]) -> Json:
    return {
        "resourceType": "StructureDefinition",
        "id": f"balp-{name.lower()}",
        "url": balp_profile(name),
        "version": "1.1.4",
        "name": name,
        "status": "active",
        "fhirVersion": "4.0.1",
        "kind": "resource",
        "abstract": False,
        "type": "AuditEvent",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/AuditEvent",
        "derivation": "constraint",
        "differential": {"element": sorted(elements, key=_position)},
    }


#: Order of the elements in the base definition.
_ORDER = ("AuditEvent.type", "AuditEvent.subtype", "AuditEvent.action", "AuditEvent.outcome")


def _position(element: Json) -> tuple[int, int]:
    path = element["path"]
    group = 5 if path.startswith("AuditEvent.entity") else 4
    return (_ORDER.index(path) if path in _ORDER else group, 0)


def _common(name: str) -> list[Json]:
    action, client, server = _RULES[name]
    return [
        {
            "id": "AuditEvent.type",
            "path": "AuditEvent.type",
            "patternCoding": {"system": f"{HL7}/audit-event-type", "code": "rest"},
        },
        {"id": "AuditEvent.subtype", "path": "AuditEvent.subtype", "min": 1},
        {"id": "AuditEvent.action", "path": "AuditEvent.action", "min": 1, "fixedCode": action},
        {"id": "AuditEvent.outcome", "path": "AuditEvent.outcome", "min": 1, "fixedCode": "0"},
        _slicing("agent", 2),
        *_agent("client", client),
        *_agent("server", server),
        _slicing("entity", 1),
        *_object(name == "Query"),
    ]


def _slicing(of: str, least: int) -> Json:
    return {
        "id": f"AuditEvent.{of}",
        "path": f"AuditEvent.{of}",
        "slicing": {"discriminator": [{"type": "pattern", "path": "type"}], "rules": "open"},
        "min": least,
    }


#: Order of the children in the base definition; a differential keeps to it.
_CHILDREN = (
    "what", "type", "role", "who", "media", "network", "lifecycle", "query", "detail"
)  # fmt: skip


def _slice(of: str, name: str, pattern: Json, **cardinalities: tuple[int, str]) -> list[Json]:
    at = f"AuditEvent.{of}:{name}"
    children = {
        "type": {"min": 1, **pattern},
        **{child: {"min": low, "max": high} for child, (low, high) in cardinalities.items()},
    }
    return [
        {"id": at, "path": f"AuditEvent.{of}", "sliceName": name, "min": 1, "max": "1"},
        *(
            {"id": f"{at}.{child}", "path": f"AuditEvent.{of}.{child}", **children[child]}
            for child in sorted(children, key=_CHILDREN.index)
        ),
    ]


def _agent(name: str, code: tuple[str, str]) -> list[Json]:
    coding = {"system": code[0], "code": code[1]}
    pattern = {"patternCodeableConcept": {"coding": [coding]}}
    return _slice("agent", name, pattern, who=(1, "1"), media=(0, "0"), network=(1, "1"))


def _object(query: bool) -> list[Json]:
    pattern = {"patternCoding": {"system": f"{HL7}/audit-entity-type", "code": "2"}}
    if query:
        return _slice(
            "entity", "query", pattern, what=(0, "0"), lifecycle=(0, "0"), query=(1, "1"),
            detail=(0, "0"),
        )  # fmt: skip
    return _slice("entity", "data", pattern, what=(1, "1"), role=(1, "1"))


def _patient() -> list[Json]:
    pattern = {"patternCoding": {"system": f"{HL7}/audit-entity-type", "code": "1"}}
    return _slice("entity", "patient", pattern, what=(1, "1"), role=(1, "1"))
