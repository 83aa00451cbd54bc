"""Risk scores from the charts of two Synthea patients in a real HAPI."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from charts import patient_of, synthea_bundle

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import UnprocessableError
from fhir_ext.settings import FhirSettings
from operations.risk_score.inputs import input_value
from operations.risk_score.service import RiskScoreService

#: A woman of 64 with rheumatoid arthritis; she dies in 2013.
LATICIA = "Laticia_Dibbert_b23f172c-8c92-4757-87a8-7f64c13639d3.json"
#: A man of 31, former smoker.
LOUIS = "Louis_Erdman_55bbe118-e08d-4408-86e5-6084457500d4.json"


@pytest.fixture(scope="module")
def fhir(hapi_base_url: str) -> FhirClient:
    return FhirClient(FhirSettings(base_url=hapi_base_url))


@pytest.fixture(scope="module")
def patients(fhir: FhirClient, real_data: Path) -> dict[str, str]:
    found = {}
    for name in (LATICIA, LOUIS):
        bundle = synthea_bundle(real_data / "synthea_r4" / name, "synthea-")
        fhir.transaction(bundle)
        found[name] = patient_of(bundle)
    return found


def _given(**values):
    names = {name.replace("_", "-"): value for name, value in values.items()}
    return {n: input_value(n, v, source="caller") for n, v in names.items()}


def _issues(fhir, models, patient, as_of):
    with pytest.raises(UnprocessableError) as caught:
        RiskScoreService(fhir).score(models, {}, as_of, patient_id=patient)
    return caught.value.issues


def _missing(issues) -> list[str]:
    return [i.diagnostics.split()[0] for i in issues if i.detail == "missing-input"]


@pytest.mark.parametrize("name", [LATICIA, LOUIS])
def test_prevent_misses_exactly_what_the_chart_does_not_say(fhir, patients, name) -> None:
    as_of = date(2012, 12, 31) if name == LATICIA else date(2021, 6, 1)
    issues = _issues(fhir, ["prevent"], patients[name], as_of)
    assert _missing(issues) == ["bp-treated", "statin", "diabetes", "egfr"]


def test_an_egfr_without_its_body_surface_is_told(fhir, patients) -> None:
    issues = _issues(fhir, ["prevent"], patients[LATICIA], date(2013, 6, 1))
    told = [issue.diagnostics for issue in issues if issue.severity == "information"]
    assert len(told) == 1 and told[0].startswith("In the chart, egfr:")
    assert "egfr" in _missing(issues)


def test_prevent_and_pce_are_computed_once_the_rest_is_given(fhir, patients) -> None:
    given = _given(bp_treated=False, statin=False, diabetes=False, egfr=90.0)
    prevent, pce = RiskScoreService(fhir).score(
        ["prevent", "pce"], given, date(2012, 12, 31), patient_id=patients[LATICIA]
    )
    used = {item.name: item for item in prevent.inputs}
    assert used["age"].value == 64
    assert used["total-cholesterol"].value == pytest.approx(194.377, abs=0.001)
    assert used["total-cholesterol"].date.startswith("2010-11-29"), "the newest of three"
    assert used["systolic-bp"].value == pytest.approx(112.769, abs=0.001)
    assert used["systolic-bp"].date.startswith("2012-12-10"), "the newest of ten"
    assert used["smoking-status"].value == "never"
    assert {item.source for item in prevent.inputs} == {"chart", "caller"}
    assert prevent.predictions[0].percent == pytest.approx(4.930, abs=0.001)
    assert {item.name for item in pce.inputs} >= {"race", "age", "sex"}
    assert pce.predictions[0].percent == pytest.approx(3.663, abs=0.001)


def test_the_date_of_the_score_decides_what_counts(fhir, patients) -> None:
    issues = _issues(fhir, ["prevent"], patients[LATICIA], date(2003, 1, 1))
    assert "total-cholesterol" in _missing(issues)


def test_the_dead_are_not_scored(fhir, patients) -> None:
    issues = _issues(fhir, ["prevent"], patients[LATICIA], date(2013, 6, 2))
    assert [issue.detail for issue in issues] == ["not-applicable"]


def test_a_model_that_does_not_hold_says_so(fhir, patients) -> None:
    (issue,) = _issues(fhir, ["pce"], patients[LOUIS], date(2021, 6, 1))
    assert issue.detail == "out-of-range"
    (issue,) = _issues(fhir, ["plco-m2012"], patients[LATICIA], date(2012, 12, 31))
    assert issue.detail == "not-applicable", "she never smoked"
