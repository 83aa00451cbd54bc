"""`.well-known/smart-configuration` (SMART App Launch 2.2, section "Conformance")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fhir_ext.auth.issuer_document import IssuerDocument
from fhir_ext.settings import AuthSettings

Json = dict[str, Any]

#: Addresses of the issuer that apps are told.
ENDPOINTS: Final = (
    "authorization_endpoint",
    "token_endpoint",
    "introspection_endpoint",
    "revocation_endpoint",
    "registration_endpoint",
    "management_endpoint",
    "jwks_uri",
)

#: Lists of the issuer that apps are told, or that capabilities are concluded from.
LISTS: Final = (
    "scopes_supported",
    "grant_types_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
    "code_challenge_methods_supported",
    "capabilities",
)

#: Those of them that are passed on as they are.
_PASSED_ON: Final = (
    "scopes_supported",
    "token_endpoint_auth_methods_supported",
    "token_endpoint_auth_signing_alg_values_supported",
)

#: How scopes are read here, whatever the issuer does.
_PERMISSIONS: Final = ("permission-patient", "permission-user", "permission-v1", "permission-v2")

#: Capabilities that only the issuer can know of: taken over when its document names them.
_OF_ISSUER: Final = (
    "authorize-post",
    "context-banner",
    "context-style",
    "context-ehr-encounter",
    "context-standalone-encounter",
)

#: Grants that SMART knows.
_GRANTS: Final = ("authorization_code", "client_credentials", "refresh_token")


def issuer_endpoints(document: IssuerDocument) -> dict[str, str]:
    """The issuer's addresses by their names in its discovery document; may wait for it.

    Raises:
        UpstreamError, SettingsError: see `IssuerDocument.get`.
    """
    return _strings(document.get())


def issuer_lists(document: IssuerDocument) -> dict[str, tuple[str, ...]]:
    """What the issuer says that it supports, by the names in its discovery document; see
    `issuer_endpoints`.
    """
    found = document.get()
    return {
        name: tuple(item for item in found[name] if isinstance(item, str))
        for name in LISTS
        if isinstance(found.get(name), list)
    }


def _strings(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: found[name] for name in ENDPOINTS if isinstance(found.get(name), str)}


def smart_configuration(
    auth: AuthSettings,
    endpoints: Mapping[str, str],
    supported: Mapping[str, Sequence[str]] | None = None,
) -> Json:
    """What apps read before they ask for a token.

    Args:
        auth: names the issuer.
        endpoints: from `issuer_endpoints`.
        supported: from `issuer_lists`; what is not listed is not claimed.

    Returns:
        The JSON of `[base]/.well-known/smart-configuration`: required and recommended
        members, those without a value left out.
    """
    lists = supported or {}
    capabilities = _capabilities(endpoints, lists)
    found: Json = {}
    if "sso-openid-connect" in capabilities:
        found["issuer"] = auth.issuer
    found |= {name: endpoints[name] for name in ENDPOINTS if name in endpoints}
    found["grant_types_supported"] = _grant_types(endpoints, lists)
    if "authorization_endpoint" in endpoints:
        found["response_types_supported"] = ["code"]
    for name in _PASSED_ON:
        if lists.get(name):
            found[name] = list(lists[name])
    # `plain` must not be offered, whatever the issuer allows.
    found["code_challenge_methods_supported"] = ["S256"]
    found["capabilities"] = capabilities
    return found


def _grant_types(endpoints: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> list[str]:
    listed = lists.get("grant_types_supported")
    if listed is None:
        # The default of OpenID Connect Discovery 1.0 section 3, without the implicit grant.
        return ["authorization_code"] if "authorization_endpoint" in endpoints else []
    return [name for name in _GRANTS if name in listed]


def _capabilities(endpoints: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> list[str]:
    """The capabilities that follow from what the issuer says, and those of this server."""
    scopes = frozenset(lists.get("scopes_supported", ()))
    methods = frozenset(lists.get("token_endpoint_auth_methods_supported", ()))
    codes = "authorization_endpoint" in endpoints
    refresh = "refresh_token" in lists.get("grant_types_supported", ())
    concluded = {
        "launch-ehr": codes and "launch" in scopes,
        "launch-standalone": codes,
        # PKCE is what makes clients without a secret safe; Keycloak does not list `none`.
        "client-public": codes and "S256" in lists.get("code_challenge_methods_supported", ()),
        "client-confidential-symmetric": "client_secret_basic" in methods,
        "client-confidential-asymmetric": "private_key_jwt" in methods,
        "sso-openid-connect": codes
        and "jwks_uri" in endpoints
        and {"openid", "fhirUser"} <= scopes,
        "context-ehr-patient": codes and "launch" in scopes,
        "context-standalone-patient": codes and "launch/patient" in scopes,
        "permission-offline": refresh and "offline_access" in scopes,
        "permission-online": refresh and "online_access" in scopes,
    }
    named = lists.get("capabilities", ())
    return [
        *(name for name, holds in concluded.items() if holds),
        *(name for name in _OF_ISSUER if name in named),
        *_PERMISSIONS,
    ]
