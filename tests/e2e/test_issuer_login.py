"""The issuer's pages in a real Chromium: an app gets its code, and axe finds nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from oauth_flows import running_issuer
from playwright.sync_api import Browser, Page, expect

from fhir_ext.issuer import flows

VERIFIER = "v" * 50


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("issuer")
    patients = {"demo-1": "Mara Quist, born 1961"}
    with running_issuer(key_file=folder / "keys.json", patients=patients) as url:
        yield url


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    """An app of another origin, which the browser is sent back to."""

    class Callback(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/callback") else 404)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>App</title><link rel=icon href=data:,>")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Callback)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/callback"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test on anything the console reports, such as a blocked form."""
    context, problems = browser.new_context(), []
    opened = context.new_page()
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()
    # A form that comes back with a problem is a 400, which the browser reports.
    assert [text for text in problems if "400 (Bad Request)" not in text] == []


def request(issuer: str, app: str, scope: str, **changes: str) -> str:
    query = {
        "response_type": "code",
        "client_id": "demo-app",
        "redirect_uri": app,
        "scope": scope,
        "state": "a-state",
        "aud": flows.fhir_base(issuer),
        "code_challenge": flows.challenge(VERIFIER),
        "code_challenge_method": "S256",
    }
    return f"{issuer}/authorize?{urlencode(query | changes)}"


def check(page: Page) -> None:
    """No accessibility problem, in both schemes and on a narrow screen."""
    for scheme in ("light", "dark"):
        for width in (1280, 320):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 700})
            answer = Axe().run(page).response
            found = [(item["id"], item["nodes"][0]["html"]) for item in answer["violations"]]
            assert found == []
            assert "color-contrast" in {item["id"] for item in answer["passes"]}
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def log_in(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name).check()
    page.get_by_role("button", name="Log in without a password (development)").click()


def test_a_radiologist_logs_in_and_chooses_a_patient(page: Page, issuer: str, app: str) -> None:
    page.goto(request(issuer, app, "openid fhirUser launch/patient patient/*.rs"))
    expect(page).to_have_title("Log in (development)")
    expect(page.get_by_role("radio")).to_have_count(8)
    check(page)
    log_in(page, "Radiologist")
    expect(page.get_by_role("heading", level=1)).to_have_text("Allow Demo app to act for you?")
    expect(page.get_by_role("listitem")).to_have_count(4)
    expect(page.get_by_role("listitem").last).to_contain_text("Read and search all data")
    check(page)
    chosen = page.get_by_label("Patient (id)")
    chosen.fill("not an id")
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Choose a patient")
    expect(chosen).to_have_value("not an id")
    check(page)
    assert page.locator("#patients option").get_attribute("value") == "demo-1"
    chosen.fill("demo-1")
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(page).to_have_title("App")
    assert page.url.startswith(f"{app}?")
    answer = parse_qs(urlsplit(page.url).query)
    assert (answer["state"], answer["iss"]) == (["a-state"], [issuer])
    tokens = flows.exchange(issuer, "demo-app", answer["code"][0], VERIFIER, app)
    assert tokens["patient"] == "demo-1"


def test_the_keyboard_alone_is_enough(page: Page, issuer: str, app: str) -> None:
    page.goto(request(issuer, app, "patient/*.rs"))
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You are logged in as Ines Calder (Patient).")).to_be_visible()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_text("Allow")
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page).to_have_title("App")
    assert "code" in parse_qs(urlsplit(page.url).query)


def test_who_says_no_is_taken_back_too(page: Page, issuer: str, app: str) -> None:
    page.goto(request(issuer, app, "patient/*.rs"))
    log_in(page, "Clinician")
    page.get_by_role("button", name="Do not allow").click()
    expect(page).to_have_title("App")
    assert parse_qs(urlsplit(page.url).query)["error"] == ["access_denied"]


def test_a_wrong_address_ends_on_a_page_of_ours(browser: Browser, issuer: str) -> None:
    page = browser.new_page()
    answer = page.goto(request(issuer, "http://127.0.0.1/elsewhere", "patient/*.rs"))
    assert answer is not None
    assert answer.status == 400
    expect(page.get_by_role("heading", level=1)).to_have_text("This does not work")
    check(page)
    page.close()
