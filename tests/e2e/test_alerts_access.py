"""ML engineers see alerts about models, and by no form of request a patient's DetectedIssue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests
from access_world import ALERT, CODES, OTHER, PREFIX, World, issue, mark, reference
from tokens import Tokens

from fhir_ext.resources.codes import MODEL_ALERT

if TYPE_CHECKING:
    from fhir_ext.cli.tree import Tree

Json = dict[str, Any]

CODE = f"{MODEL_ALERT.url}|model-drift"
THE_ALERT = f"DetectedIssue/{PREFIX}alert"
#: What no answer may hold.
MARK = mark(OTHER)
#: With our code and something of the patient `other` in each.
HIDDEN = ("issue-other", "issue-logical", "issue-foreign", "issue-display")


def _named(name: str, patient: str | None = None) -> Json:
    return {**issue(patient, f"{PREFIX}{name}"), "detail": MARK}


def _strange() -> list[Json]:
    """DetectedIssues that tell of `other` and look like alerts."""
    coded = {"coding": [{"system": CODES, "code": "other"}]}
    return [
        _named("issue-other", OTHER),
        # HAPI counts a patient without an address as missing.
        {**_named("issue-logical"), "patient": {"identifier": {"value": MARK}}},
        {**_named("issue-display"), "patient": {"display": MARK}},
        {**_named("issue-foreign"), "code": coded},
        {
            **issue(None, f"{PREFIX}alert-pointing"),
            "implicated": [
                {"reference": f"Observation/{PREFIX}obs-{OTHER}"},
                {"reference": f"DetectedIssue/{PREFIX}issue-other"},
                {"reference": f"Device/{PREFIX}implant-other"},
            ],
        },
        {
            "resourceType": "Provenance",
            "id": f"{PREFIX}provenance-alert",
            "target": [{"reference": THE_ALERT}, reference(OTHER)],
            "recorded": "2024-05-01T10:00:00Z",
            "agent": [{"who": {"display": MARK}}],
        },
    ]


def _get(url: str) -> Json:
    return {"method": "GET", "url": url}


class Engineer:
    """The gateway as an ML engineer's app asks it."""

    def __init__(self, tree: Tree) -> None:
        tokens = Tokens(tree.urls["issuer"], tree.directory)
        self.base = tree.urls["gateway"]
        self.token = tokens.get("ml-engineer", "user", "user/*.cruds")

    def ask(self, path: str, method: str = "GET", **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        url = f"{self.base}{'' if path[:1] in ('', '?') else '/'}{path}"
        return requests.request(method, url, headers=headers, timeout=60, **more)

    def ids(self, path: str) -> set[str]:
        answer = self.ask(path)
        assert answer.status_code == 200, answer.text
        assert MARK not in answer.text
        return {entry["resource"]["id"] for entry in answer.json().get("entry", [])}


@pytest.fixture(scope="module")
def world(tree: Tree) -> World:
    found = World(tree.urls["FHIR server"])
    found.put_everything()
    for resource in _strange():
        found.put(resource)
    # Was about a patient, and is not any more.
    found.put({**issue(OTHER, f"{PREFIX}alert-before")})
    found.put({**issue(None, f"{PREFIX}alert-before")})
    return found


@pytest.fixture(scope="module")
def engineer(tree: Tree, world: World) -> Engineer:
    return Engineer(tree)


def test_alerts_and_the_device_they_are_about_are_found(engineer: Engineer) -> None:
    found = engineer.ids(f"DetectedIssue?code={CODE}&_tag={CODES}|access")
    assert found == {f"{PREFIX}alert"}
    device = f"{PREFIX}model"
    found = engineer.ids(f"DetectedIssue?_id={PREFIX}alert&_include=DetectedIssue:implicated")
    assert found == {f"{PREFIX}alert", device}
    assert f"{PREFIX}alert" in engineer.ids(f"DetectedIssue?implicated=Device/{device}")
    assert ALERT in engineer.ask(THE_ALERT).text


@pytest.mark.parametrize("page", [1, 2])
def test_pages_hold_alerts_only(engineer: Engineer, page: int) -> None:
    seen, path = set(), f"DetectedIssue?_count={page}"
    for _ in range(50):
        answer = engineer.ask(path)
        assert answer.status_code == 200, answer.text
        assert MARK not in answer.text
        seen |= {entry["resource"]["id"] for entry in answer.json().get("entry", [])}
        following = [x["url"] for x in answer.json()["link"] if x["relation"] == "next"]
        if not following:
            break
        path = following[0].removeprefix(engineer.base)
    assert {f"{PREFIX}alert", f"{PREFIX}alert-before", f"{PREFIX}alert-pointing"} <= seen
    assert not {f"{PREFIX}{name}" for name in HIDDEN} & seen


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("query", ["", "?_elements=detail", "?_summary=true", "?_summary=data"])
def test_what_is_no_alert_is_not_there(engineer: Engineer, name: str, query: str) -> None:
    answer = engineer.ask(f"DetectedIssue/{PREFIX}{name}{query}")
    assert answer.status_code == 404, answer.text
    assert MARK not in answer.text
    for tag in ('W/"1"', "*"):
        headers = {"If-None-Match": tag}
        assert engineer.ask(f"DetectedIssue/{PREFIX}{name}", headers=headers).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "patient:missing=false",
        "patient:missing=false&patient:missing=true",
        f"patient=Patient/{OTHER}",
        f"patient={OTHER}",
        f"patient:Patient={OTHER}",
        f"patient:not=Patient/{OTHER}",
        f"patient:identifier=|{MARK}",
        f"_id={PREFIX}issue-other,{PREFIX}issue-foreign",
        f"_id={PREFIX}issue-other",
        f"code={CODES}|other",
        f"code:not={CODE}",
        f"code={CODES}|other,{CODE}&_id={PREFIX}issue-foreign",
        f"implicated=Device/{PREFIX}model&patient:missing=false",
    ],
)
def test_no_search_reaches_past_the_alerts(engineer: Engineer, query: str) -> None:
    for answer in (
        engineer.ask(f"DetectedIssue?{query}"),
        engineer.ask(f"DetectedIssue?{query}&_summary=count"),
        engineer.ask(
            "DetectedIssue/_search",
            "POST",
            data=query,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ),
    ):
        assert answer.status_code in (200, 400, 403), answer.text
        if answer.status_code == 200:
            assert not answer.json().get("entry"), answer.text
            assert not answer.json().get("total"), answer.text
        assert MARK not in answer.text


