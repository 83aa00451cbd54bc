"""The guard of outgoing addresses: what may be called, and what is connected to."""

from __future__ import annotations

import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import fhir_ext.outgoing
from fhir_ext.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.outgoing import OutgoingGuard, RefusedAddress, get_json, post_form_json
from fhir_ext.settings import HttpAuth, OutgoingSettings

STRICT = OutgoingGuard(OutgoingSettings())
#: Only loopback is reachable in these tests.
INSIDE = OutgoingGuard(OutgoingSettings(private_networks=True, plain_http=True))
OUTSIDE_HTTP = OutgoingGuard(OutgoingSettings(plain_http=True))
TIMEOUT = timedelta(seconds=2)
PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example.org/jwks",
        "https://issuer.example.org:8443/a?b=c",
        "HTTPS://ISSUER.EXAMPLE.ORG",
        "https://bücher.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://1e100.net/",
        "https://7.example.org/",
    ],
)
def test_public_addresses_may_be_called(url: str) -> None:
    STRICT.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example.org",
        "//issuer.example.org",
        "http://issuer.example.org/",
        "ftp://issuer.example.org/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@issuer.example.org/",
        "https://user:password@issuer.example.org/",
        "https://@issuer.example.org/",
        "https://issuer.example.org\\@10.0.0.1/",
        "https://issuer.example.org/\r\nX: y",
        "https://issuer.example.org /",
        " https://issuer.example.org/",
        "https://issuer.example.org:99999/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://①②⑦.0.0.1/",
        "https://0/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://192.0.2.1/",
        "https://198.18.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://240.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fc00::1]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[2001:db8::1]/",
        "https://[2002:7f00:1::]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::1]/",
        "https://[2001:0:7f00:1::]/",
    ],
)
def test_other_addresses_may_not(url: str) -> None:
    with pytest.raises(RefusedAddress):
        STRICT.check(url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/", "http://10.0.0.1/", "https://[fc00::1]/", "http://localhost/"],
)
def test_private_networks_when_the_settings_say_so(url: str) -> None:
    INSIDE.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://2130706433/",
    ],
)
def test_some_addresses_never(url: str) -> None:
    with pytest.raises(RefusedAddress):
        INSIDE.check(url)


def test_listed_hosts_only() -> None:
    guard = OutgoingGuard(OutgoingSettings(hosts=("Issuer.example.org", "10.0.0.1")))
    guard.check("https://issuer.EXAMPLE.org./x")
    for url in (
        "https://example.org/",
        "https://a.issuer.example.org/",
        "https://issuer.example.org.evil.example/",
        "https://8.8.8.8/",
        # Listing an address does not make its network reachable.
        "https://10.0.0.1/",
    ):
        with pytest.raises(RefusedAddress):
            guard.check(url)


