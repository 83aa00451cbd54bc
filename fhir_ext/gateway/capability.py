"""CapabilityStatement: HAPI's, with what the gateway adds. Nothing of HAPI's is dropped.

FHIR R4 capabilitystatement.html; SMART App Launch 2.2, "Conformance".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fhir_ext.resources.codes import HL7

Json = dict[str, Any]

_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"

#: Endpoint of SMART's discovery document to its name in the extension of SMART 1.0.
_URIS = {
    "authorization_endpoint": "authorize",
    "token_endpoint": "token",
    "revocation_endpoint": "revoke",
    "introspection_endpoint": "introspect",
    "management_endpoint": "manage",
}


def merged_capabilities(
    upstream: Json,
    public_base: str,
    definitions: Sequence[Json],
    endpoints: Mapping[str, str],
    version: str,
) -> Json:
    """HAPI's CapabilityStatement with our operations and security.

    Args:
        upstream: HAPI's; left as it is.
        public_base: the FHIR base as others see it.
        definitions: OperationDefinitions of our operations.
        endpoints: OAuth endpoints by the names of `.well-known/smart-configuration`.
        version: of this software.
    """
    merged = copy.deepcopy(upstream)
    implementation = merged.setdefault("implementation", {})
    said = implementation.get("description") or "HAPI FHIR"
    implementation["description"] = f"{said}, behind fhir-ext {version}"
    implementation["url"] = public_base
    server = next((rest for rest in merged.get("rest", []) if rest.get("mode") == "server"), None)
    if server is None:
        server = {"mode": "server"}
        merged.setdefault("rest", []).append(server)
    _add_security(server, endpoints)
    for definition in definitions:
        _add_operation(server, definition)
    return merged


def _add_security(server: Json, endpoints: Mapping[str, str]) -> None:
    security = server.setdefault("security", {})
    services = security.setdefault("service", [])
    services.append(
        {
            "coding": [
                {
                    "system": f"{HL7}/restful-security-service",
                    "code": "SMART-on-FHIR",
                    "display": "SMART-on-FHIR",
                }
            ]
        }
    )
    uris = [
        {"url": short, "valueUri": endpoints[name]}
        for name, short in _URIS.items()
        if name in endpoints
    ]
    if uris:
        security.setdefault("extension", []).append({"url": _OAUTH_URIS, "extension": uris})


def _add_operation(server: Json, definition: Json) -> None:
    """Declare an operation on each of its types (operationdefinition.html)."""
    entry = {"name": definition["code"], "definition": definition["url"]}
    resources = server.setdefault("resource", [])
    for name in definition.get("resource", []):
        resource = next((item for item in resources if item.get("type") == name), None)
        if resource is None:
            resource = {"type": name}
            resources.append(resource)
        operations = resource.setdefault("operation", [])
        if all(item.get("definition") != entry["definition"] for item in operations):
            operations.append(dict(entry))
