"""The status page in a real Chromium: accessible, narrow screens, updates by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from status_fixture import CannedFhir, filled_repository, status_app

from fhir_ext.embedded.browser import ensure_chromium
from fhir_ext.embedded.process import free_port

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = ensure_chromium(print)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(path), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    repository = filled_repository(tmp_path_factory.mktemp("status"))
    yield repository
    repository.engine.dispose()


@pytest.fixture(scope="module")
def address(repository) -> Iterator[str]:
    port = free_port()
    config = uvicorn.Config(
        status_app(repository, CannedFhir()), host="127.0.0.1", port=port, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(address)
    violations = Axe().run(page).response["violations"]
    context.close()
    assert [(item["id"], item["nodes"][0]["html"]) for item in violations] == []
    assert problems == []


def test_320_pixels_need_no_sideways_scrolling(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 800})
    page = context.new_page()
    page.goto(address)
    width = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert width <= 320


def test_keyboard_reaches_skip_link_and_pause(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pause"
    page.keyboard.press("Enter")
    assert page.get_attribute("#pause", "aria-pressed") == "true"


def test_a_new_study_appears_by_itself_unless_paused(page: Page, repository) -> None:
    repository.record_run("ImagingStudy/new/1", "new", "1", state="running", step="prepare")
    page.wait_for_selector("text=being worked on", timeout=10_000)
    page.click("#pause")
    page.evaluate("document.activeElement.blur()")
    repository.record_run("ImagingStudy/later/1", "later", "1", state="queued", step="")
    page.wait_for_timeout(3000)
    assert page.locator("text=in the queue").count() == 0


def test_without_javascript_everything_is_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("text=4170.3 mL").count() == 1
    assert page.locator("#pause").is_hidden()
    context.close()
