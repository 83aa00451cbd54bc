"""An issuer of tokens with real keys behind a real HTTP server that counts what it is asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.settings import AuthSettings, OutgoingSettings

Json = dict[str, Any]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

AUDIENCE = "https://fhir.example.org/fhir"
LOOPBACK = OutgoingSettings(private_networks=True, plain_http=True)
CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@cache
def private_key(algorithm: str, number: int = 0, bits: int = 2048) -> PrivateKey:
    """A key made once per run; another `number` is another key."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return rsa.generate_private_key(65537, bits)


def public_jwk(key: PrivateKey, algorithm: str, kid: str | None = None, **more: object) -> Json:
    made = jwk.construct(key, algorithm).public_key().to_dict()
    made = {name: value for name, value in made.items() if name != "alg"}
    return {**made, **({} if kid is None else {"kid": kid}), **more}


class _Handler(BaseHTTPRequestHandler):
    server: TokenIssuer

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        time.sleep(self.server.delay)
        self._answer(self.server.pages.get(self.path))

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked[self.path] += 1
        self.server.forms.append({name: values[0] for name, values in form.items()})
        self.server.authorizations.append(self.headers.get("Authorization"))
        self._answer(self.server.introspection)

    def _answer(self, found: Callable[[], object] | object) -> None:
        body = json.dumps(found() if callable(found) else found).encode()
        self.send_response(self.server.status if found is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Tests look at the counts."""


class TokenIssuer(ThreadingHTTPServer):
    """`keys` is what it publishes; it signs with any key that it is given."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.forms: list[Json] = []
        self.authorizations: list[str | None] = []
        self.delay, self.status = 0.0, 200
        self.introspection: Json | Callable[[], Json] = {"active": False}
        self.keys: list[Json] = [public_jwk(private_key("RS256"), "RS256", "first")]
        self.document: Json = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.pages: dict[str, Callable[[], object]] = {
            "/.well-known/openid-configuration": lambda: self.document,
            "/jwks": lambda: {"keys": self.keys},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetches(self) -> int:
        """How often the keys were asked for."""
        return self.asked["/jwks"]

    def settings(self, **changes: Any) -> AuthSettings:
        return AuthSettings(**{"issuer": self.url, **changes})

    def verifier(self, **changes: Any) -> TokenVerifier:
        return build_verifier(self.settings(**changes), LOOPBACK, AUDIENCE)

    def claims(self, **changes: object) -> Json:
        """Claims that hold for a minute; a change to None leaves the claim out."""
        now = time.time()
        made: Json = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "user-1",
            "client_id": "app-1",
            "iat": now,
            "exp": now + 60,
            "scope": "openid user/Patient.rs",
            "fhirUser": "Practitioner/1",
        }
        made |= changes
        return {name: value for name, value in made.items() if value is not None}

    def token(
        self,
        claims: Json | None = None,
        *,
        algorithm: str = "RS256",
        kid: str | None = "first",
        key: PrivateKey | None = None,
        headers: Json | None = None,
    ) -> str:
        head = {**({} if kid is None else {"kid": kid}), **(headers or {})}
        signed: str = jwt.encode(
            self.claims() if claims is None else claims,
            key or private_key(algorithm),
            algorithm,
            headers=head,
        )
        return signed


@contextmanager
def running_issuer() -> Iterator[TokenIssuer]:
    issuer = TokenIssuer()
    thread = threading.Thread(target=issuer.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.shutdown()
        issuer.server_close()
        thread.join()