@given(
    st.sampled_from([*fhir_ext.outgoing._PRIVATE[:5], ipaddress.ip_network("169.254.0.0/16")]),
    st.integers(0, 2**32 - 1),
)
def test_no_form_of_a_private_address_passes(network: Any, number: int) -> None:
    offset = number % network.num_addresses
    address = network.network_address + offset
    value = int(address)
    octets = [value >> shift & 255 for shift in (24, 16, 8, 0)]
    for host in (
        str(address),
        f"{address}.",
        str(value),
        hex(value),
        oct(value).replace("o", ""),
        ".".join(hex(octet) for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        f"{octets[0]}.{value & 0xFFFFFF}",
        f"[::ffff:{address}]",
        f"[64:ff9b::{address}]",
        f"[::{address}]",
    ):
        with pytest.raises(RefusedAddress):
            STRICT.check(f"https://{host}/")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, str]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = json.dumps({"hello": "world"}).encode()
        self.pause = 0.0

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}/x"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what some of these tests want."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, self.headers["Host"], sent.decode()))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not self.server.pause:
            self.wfile.write(self.server.body)
            return
        for byte in self.server.body:
            self.wfile.write(bytes([byte]))
            time.sleep(self.server.pause)

    def log_message(self, *args: object) -> None:
        """Tests look at `seen`."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with INSIDE.session(HttpAuth(), TIMEOUT) as made:
        yield made


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Host name to the answers that its next look-ups get; the last one stays."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in answers:
            return real(host, port, *args, **kwargs)
        found = answers[host]
        addresses = found.pop(0) if len(found) > 1 else found[0]
        return [info for address in addresses for info in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


def test_json_is_read(server: Server, session: requests.Session) -> None:
    assert get_json(session, server.url(), server="the server") == {"hello": "world"}
    form = {"a": "b c"}
    assert post_form_json(session, server.url(), form, server="the server") == {"hello": "world"}
    assert [sent for _, _, sent in server.seen] == ["", "a=b+c"]


def test_a_session_looks_at_every_url(server: Server) -> None:
    with STRICT.session(HttpAuth(), TIMEOUT) as strict:
        for url in (server.url(), server.url(scheme="https"), "https://10.0.0.1/"):
            with pytest.raises(RefusedAddress):
                strict.get(url, stream=True)
    inside = OutgoingGuard(OutgoingSettings(private_networks=True)).session(HttpAuth(), TIMEOUT)
    with inside, pytest.raises(RefusedAddress):
        inside.get(server.url(), stream=True)
    assert server.seen == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1"]])
def test_a_name_of_a_private_address_is_not_connected_to(
    server: Server, names: dict[str, list[list[str]]], addresses: list[str]
) -> None:
    names["rebound.example.org"] = [addresses]
    url = server.url("rebound.example.org")
    OUTSIDE_HTTP.check(url)
    with OUTSIDE_HTTP.session(HttpAuth(), TIMEOUT) as outside, pytest.raises(RefusedAddress):
        get_json(outside, url, server="the server")
    assert server.seen == []


def test_a_name_that_changes_after_the_look_is_not_followed(
    server: Server, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["rebound.example.org"] = [[PUBLIC], ["127.0.0.1"]]
    dialled = []

    def connect(self: socket.socket, address: Any) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    outside = OUTSIDE_HTTP.session(HttpAuth(), TIMEOUT)
    with outside, pytest.raises(UpstreamUnavailable):
        get_json(outside, server.url("rebound.example.org"), server="the server")
    assert set(dialled) == {PUBLIC}


def test_a_name_is_kept_in_the_request(
    server: Server, session: requests.Session, names: dict[str, list[list[str]]]
) -> None:
    # Nothing listens on the first address.
    names["service.example.org"] = [["::1", "127.0.0.1"]]
    for _ in range(2):
        get_json(session, server.url("service.example.org"), server="the server")
    assert {host for _, host, _ in server.seen} == {f"service.example.org:{server.server_port}"}


def test_a_name_that_does_not_exist(session: requests.Session) -> None:
    with pytest.raises(UpstreamUnavailable):
        get_json(session, "http://service.invalid/", server="the server")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Self-signed for one DNS name: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_tls_verifies_the_name_and_not_the_address(
    server: Server, names: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    certificate, key = _certificate(tmp_path, "service.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    names["service.example.org"] = names["other.example.org"] = [["127.0.0.1"]]
    guard = OutgoingGuard(OutgoingSettings(private_networks=True))
    with guard.session(HttpAuth(ca_bundle=certificate), TIMEOUT) as secure:
        url = server.url("service.example.org", "https")
        assert get_json(secure, url, server="the server") == {"hello": "world"}
        with pytest.raises(UpstreamUnavailable):
            get_json(secure, server.url("other.example.org", "https"), server="the server")
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: Server, session: requests.Session, status: int) -> None:
    server.status = status
    server.headers = {"Location": server.url()}
    with pytest.raises(UpstreamUnavailable):
        get_json(session, server.url(), server="the server")
    for follow in (True, False):
        with pytest.raises(UpstreamUnavailable):
            session.get(server.url(), allow_redirects=follow)
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [201, 204, 400, 401, 500])
def test_other_answers_are_errors_of_the_server(
    server: Server, session: requests.Session, status: int
) -> None:
    server.status = status
    with pytest.raises(UpstreamUnavailable):
        get_json(session, server.url(), server="the server")


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"<html>", b'{"a":', b"\xff{}", b"[" * 9000])
def test_answers_must_be_json_objects(
    server: Server, session: requests.Session, body: bytes
) -> None:
    server.body = body
    with pytest.raises(UpstreamUnavailable):
        get_json(session, server.url(), server="the server")


def test_long_answers_are_not_read(server: Server, session: requests.Session) -> None:
    server.body = json.dumps({"a": "x" * 2000}).encode()
    assert get_json(session, server.url(), server="the server", max_bytes=len(server.body))
    with pytest.raises(UpstreamError):
        get_json(session, server.url(), server="the server", max_bytes=len(server.body) - 1)


def test_what_is_counted_is_decompressed(server: Server, session: requests.Session) -> None:
    plain = json.dumps({"a": "x" * 50_000_000}).encode()
    server.headers = {"Content-Encoding": "gzip"}
    server.body = gzip.compress(b'{"a": "b"}')
    assert get_json(session, server.url(), server="the server") == {"a": "b"}
    server.body = gzip.compress(plain)
    assert len(server.body) < 100_000
    with pytest.raises(UpstreamError):
        get_json(session, server.url(), server="the server")
    server.body = b"no gzip"
    with pytest.raises(UpstreamUnavailable):
        get_json(session, server.url(), server="the server")


def test_slow_answers_are_given_up(
    server: Server, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhir_ext.outgoing, "MAX_DURATION", timedelta(seconds=0.3))
    server.pause, server.body = 0.05, b" " * 200
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        get_json(session, server.url(), server="the server")
    assert time.monotonic() - began < 3


def test_silent_answers_are_given_up(server: Server) -> None:
    server.pause = 1.0
    hurried = INSIDE.session(HttpAuth(), timedelta(seconds=0.2))
    with hurried, pytest.raises(UpstreamTimeout):
        get_json(hurried, server.url(), server="the server")
