"""What the issuer says about itself (RFC 8414, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

from typing import Any

from fhir_ext.issuer.assertion import ALGORITHMS as ASSERTION_ALGORITHMS
from fhir_ext.issuer.grants import AUTH_METHODS
from fhir_ext.issuer.scopes import SPECIAL


def metadata(issuer: str, fhir_base: str, signing_algorithm: str) -> dict[str, Any]:
    """The discovery document.

    Args:
        issuer: `iss`, no slash at its end.
        fhir_base: what its tokens are for (RFC 9728 section 4).
        signing_algorithm: of its tokens.
    """
    methods = list(AUTH_METHODS)
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/jwks",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "scopes_supported": [*SPECIAL, "patient/*.cruds", "user/*.cruds", "system/*.cruds"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [signing_algorithm],
        "claims_supported": ["sub", "name", "fhirUser"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": [m for m in methods if m != "none"],
        "protected_resources": [fhir_base],
        "authorization_response_iss_parameter_supported": True,
    }