def test_what_hapi_takes_for_an_alert_is_none(engineer: Engineer) -> None:
    """A patient without an address; how many there are is all that a count tells."""
    which = f"DetectedIssue?_id={PREFIX}issue-logical,{PREFIX}issue-display"
    assert engineer.ids(which) == set()
    assert engineer.ids(f"{which}&_elements=detail") == set()
    assert engineer.ids(f"{which}&_summary=true") == set()
    assert engineer.ask(f"{which}&_elements:exclude=DetectedIssue.patient").status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "_include=DetectedIssue:implicated",
        "_include=DetectedIssue:patient",
        "_include=*",
        "_include:iterate=DetectedIssue:implicated&_include:iterate=DetectedIssue:patient",
        "_revinclude=Provenance:target",
        "_revinclude=*",
        "_revinclude=DetectedIssue:implicated",
        "_elements=detail",
        "_summary=data",
        "_summary=true",
        "_sort=patient",
        "_total=accurate",
    ],
)
def test_nothing_comes_along_with_an_alert(engineer: Engineer, query: str) -> None:
    answer = engineer.ask(f"DetectedIssue?{query}")
    assert answer.status_code in (200, 403), answer.text
    assert MARK not in answer.text
    for entry in answer.json().get("entry", []):
        resource = entry["resource"]
        assert resource["resourceType"] in ("DetectedIssue", "Device")
        assert "patient" not in resource


