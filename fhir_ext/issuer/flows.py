"""What an app does to get tokens, without a browser: for the demo, the docs and tests."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import requests
from joserfc import jwk, jwt

from fhir_ext.errors import BadRequestError

PrivateKey = jwk.ECKey | jwk.RSAKey

#: Where the demo's apps may be called back; nothing needs to listen there.
REDIRECT_URI: Final = "http://127.0.0.1/callback"

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TIMEOUT = 15


class FlowRefused(BadRequestError):
    """The issuer said no.

    Attributes:
        error: its error code (RFC 6749 sections 4.1.2.1 and 5.2), or `page` where it showed
            the user an error page instead of going back to the app.
    """

    def __init__(self, error: str) -> None:
        super().__init__("the issuer refused the request")
        self.error = error

    def __str__(self) -> str:
        return f"the issuer refused the request: {self.error}"


def login(
    issuer_url: str,
    client_id: str,
    persona: str,
    scopes: str | Sequence[str],
    *,
    patient: str | None = None,
    launch: str | None = None,
    redirect_uri: str = REDIRECT_URI,
    secret: str | None = None,
    audience: str | None = None,
) -> dict[str, Any]:
    """Authorization code with PKCE; plays app and browser.

    Args:
        issuer_url: `iss` of the issuer.
        persona: persona or id of the user who logs in.
        scopes: asked for; a list, or one string with spaces.
        patient: id to choose where the consent page asks for a patient.
        launch: value of an EHR launch (`begin_launch`).
        secret: of a confidential client.
        audience: FHIR base that the token is for; the one that the issuer names without.

    Returns:
        The token answer (RFC 6749 section 5.1).

    Raises:
        FlowRefused: with the issuer's error code.
    """
    verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
    request = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": scopes if isinstance(scopes, str) else " ".join(scopes),
        "state": state,
        "aud": audience or fhir_base(issuer_url),
        "code_challenge": challenge(verifier),
        "code_challenge_method": "S256",
        **({"launch": launch} if launch else {}),
    }
    code = authorize(issuer_url, request, persona, patient=patient)
    return exchange(issuer_url, client_id, code, verifier, redirect_uri, secret)


def authorize(
    issuer_url: str,
    request: Mapping[str, str],
    persona: str,
    *,
    patient: str | None = None,
    allow: bool = True,
) -> str:
    """The browser's part: from the request of the app to the code it gets back.

    Raises:
        FlowRefused: the issuer, or with `allow=False` the user, said no.
    """
    with requests.Session() as browser:
        page = browser.get(
            f"{issuer_url}/authorize", params=request, allow_redirects=False, timeout=_TIMEOUT
        )
        form = {"interaction": _interaction(page), "user": persona}
        page = browser.post(f"{issuer_url}/login", data=form, timeout=_TIMEOUT)
        form = {
            "interaction": _interaction(page),
            "decision": "allow" if allow else "deny",
            "patient": patient or "",
        }
        page = browser.post(
            f"{issuer_url}/consent", data=form, allow_redirects=False, timeout=_TIMEOUT
        )
    answer = _callback(page)
    if answer.get("state") != request.get("state") or answer.get("iss") != issuer_url:
        raise FlowRefused("state")
    return answer["code"]


def exchange(
    issuer_url: str,
    client_id: str,
    code: str,
    verifier: str,
    redirect_uri: str = REDIRECT_URI,
    secret: str | None = None,
) -> dict[str, Any]:
    """A code becomes tokens."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    return token_request(issuer_url, form, client_id, secret)


