"""A running Keycloak with our realm, and what administrators, users and programs do with it."""

from __future__ import annotations

import json
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from joserfc import jwk

from fhir_ext.embedded.keycloak import ADMIN, REALM, KeycloakServer, RealmValues, ensure_keycloak
from fhir_ext.embedded.process import free_port
from fhir_ext.issuer.flows import assertion, challenge

APP, BACKEND = "ehr-app", "backend"
APP_URL = "http://127.0.0.1:9"
REDIRECT_URI = f"{APP_URL}/callback"
PASSWORD = "correct horse battery"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TIMEOUT = 30


class Refused(Exception):
    """Keycloak said no; the text is its error code, or `page` where it showed one."""


class Keycloak:
    """The running server as tests drive it."""

    def __init__(self, server: KeycloakServer, key: jwk.ECKey) -> None:
        self.server, self.key = server, key
        self.issuer = server.issuer
        self.token_url = f"{self.issuer}/protocol/openid-connect/token"
        self._admin_url = f"{server.base_url}/admin/realms/{REALM}"
        self._admin_kept, self._admin_until = "", 0.0

    def admin(self, method: str, path: str, body: object = None) -> requests.Response:
        """One request to the admin interface of the realm, which must succeed."""
        response = requests.request(
            method,
            self._admin_url + path,
            json=body,
            headers={"Authorization": f"Bearer {self._admin_token()}"},
            timeout=TIMEOUT,
        )
        assert response.ok, response.text
        return response

    def _admin_token(self) -> str:
        """It lives for a minute; half of that it is kept."""
        if time.monotonic() < self._admin_until:
            return self._admin_kept
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": ADMIN,
            "password": self.server.admin_password,
        }
        url = f"{self.server.base_url}/realms/master/protocol/openid-connect/token"
        answer = requests.post(url, data=form, timeout=TIMEOUT).json()
        self._admin_kept, self._admin_until = str(answer["access_token"]), time.monotonic() + 30
        return self._admin_kept

    def create_user(self, *roles: str, **attributes: list[str]) -> User:
        """A new user who may log in."""
        name = f"user-{uuid.uuid4().hex[:8]}"
        created = self.admin(
            "POST",
            "/users",
            {
                "username": name,
                "enabled": True,
                "email": f"{name}@example.org",
                "firstName": "Test",
                "lastName": "User",
                "attributes": attributes,
                "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
            },
        )
        user_id = created.headers["Location"].rpartition("/")[2]
        if roles:
            known = [self.admin("GET", f"/roles/{role}").json() for role in roles]
            self.admin("POST", f"/users/{user_id}/role-mappings/realm", known)
        return User(self, name, user_id)

    def client(self, client_id: str) -> dict[str, Any]:
        """A client as the admin interface shows it."""
        (found,) = self.admin("GET", f"/clients?clientId={client_id}").json()
        return dict(found)

    def backend_token(self, scope: str, key: jwk.ECKey | None = None, **claims: Any) -> str:
        """Client credentials with private_key_jwt (SMART Backend Services)."""
        signed = assertion(self.issuer, BACKEND, key or self.key, aud=self.token_url, **claims)
        return str(self.backend_answer(scope, signed)["access_token"])

    def backend_answer(self, scope: str, signed: str) -> dict[str, Any]:
        return self.token(
            grant_type="client_credentials",
            **({"scope": scope} if scope else {}),
            client_assertion_type=ASSERTION_TYPE,
            client_assertion=signed,
        )

    def token(self, **form: str) -> dict[str, Any]:
        """One request to the token endpoint."""
        response = requests.post(self.token_url, data=form, timeout=TIMEOUT)
        answer: dict[str, Any] = response.json()
        if response.status_code != 200:
            raise Refused(answer["error"])
        return answer

    def refresh(self, refresh_token: str) -> dict[str, Any]:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, client_id=APP)


class User:
    """Somebody who logs in through the client `ehr-app`."""

    def __init__(self, keycloak: Keycloak, name: str, user_id: str) -> None:
        self.keycloak, self.name, self.user_id = keycloak, name, user_id

    def login(self, scope: str, password: str = PASSWORD) -> dict[str, Any]:
        """Authorization code with PKCE; the token answer.

        Raises:
            Refused: with the error code, or `page`.
        """
        verifier = secrets.token_urlsafe(32)
        code = self.authorize(
            scope,
            password,
            code_challenge=challenge(verifier),
            code_challenge_method="S256",
        )
        return self.exchange(code, verifier)

    def authorize(self, scope: str, password: str = PASSWORD, **request: str) -> str:
        """The browser's part: login form to code."""
        state = secrets.token_urlsafe(16)
        asked = {
            "response_type": "code",
            "client_id": APP,
            "redirect_uri": REDIRECT_URI,
            "scope": scope,
            "state": state,
            **request,
        }
        with requests.Session() as browser:
            page = browser.get(
                f"{self.keycloak.issuer}/protocol/openid-connect/auth",
                params=asked,
                allow_redirects=False,
                timeout=TIMEOUT,
            )
            for cookie in browser.cookies:
                # Browsers send these to loopback without TLS, too.
                cookie.secure = False
            if page.status_code == 200:
                form = {"username": self.name, "password": password}
                page = browser.post(
                    form_action(page.text), data=form, allow_redirects=False, timeout=TIMEOUT
                )
        location = page.headers.get("Location", "")
        if not location.startswith(f"{REDIRECT_URI}?"):
            raise Refused("page")
        answer = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        if "error" in answer:
            raise Refused(answer["error"])
        assert answer["state"] == state
        assert answer["iss"] == self.keycloak.issuer
        return answer["code"]

    def exchange(self, code: str, verifier: str) -> dict[str, Any]:
        return self.keycloak.token(
            grant_type="authorization_code",
            code=code,
            redirect_uri=REDIRECT_URI,
            client_id=APP,
            code_verifier=verifier,
        )

    def disable(self) -> None:
        self.keycloak.admin("PUT", f"/users/{self.user_id}", {"enabled": False})


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form" and found.get("id") == "kc-form-login":
            self.action = str(found["action"])


def form_action(page: str) -> str:
    """Where Keycloak's login form goes."""
    forms = _Forms()
    forms.feed(page)
    assert forms.action, "there is no login form on the page"
    return forms.action


@contextmanager
def running_keycloak(folder: Path, fhir_base: str) -> Iterator[Keycloak]:
    """A new Keycloak with our realm; on its first run on a machine it is downloaded.

    Args:
        folder: its data and log.
        fhir_base: audience of its tokens.
    """
    key = jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    build = ensure_keycloak(lambda line: print(f"[keycloak] {line}", flush=True))
    with published_keys(key) as jwks_url:
        values = RealmValues(fhir_base, APP_URL, jwks_url)
        server = KeycloakServer(build, folder / "data", free_port(), values)
        server.start(folder / "keycloak.log")
        try:
            server.wait_ready()
            yield Keycloak(server, key)
        finally:
            server.stop()


@contextmanager
def published_keys(key: jwk.ECKey) -> Iterator[str]:
    """The URL of a JWKS with the public part of a key, as a backend service publishes it."""
    public = {**key.as_dict(private=False), "alg": "ES384", "use": "sig"}
    body = json.dumps({"keys": [public]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