@pytest.mark.parametrize(
    "path",
    [
        f"DetectedIssue?patient.family={MARK}",
        f"DetectedIssue?patient:Patient.family={MARK}",
        "DetectedIssue?implicated:Observation.status=final",
        f"DetectedIssue?_has:Provenance:target:_id={PREFIX}provenance-alert",
        "DetectedIssue?_sort=patient.family",
        "DetectedIssue?_filter=patient pr",
        "DetectedIssue?_contained=both",
        "DetectedIssue?_summary=text",
        f"DetectedIssue?_content={MARK}",
        f"Device?_has:DetectedIssue:implicated:patient=Patient/{OTHER}",
        "DetectedIssue/_history",
        f"DetectedIssue/{PREFIX}alert-before/_history",
        f"DetectedIssue/{PREFIX}alert-before/_history/1",
        f"DetectedIssue/{PREFIX}alert/_history/1",
        f"Patient/{OTHER}/DetectedIssue",
        f"Patient/{OTHER}/$everything",
        f"DetectedIssue/{PREFIX}issue-other/$validate",
        f"DetectedIssue/{PREFIX}issue-other/$meta",
    ],
)
def test_other_ways_are_closed(engineer: Engineer, path: str) -> None:
    answer = engineer.ask(path)
    assert answer.status_code in (400, 403, 404, 405), answer.text
    assert MARK not in answer.text


def test_devices_bring_no_issues_of_patients(engineer: Engineer) -> None:
    answer = engineer.ask(f"Device?_id={PREFIX}model&_revinclude=DetectedIssue:implicated")
    assert answer.status_code == 200
    assert MARK not in answer.text
    assert "DetectedIssue" not in {e["resource"]["resourceType"] for e in answer.json()["entry"]}


@pytest.mark.parametrize(
    "query",
    [
        "_elements=note",
        "_elements=Device.note",
        "_elements:exclude=Device.patient",
        "_summary=true",
        "_summary=data",
    ],
)
@pytest.mark.parametrize("place", ["", "/_history/1", "/_history"])
def test_an_implant_is_not_shown_whatever_is_left_out_of_it(
    engineer: Engineer, query: str, place: str
) -> None:
    implant = f"Device/{PREFIX}implant-other"
    for path in (f"{implant}{place}?{query}", f"Device?_id={PREFIX}implant-other&{query}"):
        answer = engineer.ask(path)
        assert answer.status_code in (200, 400, 404)
        assert MARK not in answer.text
        assert not answer.json().get("entry")
        assert answer.json()["resourceType"] != "Device"
    url = f"{implant}{place}?{query}"
    body = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": _get(url)}]}
    kind = {"Content-Type": "application/fhir+json"}
    answer = engineer.ask("", "POST", json=body, headers=kind)
    assert MARK not in answer.text
    assert "udi" not in answer.text


def test_nothing_in_a_bundle(engineer: Engineer, world: World) -> None:
    urls = [
        f"DetectedIssue/{PREFIX}issue-other",
        f"DetectedIssue/{PREFIX}issue-logical?_elements=detail",
        "DetectedIssue?patient:missing=false",
    ]
    entries = [{"request": _get(url)} for url in urls]
    body = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    kind = {"Content-Type": "application/fhir+json"}
    answer = engineer.ask("", "POST", json=body, headers=kind)
    assert answer.status_code == 200
    assert MARK not in answer.text
    assert all(e["response"]["status"].startswith("4") for e in answer.json()["entry"])


def test_alerts_are_not_written(engineer: Engineer, world: World) -> None:
    before = world.read(THE_ALERT)["meta"]["versionId"]
    kind = {"Content-Type": "application/fhir+json"}
    alert = {**issue(None, f"{PREFIX}alert"), "detail": "all is well"}
    assert engineer.ask(THE_ALERT, "PUT", json=alert, headers=kind).status_code == 403
    assert engineer.ask(THE_ALERT, "DELETE").status_code == 403
    assert engineer.ask("DetectedIssue", "POST", json=alert, headers=kind).status_code == 403
    assert world.read(THE_ALERT)["meta"]["versionId"] == before
