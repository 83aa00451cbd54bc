"""Authentication of outgoing requests, against real local servers."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fhir_ext.clients import http
from fhir_ext.clients.http import build_session, transport_errors
from fhir_ext.errors import ForbiddenError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import HttpAuth

TIMEOUT = timedelta(seconds=5)


class Server(ThreadingHTTPServer):
    """Records what arrives; issues tokens at /token, accepts them everywhere else."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, str]] = []
        self.token_requests: list[tuple[str, dict[str, list[str]]]] = []
        self.valid: set[str] = set()
        self.answer_token: Callable[[], tuple[int, bytes]] = self.new_token
        self.expires_in: float | None = 3600
        self.delay = 0.0
        self.drop_next = 0

    def new_token(self) -> tuple[int, bytes]:
        token = f"token-{len(self.token_requests)}"
        self.valid = {token}
        answer = {"access_token": token, "token_type": "Bearer"}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return 200, json.dumps(answer).encode()

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A refused handshake is what some of these tests want."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._resource()

    def do_POST(self) -> None:
        if self.path != "/token":
            self._resource()
            return
        form = parse_qs(self._body().decode())
        self.server.token_requests.append((self.headers.get("Authorization", ""), form))
        self._answer(*self.server.answer_token())

    def _resource(self) -> None:
        body = self._body().decode()
        authorization = self.headers.get("Authorization", "")
        self.server.seen.append((self.command, authorization, body))
        if self.server.drop_next > 0:
            self.server.drop_next -= 1
            self.close_connection = True
            return
        time.sleep(self.server.delay)
        wanted = {f"Bearer {token}" for token in self.server.valid}
        accepted = self.path != "/protected" or authorization in wanted
        self._answer(200 if accepted else 401, b"{}")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def oauth2(server: Server, **changes: object) -> requests.Session:
    fields = {
        "kind": "oauth2",
        "username": "imaging worker",
        "password": "s3cret/with+signs",
        "token_url": f"{server.url}/token",
        "scope": "system/*.rs",
    }
    return build_session(HttpAuth.model_validate(fields | changes), TIMEOUT)


def test_basic(server: Server) -> None:
    auth = HttpAuth(kind="basic", username="reader", password="pass word")
    with build_session(auth, TIMEOUT) as session:
        session.get(server.url)
    ((_, authorization, _),) = server.seen
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"reader:pass word"


def test_bearer(server: Server) -> None:
    with build_session(HttpAuth(kind="bearer", token="abc"), TIMEOUT) as session:
        session.get(server.url)
    assert server.seen == [("GET", "Bearer abc", "")]


def test_none_sends_nothing_even_with_a_netrc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with build_session(HttpAuth(), TIMEOUT) as session:
        assert session.get(server.url).status_code == 200
    assert server.seen == [("GET", "", "")]


def test_one_token_serves_many_threads(server: Server) -> None:
    with oauth2(server) as session, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: session.get(f"{server.url}/protected"), range(32)))
    assert {answer.status_code for answer in answers} == {200}
    ((client, form),) = server.token_requests
    # Form-encoded inside Basic, as RFC 6749 section 2.3.1 asks.
    expected = b"imaging+worker:s3cret%2Fwith%2Bsigns"
    assert base64.b64decode(client.removeprefix("Basic ")) == expected
    assert form == {"grant_type": ["client_credentials"], "scope": ["system/*.rs"]}


