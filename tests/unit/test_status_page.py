"""The status page: every state in words, nothing hostile, and standing when servers are down."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from html.parser import HTMLParser

import pytest
import result_samples as samples
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from status_fixture import FHIR_URL, HOSTILE, LONG_UID, Example, filled

from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.status import numbers, words
from fhir_ext.status.checks import HealthMonitor, HealthState
from fhir_ext.status.views import StatusView
from fhir_ext.store.repository import now


@pytest.fixture
def example(tmp_path):
    example = filled(tmp_path)
    yield example
    example.repository.engine.dispose()


@pytest.fixture
def client(example: Example) -> TestClient:
    return TestClient(example.app())


@pytest.fixture
def hanging(example: Example):
    """The FHIR server takes requests and does not answer until the test is over."""
    example.fhir.blocked = threading.Event()
    yield example.fhir.blocked
    example.fhir.blocked.set()


class _Page(HTMLParser):
    """Text, links and tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())


def page_of(client: TestClient, query: str = "") -> _Page:
    response = client.get(f"/{query}")
    assert response.status_code == 200
    return _Page(response.text)


def study(client: TestClient, name: str) -> dict:
    studies = client.get("/status.json").json()["studies"]
    return next(item for item in studies if item["imaging_study_id"] == name)


# What people read


@pytest.mark.parametrize(
    "words_on_page",
    [
        "done",
        "nothing to do",
        "waiting, will be tried again",
        "Study incomplete: a series has 118 of 120 instances",
        "needs a human",
        "Kernel not accepted: found B70f; needed a smooth kernel on the list of its manufacturer",
        "No slices: found 0 slices; needed a stack of slices",
        f"lung-density; Age: 17 years; series {LONG_UID}.1, {LONG_UID}.2",
        "5123.4 mL",
        "-842.1 HU",
        "7.2 %",
        "withheld: Kernel not accepted",
        "preliminary: no human has looked yet",
        "fhir-ext tasks resume ImagingStudy/stuck/1",
        "fhir-ext patients link 1.2.3.4 Patient/ID",
        "No Patient has this identifier",
        "The issuer of the PatientID is not in the settings",
        "1 arriving",
        "4 wait for a human",
        "2 waiting, the oldest for 1.5 s; 1 put back for later",
        "analyze 1.54 (fetch 0.06, infer 1.48)",
        "answers searches",
    ],
)
def test_the_page_says_in_words(client, words_on_page: str) -> None:
    assert words_on_page in page_of(client).text


def test_numbers_link_to_their_resources(example, client) -> None:
    links = page_of(client).links
    assert f"{FHIR_URL}/ImagingStudy/read" in links
    observations = {link for link in links if link.startswith(f"{FHIR_URL}/Observation/")}
    held = {f"{FHIR_URL}/Observation/{item}" for item in example.fhir.observations}
    # Two regions of two measurements are told by one cell, a result without numbers by its panel.
    assert observations < held
    assert len(observations) == 3 + 12 + 8


def test_uids_are_whole_in_text_and_title(client) -> None:
    page = page_of(client)
    titles = [attrs.get("title") for tag, attrs in page.tags if tag == "code"]
    assert LONG_UID in titles
    assert LONG_UID in page.text


def test_nobody_is_named(client) -> None:
    html = client.get("/").text + client.get("/status.json").text
    assert "Patient/example" not in html


