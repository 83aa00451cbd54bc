"""Parts of the development issuer: keys over time, bounded stores, addresses, scopes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from joserfc import jwk, jwt

from fhir_ext.issuer.addresses import hostname, is_loopback, origin_of, same_origin, same_redirect
from fhir_ext.issuer.keys import KeyRing
from fhir_ext.issuer.scopes import described, granted, needs_patient
from fhir_ext.issuer.store import Expiring


class Clock:
    def __init__(self) -> None:
        self.time = time.time()

    def __call__(self) -> float:
        return self.time


def kids(ring: KeyRing) -> list[str]:
    return [key["kid"] for key in ring.public()["keys"]]


def test_a_rotated_key_goes_once_its_tokens_have_ended(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path / "keys.json", "ES384", 300, clock)
    old = ring.kid
    token = ring.sign({"exp": clock.time + 300}, "at+jwt")
    new = ring.rotate()
    assert kids(ring) == [new, old]
    clock.time += 299
    assert ring.verify(token, "at+jwt") is not None
    assert kids(KeyRing(tmp_path / "keys.json", "ES384", 300, clock)) == [new, old]
    clock.time += 62
    assert kids(ring) == [new]
    assert ring.verify(token, "at+jwt") is None
    assert kids(KeyRing(tmp_path / "keys.json", "ES384", 300, clock)) == [new]


def test_another_algorithm_brings_another_key(tmp_path: Path) -> None:
    first = KeyRing(tmp_path / "keys.json", "ES384", 300)
    token = first.sign({"exp": time.time() + 60, "sub": "x"}, "at+jwt")
    second = KeyRing(tmp_path / "keys.json", "RS256", 300)
    assert (second.algorithm, kids(second)[1]) == ("RS256", first.kid)
    claims = second.verify(token, "at+jwt")
    assert claims is not None
    assert claims["sub"] == "x"
    fresh = second.sign({"exp": time.time() + 60}, "at+jwt")
    keys = jwk.KeySet.import_key_set(second.public())
    assert jwt.decode(fresh, keys, ["RS256"]).header["kid"] == second.kid
    assert [key["alg"] for key in second.public()["keys"]] == ["RS256", "ES384"]


def test_only_our_own_running_tokens_verify(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json", "ES384", 300)
    other = KeyRing(tmp_path / "other.json", "ES384", 300)
    later = time.time() + 60
    assert ring.verify(ring.sign({"exp": later}, "at+jwt"), "at+jwt")
    assert ring.verify(ring.sign({"exp": time.time() - 1}, "at+jwt"), "at+jwt") is None
    assert ring.verify(ring.sign({"exp": later}, "JWT"), "at+jwt") is None
    assert ring.verify(other.sign({"exp": later}, "at+jwt"), "at+jwt") is None
    for text in ("", "x", "a.b.c", "\u20ac", "e30.e30.e30", "."):
        assert ring.verify(text, "at+jwt") is None


def test_entries_end_and_the_oldest_gives_way() -> None:
    clock = Clock()
    store: Expiring[int] = Expiring(3, clock)
    store.put("long", 1, 100)
    store.put("short", 2, 1)
    store.put("third", 3, 100)
    clock.time += 2
    assert store.get("short") is None
    store.put("fourth", 4, 100)
    assert [store.get(key) for key in ("long", "third", "fourth")] == [1, 3, 4]
    store.put("fifth", 5, 100)
    assert (store.get("long"), store.get("fifth"), len(store)) == (None, 5, 3)
    assert store.pop("fifth") == 5
    assert store.pop("fifth") is None


def test_nothing_gives_way_to_what_must_be_remembered() -> None:
    clock = Clock()
    store: Expiring[int] = Expiring(2, clock)
    assert store.add("a", 1, 10)
    assert not store.add("a", 1, 10)
    assert store.add("b", 1, 10)
    assert not store.add("c", 1, 10)
    clock.time += 11
    assert store.add("a", 1, 10)
    assert store.add("c", 1, 10)


@pytest.mark.parametrize(
    "host", [None, "", "example.org", "127.0.0.1.example.org", "10.0.0.1", "2"]
)
def test_other_hosts_are_not_loopback(host: str | None) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8001", "::1"),
        ("LOCALHOST", "localhost"),
        ("a@localhost", None),
        ("localhost:x", None),
        ("[", None),
        (None, None),
    ],
)
def test_the_name_in_a_host_header(header: str | None, name: str | None) -> None:
    assert hostname(header) == name


LOCAL = "http://127.0.0.1/cb"


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        (LOCAL, True),
        ("http://127.0.0.1:1/cb", True),
        ("http://127.0.0.1:65535/cb", True),
        ("http://127.0.0.1:/cb", False),
        ("http://127.0.0.1:99999/cb", False),
        ("http://127.0.0.2:1/cb", False),
        ("http://localhost:1/cb", False),
        ("https://127.0.0.1:1/cb", False),
        ("http://127.0.0.1:1/cb/", False),
        ("http://127.0.0.1:1/cb?x=1", False),
        ("http://127.0.0.1:1/cb#x", False),
        ("http://u@127.0.0.1:1/cb", False),
        ("http://127.0.0.1:1@example.org/cb", False),
        ("http://127.0.0.1:1\\@example.org/cb", False),
    ],
)
def test_a_loopback_redirect_may_differ_in_its_port_only(asked: str, same: bool) -> None:
    assert same_redirect(asked, LOCAL) is same


def test_other_redirects_are_compared_to_the_last_character() -> None:
    registered = "https://app.example.org/cb"
    assert same_redirect(registered, registered)
    for asked in (f"{registered}/", "https://app.example.org:443/cb", "https://APP.example.org/cb"):
        assert not same_redirect(asked, registered)
    assert not same_redirect("http://127.0.0.1:2/cb", "http://127.0.0.1:1/cb")


def test_origins_of_redirects() -> None:
    assert same_origin("http://127.0.0.1:5173", LOCAL)
    assert same_origin("https://a.example", "https://a.example/cb")
    for origin in ("http://127.0.0.1:5173/", "https://127.0.0.1", "null", "", "http://a.example"):
        assert not same_origin(origin, LOCAL)
    assert origin_of("http://127.0.0.1:1/cb?x") == "http://127.0.0.1:1"
    assert origin_of("org.example.app:/cb") == "org.example.app:"


@pytest.mark.parametrize(
    ("asked", "allowed", "system", "expected"),
    [
        ("user/*.rs", ["user/*.cruds"], False, "user/*.rs"),
        ("user/*.cruds", ["user/*.rs"], False, ""),
        ("user/*.rs", ["user/Patient.rs"], False, ""),
        ("user/Patient.read", ["user/Patient.rs"], False, "user/Patient.read"),
        ("patient/Patient.r", ["user/*.cruds"], False, ""),
        ("openid launch", ["openid"], False, "openid"),
        ("openid openid", ["openid"], False, "openid"),
        ("openid system/*.rs", ["openid", "system/*.rs"], True, "system/*.rs"),
        ("openid system/*.rs", ["openid", "system/*.rs"], False, "openid"),
        ("", ["openid"], False, ""),
        (None, ["openid"], False, ""),
    ],
)
def test_granted_scopes(asked: str | None, allowed: list[str], system: bool, expected: str) -> None:
    assert granted(asked, allowed, system=system) == expected


def test_scopes_in_words() -> None:
    scopes = "openid patient/*.cruds user/Observation.rs?category=laboratory patient/Patient.d"
    assert described(scopes) == [
        ("openid", "Know who you are"),
        (
            "patient/*.cruds",
            "Create, read, change, delete and search all data of the chosen patient",
        ),
        (
            "user/Observation.rs?category=laboratory",
            "Read and search Observation that you may see, only where category = laboratory",
        ),
        ("patient/Patient.d", "Delete Patient of the chosen patient"),
    ]


@pytest.mark.parametrize(
    ("scope", "needed"),
    [("patient/*.rs", True), ("launch/patient", True), ("launch user/*.rs openid", False)],
)
def test_which_scopes_need_a_patient(scope: str, needed: bool) -> None:
    assert needs_patient(scope) is needed
