"""Dangerous forms of requests against the whole gateway: each is refused or confined."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from access_world import CODE, CODES, HOOK_SECRET, MATE, OTHER, OWN, PREFIX, World, mark
from dangerous_forms import CONFINED, FORMS, HEADERS, REFUSED, SEARCHES, Form, extras
from tokens import Tokens

if TYPE_CHECKING:
    from fhir_ext.cli.tree import Tree

Json = dict[str, Any]
ALL = f"code={CODES}|{CODE}"

#: Tokens and whose marks may appear with them.
CONFINED_TOKENS = {
    "patient": ("patient", "patient/*.cruds", {OWN}),
    "program": ("radiologist", "user/*.cruds", {OWN, MATE}),
}


class Wire:
    """Sends a request target exactly as it is written, unlike a client that tidies it up."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        self._host, self._prefix = parts.netloc, parts.path.rstrip("/")
        self.base = base.rstrip("/")

    def send(self, token: str, form: Form) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers (lower case) of the answer."""
        connection = http.client.HTTPConnection(self._host, timeout=60)
        # What a careful client would refuse to send is what an attacker sends.
        connection._validate_path = lambda _url: None  # type: ignore[attr-defined]
        try:
            target = self._prefix + form.target.replace(" ", "%20").replace("\t", "%09")
            connection.putrequest(form.method, target, skip_accept_encoding=True)
            for name, value in {"Authorization": f"Bearer {token}", **form.headers}.items():
                connection.putheader(name, value)
            if form.body or form.method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(form.body)))
            connection.endheaders(form.body or None)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            return answer.status, text, {name.lower(): v for name, v in answer.getheaders()}
        finally:
            connection.close()


@pytest.fixture(scope="module")
def tokens(tree: Tree) -> Tokens:
    return Tokens(tree.urls["issuer"], tree.directory)


@pytest.fixture(scope="module")
def world(tree: Tree, tokens: Tokens) -> World:
    token = tokens.get("coordinator", "user", "user/Patient.r")
    found = World.prepared(tree.urls, token)
    for resource in extras():
        found.put(resource)
    return found


@pytest.fixture(scope="module")
def wire(tree: Tree) -> Wire:
    return Wire(tree.urls["gateway"])


@pytest.fixture(params=list(CONFINED_TOKENS))
def confined(request: pytest.FixtureRequest, tokens: Tokens) -> Iterator[tuple[str, set[str]]]:
    persona, scope, allowed = CONFINED_TOKENS[request.param]
    yield tokens.get(persona, scope.partition("/")[0], scope), allowed


def seen(text: str) -> set[str]:
    return {patient for patient in (OWN, MATE, OTHER) if mark(patient) in text}


def check(verdict: str, status: int, text: str, allowed: set[str]) -> None:
    assert seen(text) <= allowed, f"{status}: saw {seen(text) - allowed}"
    assert status < 500, text
    assert status not in (401, 429), text
    if verdict == REFUSED:
        assert status >= 400, text[:300]
        # Nor does a refusal repeat what it was asked with.
        assert not seen(text)
    elif verdict == CONFINED:
        assert status == 200, text[:300]


def test_the_list_is_a_list_of_leaks(world: World) -> None:
    """Without the gateway, HAPI itself answers many of these forms with the other's data."""
    forms = [form for form in SEARCHES if form.verdict == CONFINED]
    leaks = [form for form in forms if mark(OTHER) in world.raw("GET", form.target)]
    assert len(leaks) >= len(forms) / 2


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_form(form: Form, world: World, wire: Wire, confined: tuple[str, set[str]]) -> None:
    token, allowed = confined
    status, text, _ = wire.send(token, form)
    check(form.verdict, status, text, allowed)


def test_nothing_was_deleted(world: World) -> None:
    assert world.exists(f"Condition/{PREFIX}cond-{OWN}")
    assert world.exists(f"Patient/{OTHER}")


def test_a_search_finds_what_is_allowed(
    world: World, wire: Wire, confined: tuple[str, set[str]]
) -> None:
    """So that an empty answer is not what makes the other tests pass."""
    token, allowed = confined
    for target in (
        f"/Observation?{ALL}",
        f"/Observation?{ALL}&_elements=valueString",
        f"/Observation?_id={PREFIX}obs-link&_include=*",
        f"/Patient?_id={OWN},{OTHER}",
        f"/Patient?_id={OWN}&_revinclude=Observation:patient",
    ):
        _, text, _ = wire.send(token, Form(target, CONFINED))
        assert OWN in seen(text), target
    _, text, _ = wire.send(token, Form(f"/Observation?{ALL}", CONFINED))
    assert seen(text) == allowed


def test_a_count_counts_what_may_be_seen(
    world: World, wire: Wire, confined: tuple[str, set[str]]
) -> None:
    token, allowed = confined
    about = ",".join(f"Patient/{patient}" for patient in allowed)
    wanted = world.count(f"Observation?{ALL}&subject={about}")
    assert wanted < world.count(f"Observation?{ALL}")
    for extra in ("_summary=count", "_total=accurate", "_count=0&_total=accurate"):
        _, text, _ = wire.send(token, Form(f"/Observation?{ALL}&{extra}", CONFINED))
        assert json.loads(text).get("total") == wanted, extra