def test_token_is_renewed_shortly_before_it_expires(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(http.time, "monotonic", lambda: clock[0])
    server.expires_in = 120
    with oauth2(server) as session:
        for moment, tokens in ((0, 1), (89, 1), (91, 2), (180, 2), (182, 3)):
            clock[0] = 1000.0 + moment
            assert session.get(f"{server.url}/protected").status_code == 200
            assert len(server.token_requests) == tokens


def test_short_and_unstated_lifetimes_still_cache(server: Server) -> None:
    for lifetime in (5, None):
        server.expires_in = lifetime
        before = len(server.token_requests)
        with oauth2(server) as session:
            for _ in range(3):
                assert session.get(f"{server.url}/protected").status_code == 200
        assert len(server.token_requests) == before + 1


def test_revoked_token_is_replaced_once_and_the_body_sent_again(server: Server) -> None:
    with oauth2(server) as session:
        session.get(f"{server.url}/protected")
        server.valid = set()
        answer = session.post(f"{server.url}/protected", data=b"payload")
    assert answer.status_code == 200
    assert len(server.token_requests) == 2
    assert server.seen[1:] == [
        ("POST", "Bearer token-1", "payload"),
        ("POST", "Bearer token-2", "payload"),
    ]


def test_threads_that_meet_one_revoked_token_fetch_one_new_token(server: Server) -> None:
    with oauth2(server) as session, ThreadPoolExecutor(8) as pool:
        session.get(f"{server.url}/protected")
        server.valid = set()
        server.delay = 0.05
        answers = list(pool.map(lambda _: session.get(f"{server.url}/protected"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(server.token_requests) == 2


def test_401_that_stays_is_returned_after_one_new_token(server: Server) -> None:
    def useless() -> tuple[int, bytes]:
        return 200, b'{"access_token": "x%d"}' % len(server.token_requests)

    server.answer_token = useless
    with oauth2(server) as session:
        assert session.get(f"{server.url}/protected").status_code == 401
    assert len(server.seen) == 2
    assert len(server.token_requests) == 2


def test_streamed_body_is_not_sent_twice(server: Server) -> None:
    with oauth2(server) as session:
        session.get(f"{server.url}/protected")
        server.valid = set()
        path = Path(__file__)
        with path.open("rb") as stream:
            assert session.post(f"{server.url}/protected", data=stream).status_code == 401
    assert len(server.token_requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, b'{"error": "invalid_client"}'), ForbiddenError),
        ((401, b""), ForbiddenError),
        ((503, b""), UpstreamUnavailable),
        ((200, b"<html>"), UpstreamUnavailable),
        ((200, b"[]"), UpstreamUnavailable),
        ((200, b'{"token": "abc"}'), UpstreamUnavailable),
    ],
)
def test_token_endpoint_failures(
    server: Server, answer: tuple[int, bytes], error: type[Exception]
) -> None:
    server.answer_token = lambda: answer
    with oauth2(server) as session, pytest.raises(error) as raised:
        session.get(f"{server.url}/protected")
    assert "s3cret" not in str(raised.value)
    assert not server.seen


def test_dropped_connection_is_tried_once_more_when_idempotent(server: Server) -> None:
    with build_session(HttpAuth(), TIMEOUT) as session:
        server.drop_next = 1
        assert session.get(server.url).status_code == 200
        assert len(server.seen) == 2
        server.drop_next = 2
        with pytest.raises(UpstreamUnavailable), transport_errors("the server"):
            session.get(server.url)
        assert len(server.seen) == 4
        server.drop_next = 1
        with pytest.raises(UpstreamUnavailable), transport_errors("the server"):
            session.post(server.url, data=b"x")
        assert len(server.seen) == 5


def test_silence_ends_at_the_default_timeout_without_a_second_try(server: Server) -> None:
    server.delay = 1.0
    with build_session(HttpAuth(), timedelta(seconds=0.2)) as session:
        begin = time.monotonic()
        with pytest.raises(UpstreamTimeout), transport_errors("the server"):
            session.get(server.url)
        assert time.monotonic() - begin < 0.9
        assert session.get(server.url, timeout=5).status_code == 200
    assert len(server.seen) == 2


def test_refused_and_not_json(server: Server) -> None:
    with build_session(HttpAuth(), TIMEOUT) as session:
        with pytest.raises(UpstreamUnavailable, match="cannot be reached"), transport_errors("it"):
            session.get("http://127.0.0.1:9")
        server.answer_token = lambda: (200, b"<html>")
        with pytest.raises(UpstreamUnavailable, match="JSON"), transport_errors("it"):
            session.post(f"{server.url}/token").json()


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._name, self._key.public_key(), days=2)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / f"{name}.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=days))
        )

    def issue(self, name: str, purpose: x509.ObjectIdentifier) -> tuple[Path, Path]:
        """(certificate, key) files of a leaf for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            self._builder(subject, key.public_key(), days=1)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def mtls_server(authority: Authority) -> Iterator[Server]:
    """Accepts only clients with a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", ExtendedKeyUsageOID.SERVER_AUTH))
    context.load_verify_locations(authority.bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    with Server() as running:
        # The handshake belongs to the handler's thread, not to the accepting one.
        running.socket = context.wrap_socket(
            running.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_mtls_with_oauth2(mtls_server: Server, authority: Authority) -> None:
    """Both the token endpoint and the server ask for our certificate."""
    certificate, key = authority.issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    with oauth2(
        mtls_server, client_certificate=certificate, client_key=key, ca_bundle=authority.bundle
    ) as session:
        assert session.get(f"{mtls_server.url}/protected").status_code == 200
    assert len(mtls_server.token_requests) == 1


def test_mtls_key_in_the_certificate_file(mtls_server: Server, authority: Authority) -> None:
    certificate, key = authority.issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    auth = HttpAuth(client_certificate=certificate, ca_bundle=authority.bundle)
    with build_session(auth, TIMEOUT) as session:
        assert session.get(mtls_server.url).status_code == 200


def test_mtls_without_or_with_a_foreign_certificate_is_refused(
    mtls_server: Server, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    certificate, key = stranger.issue("intruder", ExtendedKeyUsageOID.CLIENT_AUTH)
    for auth in (
        HttpAuth(ca_bundle=authority.bundle),
        HttpAuth(client_certificate=certificate, client_key=key, ca_bundle=authority.bundle),
    ):
        with (
            build_session(auth, TIMEOUT) as session,
            pytest.raises(UpstreamUnavailable),
            transport_errors("the server"),
        ):
            session.get(mtls_server.url)
    assert not mtls_server.seen


def test_server_of_an_unknown_authority_is_not_trusted(
    mtls_server: Server, authority: Authority
) -> None:
    certificate, key = authority.issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    auth = HttpAuth(client_certificate=certificate, client_key=key)
    with build_session(auth, TIMEOUT) as session, pytest.raises(requests.exceptions.SSLError):
        session.get(mtls_server.url)
    assert not mtls_server.seen
