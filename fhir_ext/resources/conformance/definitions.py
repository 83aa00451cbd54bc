"""What the conformance files say, derived from `fhir_ext.resources.codes`."""

from __future__ import annotations

import json
from typing import Any, Final

from fhir_ext.resources.codes import CANONICAL, LOCAL_SYSTEMS, LocalSystem
from fhir_ext.resources.conformance.observations import OBSERVATION_PROFILES
from fhir_ext.resources.conformance.profiles import PROFILES
from fhir_ext.resources.conformance.risk import RISK_PROFILES

Json = dict[str, Any]

#: Version of all conformance resources; raised when a code or a rule changes.
VERSION: Final = "0.1.0"


def files() -> dict[str, str]:
    """File name to content of every conformance file."""
    resources = [
        *(code_system(system) for system in LOCAL_SYSTEMS),
        *(value_set(system) for system in LOCAL_SYSTEMS),
        *map(_published, (*OBSERVATION_PROFILES, *PROFILES, *RISK_PROFILES)),
    ]
    return {
        f"{resource['resourceType']}-{resource['id'].removeprefix('fhir-ext-')}.json": json.dumps(
            resource, indent=2
        )
        + "\n"
        for resource in resources
    }


def code_system(system: LocalSystem) -> Json:
    """FHIR R4 CodeSystem."""
    return _published(
        {
            "resourceType": "CodeSystem",
            "id": f"fhir-ext-{system.id}",
            "url": system.url,
            "name": _name(system.id),
            "title": system.title,
            "description": system.description,
            "caseSensitive": True,
            "valueSet": f"{CANONICAL}/ValueSet/{system.id}",
            "content": "complete" if system.complete else "fragment",
            "count": len(system.codes),
            "concept": [
                {"code": c.code, "display": c.display, "definition": c.definition}
                for c in system.codes
            ],
        }
    )


def value_set(system: LocalSystem) -> Json:
    """FHIR R4 ValueSet of all codes of a system."""
    return _published(
        {
            "resourceType": "ValueSet",
            "id": f"fhir-ext-{system.id}",
            "url": f"{CANONICAL}/ValueSet/{system.id}",
            "name": _name(system.id),
            "title": system.title,
            "description": system.description,
            "compose": {"include": [{"system": system.url}]},
        }
    )


def _published(resource: Json) -> Json:
    """Add what all of them have in common, before what they say."""
    head = ("resourceType", "id", "url")
    common = {
        "version": VERSION,
        "status": "active",
        "experimental": False,
        "publisher": "fhir-ext developers",
    }
    rest = {key: value for key, value in resource.items() if key not in head}
    return {**{key: resource[key] for key in head}, **common, **rest}


def _name(system_id: str) -> str:
    return "FhirExt" + "".join(part.capitalize() for part in system_id.split("-"))