def test_an_empty_installation_says_what_to_do(example, client) -> None:
    with example.repository.engine.begin() as connection:
        for table in ("study_run", "service_outcome", "archive_study"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    text = page_of(client).text
    assert "fhir-ext reconcile --since DATE" in text
    assert "Waits for a human Nothing." in text


# Hostile text


def test_text_from_outside_is_escaped(client) -> None:
    response = client.get("/")
    assert HOSTILE not in response.text
    assert HOSTILE in _Page(response.text).text


def test_policy_allows_nothing_inline_and_the_page_needs_nothing_inline(client) -> None:
    response = client.get("/")
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    for tag, attrs in _Page(response.text).tags:
        assert tag != "style"
        assert not {name for name in attrs if name == "style" or name.startswith("on")}
        assert tag != "script" or attrs["src"] == "assets/status.js"


def test_a_command_to_copy_stays_one_command(example, client) -> None:
    evil = "1.2; rm -rf ~"
    example.repository.mark_study_changed(evil)
    example.repository.update_archive_study(evil, state="unmatched", reason="no-match")
    assert "fhir-ext patients link '1.2; rm -rf ~' Patient/ID" in page_of(client).text


# Studies and their runs


def test_a_study_that_waited_is_one_study(example, client) -> None:
    for attempt, (state, age) in enumerate([("waiting", 60), ("waiting", 60), ("running", 60)]):
        run = "ImagingStudy/grown/1" + (f"/attempt-{attempt}" if attempt else "")
        started = now() - timedelta(seconds=age - 20 * attempt)
        example.add_run("grown", state, run=run, age=age, started_at=started)
    found = study(client, "grown")
    assert (found["state"], found["runs"]) == ("running", 3)
    assert page_of(client).text.count("being worked on") == 1


def test_parked_work_stays_in_sight_behind_newer_studies(example, client) -> None:
    status = client.get("/status.json?limit=1").json()
    assert [item["imaging_study_id"] for item in status["studies"]] == ["read"]
    assert [item["imaging_study_id"] for item in status["parked"]] == ["stuck"]


def test_parked_work_that_was_done_later_needs_nobody(example, client) -> None:
    example.add_run("stuck", "done", run="ImagingStudy/stuck/1/run-1", age=5, took=1)
    assert client.get("/status.json").json()["parked"] == []
    assert study(client, "stuck")["state"] == "done"


def test_what_was_said_earlier_stays_when_a_later_run_finds_nothing_to_do(example, client) -> None:
    example.add_run("read", "nothing-to-do", run="ImagingStudy/read/2", reason="already-written")
    found = study(client, "read")
    assert found["reason_words"] == "Already written"
    assert found["study_instance_uid"] == samples.STUDY_UID
    assert [service["status"] for service in found["services"]] == ["done", "done"]


def test_limit_bounds_the_studies_and_is_bounded(client) -> None:
    assert "show more" in page_of(client, "?limit=2").text
    assert "show more" not in page_of(client).text
    assert len(client.get("/status.json?limit=2").json()["studies"]) == 2
    assert client.get("/status.json?limit=100000").status_code == 400
    assert client.get("/?limit=0").status_code == 400


# Numbers


def test_numbers_come_in_two_searches_and_are_shared_by_viewers(example, client) -> None:
    page_of(client)
    page_of(client)
    client.get("/status.json")
    assert example.fhir.searches == 2


def test_a_value_that_a_human_changed_is_shown_as_amended(example, client, monkeypatch) -> None:
    monkeypatch.setattr(numbers, "FRESH", 0.0)
    assert "amended" not in page_of(client).text
    volume = next(o for o in example.fhir.observations.values() if "valueQuantity" in o)
    volume["valueQuantity"]["value"], volume["status"] = 4999.9, "amended"
    assert "4999.9 mL amended" in page_of(client).text


def test_more_panels_than_fit_one_search(example) -> None:
    ids = [
        example.fhir.add(samples.result(study=f"1.2.{n}", series=f"1.2.{n}.1")) for n in range(120)
    ]
    found = numbers.read_panels(example.fhir, ids)
    assert [len(found[panel_id].members) for panel_id in ids] == [12] * 120
    assert example.fhir.searches == 2 + 15


@pytest.mark.parametrize("damage", ["deleted", "misshapen"])
def test_a_panel_that_cannot_be_used_is_told(example, client, damage: str) -> None:
    panel_id = study(client, "read")["services"][0]["panel_id"]
    if damage == "deleted":
        del example.fhir.observations[panel_id]
    else:
        del example.fhir.observations[panel_id]["code"]
    fresh = TestClient(example.app())
    assert study(fresh, "read")["services"][0]["numbers"] == "missing"
    assert "the FHIR server does not have it any more" in page_of(fresh).text


def test_page_stands_when_the_fhir_server_is_down(example) -> None:
    def down() -> HealthState:
        raise UpstreamUnavailable("the FHIR server cannot be reached")

    example.fhir.down = True
    page = page_of(TestClient(example.app(**{"FHIR server": down})))
    assert "Needs attention" in page.text
    assert "Numbers cannot be read: the FHIR server cannot be reached." in page.text
    assert "its numbers cannot be read now" in page.text
    assert "Kernel not accepted: found B70f" in page.text
    assert "5123.4" not in page.text


def test_page_stands_when_the_fhir_server_hangs(example, client, hanging, monkeypatch) -> None:
    monkeypatch.setattr(numbers, "WAIT", 0.1)
    begin = time.monotonic()
    for _ in range(5):
        page = page_of(client)
    assert time.monotonic() - begin < 3
    assert [thread.name for thread in threading.enumerate()].count("numbers") == 1
    assert "Numbers cannot be read: the FHIR server did not answer in time." in page.text


def test_numbers_come_back_with_the_fhir_server(example, hanging, monkeypatch) -> None:
    monkeypatch.setattr(numbers, "WAIT", 0.1)
    client = TestClient(example.app())
    assert study(client, "read")["services"][0]["numbers"] == "unreadable"
    hanging.set()
    monkeypatch.setattr(numbers, "WAIT", 5.0)
    assert study(client, "read")["services"][0]["numbers"] == "read"


def test_page_stands_without_its_database(example, client) -> None:
    with example.repository.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE study_run"))
    text = page_of(client).text
    assert "The database does not answer: no studies can be shown." in text
    assert "Needs attention" in text


# JSON


def test_json_has_the_documented_shape(client) -> None:
    response = client.get("/status.json")
    view = TypeAdapter(StatusView).validate_json(response.text, strict=True)
    assert TypeAdapter(StatusView).dump_python(view, mode="json") == response.json()
    schema = client.get("/openapi.json").json()["components"]["schemas"]["StatusView"]
    assert set(schema["properties"]) == set(response.json())


def test_json_holds_what_the_page_shows(client) -> None:
    status = client.get("/status.json").json()
    assert status["ok"] is True
    assert status["queue"] == {"depth": 2, "oldest_seconds": 1.5, "delayed": 1, "ok": True}
    assert status["arriving"] == 1
    assert [item["reason"] for item in status["unmatched"]] == [
        "no-match",
        "unknown-issuer",
        "no-slices",
    ]
    soft, sharp = study(client, "read")["services"]
    volume, _density, laa, _perc = soft["measurements"]
    assert volume["regions"]["left-lung"]["value"] == 5123.4
    assert volume["regions"]["left-lung"]["unit"] == "mL"
    assert (laa["name"], laa["regions"]["lungs"]["value"]) == ("laa-950", 7.25)
    assert soft["review"] == "preliminary"
    assert sharp["reasons"][0]["rule"] == "kernel"
    assert sharp["measurements"][2]["regions"]["lungs"]["reason"] == "kernel"


# Health


def test_readiness_names_what_is_missing(example) -> None:
    client = TestClient(
        example.app(
            good=lambda: HealthState(True, "fine"), bad=lambda: HealthState(False, "not there")
        )
    )
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert response.json() == {
        "ok": False,
        "parts": {
            "good": {"ok": True, "detail": "fine"},
            "bad": {"ok": False, "detail": "not there"},
        },
    }
    assert client.get("/health/live").json() == {"ok": True}


def test_readiness_is_200_when_all_is_well(client) -> None:
    assert client.get("/health/ready").status_code == 200


def test_parts_that_hang_do_not_hang_readiness() -> None:
    release = threading.Event()
    started: list[str] = []

    def hangs(name: str) -> HealthState:
        started.append(name)
        release.wait()
        return HealthState(True, "at last")

    monitor = HealthMonitor(
        {
            "one": lambda: hangs("one"),
            "two": lambda: hangs("two"),
            "well": lambda: HealthState(True, "well"),
        },
        limit=0.2,
    )
    begin = time.monotonic()
    for _ in range(3):
        states = monitor.states()
    # All parts share the limit, and what hangs is not started again.
    assert time.monotonic() - begin < 0.2 * 3 + 0.5
    assert sorted(started) == ["one", "two"]
    assert states["one"] == HealthState(False, "no answer in time")
    assert states["well"].ok
    release.set()
    assert wait_for(lambda: monitor.states()["one"] == HealthState(True, "at last"))


def test_a_hanging_part_is_503_in_time(example) -> None:
    release = threading.Event()

    def hangs() -> HealthState:
        release.wait()
        return HealthState(True, "at last")

    begin = time.monotonic()
    response = TestClient(example.app(check_limit=0.2, hangs=hangs)).get("/health/ready")
    release.set()
    assert time.monotonic() - begin < 2
    assert response.status_code == 503
    assert response.json()["parts"]["hangs"]["detail"] == "no answer in time"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (UpstreamUnavailable("the archive cannot be reached"), "the archive cannot be reached"),
        (sa.exc.OperationalError("SELECT 1", {}, Exception()), "the database does not answer"),
        (ZeroDivisionError("secret"), "incident"),
    ],
)
def test_a_check_that_raises_is_one_part_only(error: Exception, detail: str) -> None:
    def raises() -> HealthState:
        raise error

    states = HealthMonitor({"bad": raises, "good": lambda: HealthState(True, "fine")}).states()
    assert not states["bad"].ok
    assert detail in states["bad"].detail
    assert "secret" not in states["bad"].detail
    assert states["good"].ok


