"""The status page in a real Chromium: accessible, on narrow screens, and current by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect
from serving import serving
from status_fixture import LONG_UID, Example, filled

#: Longer than the page's period of 2 s: by then an update would have come.
A_WHILE = 3000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Example, str]]:
    """Rows that no test changes, and the address of their page."""
    yield from served(filled(tmp_path_factory.mktemp("status")))


@pytest.fixture
def own(tmp_path) -> Iterator[tuple[Example, str]]:
    """Rows of one test, and the address of their page."""
    yield from served(filled(tmp_path))


def served(example: Example) -> Iterator[tuple[Example, str]]:
    with serving(example.app()) as url:
        yield example, f"{url}/"
    example.repository.engine.dispose()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a context of its own; fails the test on anything the console reports."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_page(address: str, **options) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # The test that stops the server makes the browser report it.
    assert [text for text in problems if "ERR_CONNECTION" not in text] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
def test_axe_finds_nothing(visit, shared, scheme: str, width: int) -> None:
    size = {"width": width, "height": 800}
    page = visit(shared[1], color_scheme=scheme, viewport=size)
    answer = Axe().run(page).response
    assert [(item["id"], item["nodes"][0]["html"]) for item in answer["violations"]] == []
    assert "color-contrast" in {item["id"] for item in answer["passes"]}


def test_axe_finds_nothing_when_parts_are_down(visit, own) -> None:
    example, address = own
    example.fhir.down = True
    page = visit(address)
    expect(page.locator("#overall")).to_contain_text("Numbers cannot be read")
    assert Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("width", [320, 480, 640, 1024, 1153, 1280])
def test_nothing_needs_sideways_scrolling(visit, shared, width: int) -> None:
    page = visit(shared[1], viewport={"width": width, "height": 800})
    outside = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")]
            .filter((e) => !e.closest("thead, .uid"))
            .filter((e) => e.getBoundingClientRect().right > innerWidth)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_numbers_stay_in_their_box_at_320_pixels(visit, shared) -> None:
    page = visit(shared[1], viewport={"width": 320, "height": 800})
    assert page.locator(".numbers").count() == 2
    for table in page.locator(".numbers").all():
        box, around = table.bounding_box(), table.locator("xpath=ancestor::article").bounding_box()
        assert box["x"] + box["width"] <= around["x"] + around["width"]


def test_tables_keep_their_meaning_on_narrow_screens(visit, shared) -> None:
    page = visit(shared[1], viewport={"width": 320, "height": 800})
    table = page.get_by_role("table", name="All, newest first.")
    assert table.get_by_role("columnheader").count() == 7
    assert table.get_by_role("rowheader").count() == 5
    assert table.get_by_role("row").count() == 6


def test_a_shortened_uid_is_copied_whole(visit, shared) -> None:
    page = visit(shared[1])
    uid = page.locator(f"code[title='{LONG_UID}']").first
    assert uid.bounding_box()["width"] < 200
    copied = uid.evaluate(
        "(e) => { getSelection().selectAllChildren(e); return getSelection().toString(); }"
    )
    assert copied == LONG_UID


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(visit, shared) -> None:
    page = visit(shared[1])
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "Skip to content"
    assert page.evaluate(f"{focused}.getBoundingClientRect().left") >= 0
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "Refresh"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.id") == "pause"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focused}.textContent") == "Resume updates"
    links = page.locator("main a").count()
    reached = 0
    for _ in range(links):
        page.keyboard.press("Tab")
        reached += page.evaluate(f"{focused}.matches('main a')")
    assert reached == links


def test_the_skip_link_leads_to_the_content(visit, shared) -> None:
    page = visit(shared[1])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_new_study_appears_by_itself(visit, own) -> None:
    example, address = own
    page = visit(address)
    expect(page.locator("#studies")).not_to_contain_text("being worked on")
    example.add_run("new", "running", step="prepare")
    expect(page.locator("#studies")).to_contain_text("being worked on", timeout=10_000)


def test_a_paused_page_stays_as_it_is_also_after_a_reload(visit, own) -> None:
    example, address = own
    page = visit(address)
    page.get_by_role("button", name="Pause updates").click()
    example.add_run("new", "running", step="prepare")
    page.wait_for_timeout(A_WHILE)
    expect(page.locator("#studies")).not_to_contain_text("being worked on")
    page.get_by_role("link", name="Refresh").click()
    expect(page.locator("#studies")).to_contain_text("being worked on")
    expect(page.locator("#updates")).to_have_text("Paused")
    page.get_by_role("button", name="Resume updates").click()
    example.add_run("newer", "queued")
    expect(page.locator("#studies")).to_contain_text("in the queue", timeout=10_000)


def test_what_somebody_uses_is_not_replaced_under_their_hands(visit, own) -> None:
    example, address = own
    page = visit(address)
    page.locator("#studies a").first.focus()
    example.add_run("new", "running", step="prepare")
    expect(page.locator("#updates")).to_have_text("Waits while you use it: Studies", timeout=10_000)
    assert page.evaluate("document.activeElement.closest('section').id") == "studies"
    expect(page.locator("#studies")).not_to_contain_text("being worked on")
    page.get_by_role("button", name="Pause updates").focus()
    expect(page.locator("#studies")).to_contain_text("being worked on", timeout=10_000)


def test_a_service_that_is_gone_is_told(browser, visit, own) -> None:
    _, address = own
    page = visit(address)
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    expect(page.get_by_role("status")).to_contain_text(
        "This service does not answer. What you see is as of", timeout=10_000
    )
    page.unroute("**/*")
    expect(page.get_by_role("status")).to_be_empty(timeout=10_000)


def test_without_javascript_everything_is_there(visit, shared) -> None:
    page = visit(shared[1], java_script_enabled=False)
    assert page.get_by_role("cell", name="5123.4 mL").count() == 6
    assert page.get_by_role("button").count() == 0
    page.get_by_role("link", name="Refresh").click()
    expect(page.get_by_role("heading", name="All parts work")).to_be_visible()
