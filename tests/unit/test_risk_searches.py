"""The searches behind a score: one batch, and more only for long charts."""

from __future__ import annotations

from datetime import date, timedelta
from urllib.parse import parse_qs

import pytest
from charts import RXNORM, concept, condition, measured, medication_request, patient

from fhir_ext.errors import NotFoundError
from operations.risk_score.catalogue import MODELS
from operations.risk_score.chart_fetch import CLOSER, ChartFetcher
from operations.risk_score.chart_searches import ALONG, PAGE, Planner, everything

TODAY = date(2026, 3, 1)
ALL = tuple(dict.fromkeys(name for model in MODELS.values() for name in model.reads))


def plan(names=ALL, as_of=TODAY, rights=everything):
    return Planner().plan("p", names, as_of, today=TODAY, rights=rights)


def query(url: str) -> tuple[str, dict[str, list[str]]]:
    kind, _, rest = url.partition("?")
    return kind, parse_qs(rest)


def test_all_models_together_are_three_requests_in_one_batch() -> None:
    found = plan()
    kind, params = query(found.patient)
    assert kind == "Patient" and params["_id"] == ["p"]
    assert set(params["_revinclude"]) == {
        "Condition:patient", "FamilyMemberHistory:patient", "MedicationStatement:patient",
    }  # fmt: skip
    assert [search.resource_type for search in found.searches] == [
        "Observation", "MedicationRequest",
    ]  # fmt: skip
    kind, params = query(found.searches[0].url(PAGE))
    codes = params["code"][0].split(",")
    assert {"http://loinc.org|2093-3", "https://radelement.org|RDES195"} <= set(codes)
    assert params["_sort"] == ["-date"] and params["_count"] == [str(PAGE)]
    assert len(codes) == len(set(codes))


def test_what_the_caller_gave_is_not_asked_for() -> None:
    assert plan(()).searches == () and plan(()).patient == "Patient/p"
    (search,) = plan(("hdl",)).searches
    assert dict(search.params)["code"] == "http://loinc.org|2085-9"
    assert plan(("diabetes",)).searches == ()


def test_the_window_bounds_the_search() -> None:
    (search,) = plan(("systolic-bp",)).searches
    assert ("date", "ge2024-03-01") in search.params
    (search,) = plan(("systolic-bp", "hdl"), as_of=date(2020, 3, 1)).searches
    assert [v for k, v in search.params if k == "date"] == ["ge2015-03-01", "le2020-03-01"]
    (search,) = plan(("systolic-bp", "education")).searches
    assert not [v for k, v in search.params if k == "date"], "education has no window"


def test_types_that_may_not_be_read_are_left_out() -> None:
    found = plan(rights=lambda kind: ((),) if kind == "Condition" else ())
    assert found.searches == () and found.along == ("Condition",)
    narrow = ((("category", "problem-list-item"),),)
    found = plan(("diabetes",), rights=lambda kind: narrow if kind == "Condition" else ((),))
    (search,) = found.searches
    assert search.resource_type == "Condition" and found.along == ()
    assert ("category", "problem-list-item") in search.params


class FakeFhir:
    """Answers searches from resources, newest first, and never more than `_count`."""

    def __init__(self, *resources: dict) -> None:
        self.resources = sorted(
            resources, key=lambda r: r.get("effectiveDateTime", ""), reverse=True
        )
        self.batches: list[list[str]] = []
        self.searched: list[str] = []

    def batch(self, queries):
        self.batches.append(list(queries))
        return [self._answer(one) for one in queries]

    def _answer(self, url: str):
        kind, params = query(url)
        if kind == "Patient/p":
            return next((r for r in self.resources if r["resourceType"] == "Patient"), None)
        kinds = [kind, *(v.partition(":")[0] for v in params.get("_revinclude", ()))]
        codes = params.get("code", [""])[0]
        found = [
            r
            for r in self.resources
            if r["resourceType"] in kinds
            and (not codes or any(f"{c['system']}|{c['code']}" in codes.split(",")
                                  for c in r["code"]["coding"]))
        ]  # fmt: skip
        found = found[: int(params["_count"][0])]
        return {"resourceType": "Bundle", "entry": [{"resource": r} for r in found]}

    def search(self, kind, params, limit=0):
        self.searched.append(kind)
        return [r for r in self.resources if r["resourceType"] == kind]


def fetch(fhir: FakeFhir, names):
    return ChartFetcher(fhir).fetch("p", names, TODAY, today=TODAY)


def test_an_ordinary_chart_is_one_batch() -> None:
    fhir = FakeFhir(patient(), measured("2093-3", 200, "mg/dL", "2026-01-01"))
    found, resources = fetch(fhir, ALL)
    assert found["id"] == "p" and len(resources) == 2
    assert len(fhir.batches) == 1 and fhir.searched == []


def test_a_value_behind_a_full_page_is_found_by_a_second_batch() -> None:
    pressures = [
        measured("8480-6", 120, "mm[Hg]", (TODAY - timedelta(days=n)).isoformat(),
                 resource_id=f"bp{n}")
        for n in range(PAGE + 20)
    ]  # fmt: skip
    lipid = measured("2085-9", 50, "mg/dL", "2022-01-01", resource_id="hdl")
    fhir = FakeFhir(patient(), *pressures, lipid)
    _, resources = fetch(fhir, ("systolic-bp", "hdl", "egfr"))
    assert len(fhir.batches) == 2
    assert [query(url)[1]["code"][0] for url in fhir.batches[1]] == [
        "http://loinc.org|2085-9",
        "http://loinc.org|33914-3,http://loinc.org|62238-1,http://loinc.org|98979-8",
    ]
    assert all(f"_count={CLOSER}" in url for url in fhir.batches[1])
    assert lipid in resources


def test_a_long_problem_list_is_read_page_by_page() -> None:
    icd = "http://hl7.org/fhir/sid/icd-10-cm"
    many = [condition(concept(icd, "Z00.0"), id=f"c{n}") for n in range(ALONG + 10)]
    fhir = FakeFhir(patient(), *many)
    _, resources = fetch(fhir, ("diabetes",))
    assert fhir.searched == ["Condition"]
    assert len([r for r in resources if r["resourceType"] == "Condition"]) == len(many)


def test_many_orders_are_read_page_by_page() -> None:
    many = [medication_request(concept(RXNORM, "1"), id=f"m{n}") for n in range(PAGE + 5)]
    fhir = FakeFhir(patient(), *many)
    _, resources = fetch(fhir, ("statin",))
    assert fhir.searched == ["MedicationRequest"]
    assert len(resources) == 1 + len(many), "each once"


def test_an_unknown_patient_is_not_found() -> None:
    for names in ((), ALL):
        with pytest.raises(NotFoundError):
            fetch(FakeFhir(), names)