def refresh(
    issuer_url: str, client_id: str, refresh_token: str, secret: str | None = None
) -> dict[str, Any]:
    """A refresh token becomes a new pair; the old one is used up."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return token_request(issuer_url, form, client_id, secret)


def backend_token(
    issuer_url: str, client_id: str, private_key: PrivateKey, scopes: str | Sequence[str]
) -> str:
    """Access token of a program without a user (SMART Backend Services).

    Args:
        private_key: EC P-384 or RSA with a `kid`; the issuer knows its public part.

    Raises:
        FlowRefused: with the issuer's error code.
    """
    form = {
        "grant_type": "client_credentials",
        "scope": scopes if isinstance(scopes, str) else " ".join(scopes),
        "client_assertion_type": _ASSERTION_TYPE,
        "client_assertion": assertion(issuer_url, client_id, private_key),
    }
    return str(token_request(issuer_url, form)["access_token"])


def assertion(
    issuer_url: str,
    client_id: str,
    private_key: PrivateKey,
    *,
    lifetime: int = 240,
    **claims: Any,
) -> str:
    """A client assertion (RFC 7523 section 3); further claims replace the usual ones."""
    algorithm = "RS384" if isinstance(private_key, jwk.RSAKey) else "ES384"
    payload = {
        "iss": client_id,
        "sub": client_id,
        "aud": f"{issuer_url}/token",
        "exp": int(time.time()) + lifetime,
        "jti": secrets.token_urlsafe(16),
        **claims,
    }
    header = {"alg": algorithm, "kid": private_key.kid, "typ": "JWT"}
    return jwt.encode(header, payload, private_key, [algorithm])


def register_backend(
    path: Path, client_id: str = "demo-backend", key: jwk.ECKey | None = None
) -> jwk.ECKey:
    """Write the file for `issuer.clients` that registers a key; a new one without `key`.

    Returns:
        The private key, which is not in the file.
    """
    key = key or jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    jwks = {"keys": [{**key.as_dict(private=False), "alg": "ES384", "use": "sig"}]}
    path.write_text(json.dumps({"clients": {client_id: {"jwks": jwks}}}, indent=2))
    return key


def begin_launch(issuer_url: str, patient: str, encounter: str | None = None) -> str:
    """Play the EHR: the `launch` value for a patient, and maybe an encounter."""
    body = {"patient": patient} | ({"encounter": encounter} if encounter else {})
    answer = requests.post(f"{issuer_url}/launch", json=body, timeout=_TIMEOUT)
    if answer.status_code != 201:
        raise FlowRefused("launch")
    return str(answer.json()["launch"])


def fhir_base(issuer_url: str) -> str:
    """The FHIR base that the issuer issues tokens for."""
    document = requests.get(f"{issuer_url}/.well-known/openid-configuration", timeout=_TIMEOUT)
    return str(document.json()["protected_resources"][0])


def challenge(verifier: str) -> str:
    """`code_challenge` of a verifier (RFC 7636 section 4.2, S256)."""
    hashed = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


def token_request(
    issuer_url: str,
    form: Mapping[str, str],
    client_id: str | None = None,
    secret: str | None = None,
) -> dict[str, Any]:
    """One request to the token endpoint.

    Args:
        client_id: of a client that signs no assertion.
        secret: sent as Basic credentials.

    Raises:
        FlowRefused: with the issuer's error code.
    """
    named = {"client_id": client_id} if client_id and not secret else {}
    answer = requests.post(
        f"{issuer_url}/token",
        data={**form, **named},
        auth=(client_id, secret) if client_id and secret else None,
        timeout=_TIMEOUT,
    )
    found: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise FlowRefused(str(found.get("error")))
    return found


def _interaction(page: requests.Response) -> str:
    """The hidden field that ties the pages together."""
    if page.is_redirect:
        raise FlowRefused(_callback(page).get("error", "redirect"))
    fields = _HiddenFields()
    fields.feed(page.text)
    if page.status_code != 200 or "interaction" not in fields.found:
        raise FlowRefused("page")
    return fields.found["interaction"]


def _callback(page: requests.Response) -> dict[str, str]:
    """Parameters that the app gets back."""
    if not page.is_redirect:
        raise FlowRefused("page")
    query = parse_qs(urlsplit(page.headers["location"]).query)
    answer = {name: values[0] for name, values in query.items()}
    if "error" in answer:
        raise FlowRefused(answer["error"])
    return answer


class _HiddenFields(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "input" and values.get("type") == "hidden":
            self.found[values.get("name") or ""] = values.get("value") or ""
