"""SMART launches by the JavaScript client in a real Chromium, from another origin."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from npm_fhirclient import SOURCES, Chart, ensure_modules
from oauth_flows import begin_launch, running_issuer
from playwright.sync_api import Browser, Page, expect

from fhir_ext.cli.tree import Tree
from fhir_ext.embedded.process import ChildProcess, free_port, port_open, wait_until

SCOPES = "patient/*.rs openid fhirUser user/Practitioner.r"


class Site:
    """Where the app, the gateway and the issuer are: three origins."""

    def __init__(self, app: str, gateway: str, issuer: str) -> None:
        self.app, self.gateway, self.issuer = app, gateway, issuer

    def launch(self, scope: str, **query: str) -> str:
        return f"{self.app}/launch.html?{urlencode({'iss': self.gateway, 'scope': scope, **query})}"


@pytest.fixture(scope="module")
def chart(tree: Tree) -> Chart:
    return Chart(tree)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Origin of the app: its two pages, and the bundle as the package brings it."""
    folder = tmp_path_factory.mktemp("app")
    bundle = ensure_modules() / "fhirclient" / "build" / "fhir-client.js"
    for file in (SOURCES / "launch.html", SOURCES / "index.html", bundle):
        (folder / file.name).write_bytes(file.read_bytes())

    class Pages(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

    handler = functools.partial(Pages, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def site(
    tree: Tree, chart: Chart, app: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A second `serve` beside that of the tree, which lets the app's origin in."""
    folder, port = tmp_path_factory.mktemp("serve-cors"), free_port()
    gateway = f"http://127.0.0.1:{port}/fhir"
    known = {chart.patient: "A patient of the test"}
    with running_issuer(fhir_base=gateway, key_file=folder / "keys.json", patients=known) as issuer:
        child = ChildProcess(
            "serve",
            [sys.executable, "-m", "fhir_ext", "serve"],
            folder / "serve.log",
            environment={**tree.environment, **_settings(folder, port, issuer, app)},
            cwd=folder,
        )
        try:
            wait_until(lambda: port_open(port), 60, "the service", child)
            yield Site(app, gateway, issuer)
        finally:
            child.stop()


def _settings(folder: Path, port: int, issuer: str, app: str) -> dict[str, str]:
    return {
        "FHIR_EXT_SERVER__PORT": str(port),
        "FHIR_EXT_SERVER__PUBLIC_URL": f"http://127.0.0.1:{port}",
        "FHIR_EXT_AUTH__ISSUER": issuer,
        "FHIR_EXT_AUDIT__JOURNAL": str(folder / "audit"),
        "FHIR_EXT_GATEWAY__CORS_ORIGINS": f'["{app}"]',
    }


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def log_in(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name).check()
    page.get_by_role("button", name="Log in without a password (development)").click()


def allow(page: Page) -> None:
    page.get_by_role("button", name="Allow", exact=True).click()


def seen(page: Page, chart: Chart) -> Any:
    """What the app has read once it is ready; always the whole chart, over its pages."""
    expect(page).to_have_title("Ready")
    found = page.evaluate("seen")
    assert found["patient"]["id"] == chart.patient
    assert sorted(item["id"] for item in found["observations"]) == chart.observations
    return found


def test_a_standalone_launch(page: Page, site: Site, chart: Chart) -> None:
    page.goto(site.launch(f"launch/patient {SCOPES}"))
    log_in(page, "Clinician")
    page.get_by_label("Patient (id)").fill(chart.patient)
    allow(page)
    assert seen(page, chart)["user"]["id"] == chart.user
    # The client has taken code and state out of the address; who issued them stays (RFC 9207).
    assert page.url == f"{site.app}/index.html?{urlencode({'iss': site.issuer})}"
    state = page.evaluate("client.state")
    assert state["codeChallengeMethods"] == ["S256"]
    assert state["tokenUri"] == f"{site.issuer}/token"
    # A page that is opened again goes on with the token it has.
    page.reload()
    seen(page, chart)


def test_a_launch_from_the_ehr_brings_the_patient(page: Page, site: Site, chart: Chart) -> None:
    launch = begin_launch(site.issuer, chart.patient)
    page.goto(site.launch(f"launch {SCOPES}", launch=launch))
    log_in(page, "Clinician")
    expect(page.get_by_label("Patient (id)")).to_have_count(0)
    allow(page)
    assert seen(page, chart)["user"]["id"] == chart.user


def test_the_app_refreshes_its_token(page: Page, site: Site, chart: Chart) -> None:
    page.goto(site.launch(f"launch/patient offline_access {SCOPES}"))
    log_in(page, "Clinician")
    page.get_by_label("Patient (id)").fill(chart.patient)
    allow(page)
    seen(page, chart)
    # The settings of a public client: it has nothing but its id to say who it is.
    page.evaluate("FHIR.oauth2.settings.refreshTokenWithClientId = true")
    before = page.evaluate("client.state.tokenResponse.access_token")
    page.evaluate("client.refresh()")
    assert page.evaluate("client.state.tokenResponse.access_token") != before
    assert page.evaluate("client.patient.read()")["id"] == chart.patient


def test_a_refusal_is_read_from_another_origin(page: Page, site: Site, chart: Chart) -> None:
    page.goto(site.launch("launch/patient patient/Patient.r openid fhirUser"))
    log_in(page, "Clinician")
    page.get_by_label("Patient (id)").fill(chart.patient)
    allow(page)
    expect(page).to_have_title("Failed")
    expect(page.locator("body")).to_contain_text("403 Forbidden")
    expect(page.locator("body")).to_contain_text("no scope of the token allows")
    missing = "client.request('Patient/nobody').catch((error) => error.status)"
    assert page.evaluate(missing) == 404


def test_who_says_no_ends_in_the_app(page: Page, site: Site) -> None:
    page.goto(site.launch(f"launch/patient {SCOPES}"))
    log_in(page, "Clinician")
    page.get_by_role("button", name="Do not allow").click()
    expect(page).to_have_title("Failed")
    expect(page.locator("body")).to_contain_text("access_denied")


def test_another_origin_is_not_let_in(page: Page, site: Site) -> None:
    # The same pages under a name that the settings do not list: discovery already fails.
    other = Site(site.app.replace("127.0.0.1", "localhost"), site.gateway, site.issuer)
    page.goto(other.launch(f"launch/patient {SCOPES}"))
    expect(page).to_have_title("Failed")
    expect(page.locator("body")).to_contain_text("Failed to fetch")