# Small parts


def test_assets_are_served_and_nothing_else(client) -> None:
    for name, kind in [("status.css", "text/css"), ("status.js", "text/javascript")]:
        response = client.get(f"/assets/{name}")
        assert response.headers["content-type"].startswith(kind)
        assert "http" not in response.text
    for name in ("..%2froutes.py", "page.html", "other.css"):
        assert client.get(f"/assets/{name}").status_code == 404


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (61, "1 min 1 s"),
        (5400, "1 h 30 min"),
        (400_000, "4 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_clock_names_the_day_when_it_is_another() -> None:
    assert words.clock("2026-01-05T09:30:15+00:00", "2026-01-05T23:00:00+00:00") == "09:30:15"
    assert words.clock("2026-01-04T09:30:15+00:00", "2026-01-05T23:00:00+00:00") == (
        "2026-01-04 09:30"
    )
    assert words.clock("", "2026-01-05T23:00:00+00:00") == ""


def test_steps_stand_with_their_parts() -> None:
    assert words.steps({"prepare": 1.0, "analyze": 3.0, "fetch": 1.0, "infer": 2.0}) == [
        ("prepare", 1.0, []),
        ("analyze", 3.0, [("fetch", 1.0), ("infer", 2.0)]),
    ]
    # A part that was timed before its step ended is shown by itself.
    assert words.steps({"fetch": 1.0}) == [("fetch", 1.0, [])]


def test_codes_without_words_are_shown_as_they_are() -> None:
    assert words.reason_words("new-reason") == "new-reason"
    assert words.region_words("elbow") == "elbow"
    assert words.unit_words("mm") == "mm"


def wait_for(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