def test_an_older_version_of_another_patient(
    world: World, wire: Wire, confined: tuple[str, set[str]]
) -> None:
    """A resource that was moved: its history tells only what is about the allowed patient."""
    token, _ = confined
    name = f"{PREFIX}obs-moved"
    for patient in (OTHER, OWN):
        world.put(
            {
                "resourceType": "Observation",
                "id": name,
                "status": "final",
                "code": {"text": "moved"},
                "subject": {"reference": f"Patient/{patient}"},
                "valueString": mark(patient),
            }
        )
    current = int(world.read(f"Observation/{name}")["meta"]["versionId"])
    status, text, _ = wire.send(token, Form(f"/Observation/{name}/_history", CONFINED))
    assert status == 200
    assert seen(text) == {OWN}
    status, text, _ = wire.send(token, Form(f"/Observation/{name}/_history/{current - 1}", REFUSED))
    check(REFUSED, status, text, set())
    status, text, _ = wire.send(token, Form(f"/Observation/{name}/_history/{current}", CONFINED))
    check(CONFINED, status, text, {OWN})


# Pages


def next_link(text: str) -> str:
    (found,) = (link["url"] for link in json.loads(text)["link"] if link["relation"] == "next")
    return str(found)


def as_form(wire: Wire, url: str) -> Form:
    assert url.startswith(wire.base), url
    return Form(url.removeprefix(wire.base), CONFINED)


def test_pages_are_followed_to_the_end(
    world: World, wire: Wire, confined: tuple[str, set[str]]
) -> None:
    token, allowed = confined
    form, found = Form(f"/Observation?{ALL}&_count=1", CONFINED), set()
    for _ in range(20):
        status, text, _ = wire.send(token, form)
        check(CONFINED, status, text, allowed)
        found |= seen(text)
        if '"next"' not in text:
            break
        form = as_form(wire, next_link(text))
    assert found == allowed


@pytest.mark.parametrize("whose", ["program", "service", "administrator"])
def test_a_page_of_another_token(world: World, wire: Wire, tokens: Tokens, whose: str) -> None:
    searching = {
        "program": tokens.get("radiologist", "user", "user/*.cruds"),
        "service": tokens.get("service", "system", "system/*.cruds"),
        "administrator": tokens.get("administrator", "user", "user/*.cruds"),
    }[whose]
    target = "/Device?_count=1" if whose == "administrator" else f"/Observation?{ALL}&_count=1"
    _, text, _ = wire.send(searching, Form(target, CONFINED))
    form = as_form(wire, next_link(text))
    mine = tokens.get("patient", "patient", "patient/*.cruds")
    status, text, _ = wire.send(mine, form)
    assert status == 403
    check(REFUSED, status, text, set())
    assert wire.send(searching, form)[0] == 200


def test_a_page_with_another_signature(world: World, wire: Wire, tokens: Tokens) -> None:
    token = tokens.get("service", "system", "system/*.cruds")
    _, text, _ = wire.send(token, Form(f"/Observation?{ALL}&_count=1", CONFINED))
    path, _, query = as_form(wire, next_link(text)).target.partition("?")
    pairs = parse_qsl(query)
    pages = [pair for pair in pairs if pair[0].startswith("_getpages")]
    (signature,) = (pair for pair in pairs if pair not in pages and len(pair[1]) >= 32)
    for changed in (
        pages,
        [*pages, (signature[0], "0" * len(signature[1]))],
        [*pages, signature, signature],
        [*pages, *pages, signature],
        [("_getpages", "11111111-2222-3333-4444-555555555555"), signature],
    ):
        form = Form(f"{path}?{urlencode(changed)}", REFUSED)
        status, text, _ = wire.send(token, form)
        check(REFUSED, status, text, set())


# Headers and secrets


def test_forwarded_headers_do_not_reach_links(world: World, wire: Wire, tokens: Tokens) -> None:
    token = tokens.get("service", "system", "system/*.cruds")
    for form in (form for form in HEADERS if "evil.example" in str(form)):
        _, text, headers = wire.send(token, form)
        assert "evil.example" not in text + json.dumps(headers)
        assert f'"{wire.base}/Observation/' in text


@pytest.mark.parametrize(
    "target",
    [
        f"/Subscription/{PREFIX}hook",
        f"/Subscription/{PREFIX}hook/_history",
        f"/Subscription/{PREFIX}hook/_history/1",
        f"/Subscription?_id={PREFIX}hook",
        f"/Subscription?_id={PREFIX}hook&_elements=channel",
        f"/Subscription/{PREFIX}hook?_elements=channel",
        f"/Subscription?_id={PREFIX}hook&_summary=false&_pretty=true",
        "/Subscription/_history?_count=500",
        f"/Subscription/{PREFIX}hook?_format=xml",
        f"/Subscription?_id={PREFIX}hook&_format=xml",
        f"/Subscription/{PREFIX}hook?_format=html/json",
    ],
)
@pytest.mark.parametrize("persona", ["administrator", "service"])
def test_the_secret_of_a_hook(
    world: World, wire: Wire, tokens: Tokens, persona: str, target: str
) -> None:
    context = "system" if persona == "service" else "user"
    token = tokens.get(persona, context, f"{context}/*.cruds")
    status, text, _ = wire.send(token, Form(target, CONFINED))
    assert "hook-secret" not in text
    assert HOOK_SECRET not in text
    if "_format" not in target:
        assert status == 200
        assert "masked" in text
    else:
        assert status < 500


def test_the_secret_of_a_hook_in_a_batch(world: World, wire: Wire, tokens: Tokens) -> None:
    token = tokens.get("administrator", "user", "user/*.cruds")
    entries = [
        {"request": {"method": "GET", "url": url}}
        for url in (f"Subscription/{PREFIX}hook", f"Subscription?_id={PREFIX}hook")
    ]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    headers = {"Content-Type": "application/fhir+json"}
    form = Form("/", CONFINED, "POST", headers, json.dumps(bundle).encode())
    status, text, _ = wire.send(token, form)
    assert status == 200
    assert text.count("masked") == 2
    assert "hook-secret" not in text
