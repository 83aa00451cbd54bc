"""Models refuse before they compute: nothing imputed, nothing clamped, everything said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from risk_samples import AS_OF, BROCK, MAYO, MESA, PCE, PEOPLE, PLCO, PREVENT, given

from fhir_ext.errors import UnprocessableError
from fhir_ext.outcome import operation_outcome
from fhir_ext.resources import codes
from fhir_ext.resources.codes import LN, Coding
from fhir_ext.resources.risk_score import input_text, risk_score_assessment, risk_score_text
from fhir_ext.results import RiskScore
from operations.risk_score.catalogue import MODELS, NON_GATED, risk_model
from operations.risk_score.inputs import INPUTS, input_value
from operations.risk_score.model import MissingInputs, qualitative


def score(model: str, person: Any, **changes: Any) -> RiskScore:
    renamed = {name.replace("_", "-"): value for name, value in changes.items()}
    merged = {name: v for name, v in {**person, **renamed}.items() if v is not None}
    return MODELS[model].compute(given(merged), AS_OF)


def refusal(model: str, person: Any, **changes: Any) -> UnprocessableError:
    with pytest.raises(UnprocessableError) as caught:
        score(model, person, **changes)
    return caught.value


def test_the_models_of_the_operation() -> None:
    assert set(MODELS) == {"plco-m2012", "brock", "mayo", "prevent", "pce", "mesa-chd"}
    assert {item.code for item in codes.RISK_MODEL.codes} == set(MODELS)
    with pytest.raises(UnprocessableError, match="plco-m2012"):
        risk_model("crystal-ball")


@pytest.mark.parametrize("code", MODELS)
def test_every_model_reads_inputs_and_predicts_outcomes_that_exist(code: str) -> None:
    model = MODELS[code]
    assert set(model.reads) <= set(INPUTS)
    assert set(model.ranges) | set(model.codes) <= set(model.reads)
    assert all(outcome.code in codes.RISK_OUTCOME for outcome in model.outcomes)
    for name, accepted in model.codes.items():
        assert set(accepted) <= set(INPUTS[name].codes)


@pytest.mark.parametrize("code", MODELS)
def test_every_required_input_is_missed(code: str) -> None:
    model, person = MODELS[code], given(PEOPLE[code])
    assert model.missing(person) == ()
    for name in model.required:
        rest = {n: v for n, v in person.items() if n != name}
        if name == "years-quit":
            continue
        assert name in model.missing(rest)
        with pytest.raises(MissingInputs) as caught:
            model.compute(rest, AS_OF)
        assert name in caught.value.names
    with pytest.raises(MissingInputs) as caught:
        model.compute({}, AS_OF)
    assert caught.value.names == model.required == model.missing({})


def test_a_missing_input_is_told_with_what_is_accepted() -> None:
    chart = {"systolic-bp": (Coding(LN, "8480-6", "Systolic blood pressure"),)}
    with pytest.raises(MissingInputs) as caught:
        MODELS["pce"].compute({}, AS_OF, accepted=chart)
    outcome = operation_outcome(caught.value)
    assert caught.value.status == 422
    said = {issue["expression"][0]: issue for issue in outcome["issue"]}
    assert len(said) == len(MODELS["pce"].required)
    pressure = next(issue for where, issue in said.items() if "systolic-bp" in where)
    assert pressure["code"] == "required"
    assert "Systolic blood pressure at rest." in pressure["diagnostics"]
    assert "30 to 350 mm[Hg]" in pressure["diagnostics"]
    assert "http://loinc.org|8480-6" in pressure["diagnostics"]
    race = next(issue for where, issue in said.items() if "'race'" in where)
    assert "white | black." in race["diagnostics"]
    smoker = next(issue for where, issue in said.items() if "'smoker'" in where)
    assert "follow from smoking-status" in smoker["diagnostics"]


RANGES = [
    (code, name, span) for code, model in MODELS.items() for name, span in model.ranges.items()
]


@pytest.mark.parametrize(("code", "name", "span"), RANGES, ids=lambda x: str(x)[:24])
def test_outside_of_a_range_is_refused_or_flagged(code: str, name: str, span: Any) -> None:
    person = {**PEOPLE[code], "years-smoked": 20} if code == "plco-m2012" else PEOPLE[code]
    last = span.high - 0.01 if span.below else span.high
    for inside in (span.low, last):
        assert not any("outside" in flag for flag in score(code, {**person, name: inside}).flags)
    for outside in (span.low - 0.01, span.high + (0 if span.below else 0.01)):
        changed = {**person, name: outside}
        if span.outside == "refuse":
            error = refusal(code, changed)
            assert error.code == "out-of-range"
            assert error.issues[0].diagnostics.startswith(f"{name}: ")
            assert span.text in error.message
            assert f"{outside:g}" not in error.message.replace(span.text, "")
        else:
            (flag,) = (flag for flag in score(code, changed).flags if "outside" in flag)
            assert span.text in flag


def test_the_ranges_are_those_of_the_publications() -> None:
    assert {(code, name): (span.low, span.high, span.outside) for code, name, span in RANGES} == {
        ("plco-m2012", "age"): (55, 74, "flag"),
        ("mayo", "nodule-diameter"): (4, 30, "flag"),
        ("prevent", "age"): (30, 79, "refuse"),
        ("prevent", "total-cholesterol"): (130, 320, "refuse"),
        ("prevent", "hdl"): (20, 100, "refuse"),
        ("prevent", "systolic-bp"): (90, 200, "refuse"),
        ("prevent", "egfr"): (15, 140, "refuse"),
        ("prevent", "bmi"): (18.5, 40, "refuse"),
        ("pce", "age"): (40, 79, "refuse"),
        ("pce", "total-cholesterol"): (130, 320, "refuse"),
        ("pce", "hdl"): (20, 100, "refuse"),
        ("pce", "systolic-bp"): (90, 200, "refuse"),
        ("mesa-chd", "age"): (45, 85, "refuse"),
    }


def test_several_things_outside_are_told_at_once() -> None:
    error = refusal("prevent", PREVENT, age=20, bmi=45, hdl=110)
    assert [issue.diagnostics.partition(":")[0] for issue in error.issues] == ["age", "hdl", "bmi"]


@pytest.mark.parametrize("race", ["asian", "hispanic", "aian", "nhpi", "chinese"])
def test_the_pooled_cohort_equations_guess_no_other_group(race: str) -> None:
    error = refusal("pce", PCE, race=race)
    assert error.code == "not-applicable"
    assert "white, black only" in error.message
    assert race not in error.message


def test_race_terms_only_where_published() -> None:
    assert refusal("plco-m2012", PLCO, race="chinese").code == "not-applicable"
    assert refusal("mesa-chd", MESA, race="asian").code == "not-applicable"
    for code in ("plco-m2012", "pce", "mesa-chd"):
        assert "race" in MODELS[code].required
        assert any("race" in flag for flag in score(code, PEOPLE[code]).flags)
    for code in ("brock", "mayo", "prevent"):
        assert "race" not in MODELS[code].reads
        plain = score(code, PEOPLE[code])
        assert not any("race" in flag for flag in plain.flags)
        assert score(code, PEOPLE[code], race="black") == plain


def test_plco_is_for_people_who_have_smoked() -> None:
    for change in ({"smoking_status": "never"}, {"smoking_status": None, "ever_smoker": False}):
        error = refusal("plco-m2012", PLCO, **change)
        assert (error.code, error.issues[0].code) == ("not-applicable", "business-rule")
    # Told before what is missing: filling it in would not help.
    with pytest.raises(UnprocessableError, match="have smoked"):
        MODELS["plco-m2012"].compute(given({"smoking-status": "never"}), AS_OF)
    assert refusal("plco-m2012", PLCO, cigarettes_per_day=0).code == "not-applicable"


def test_years_since_quitting_follow_from_smoking_only() -> None:
    assert "years-quit" not in PLCO
    current = score("plco-m2012", PLCO)
    assert current.predictions == score("plco-m2012", PLCO, years_quit=0).predictions
    assert "years-quit" not in {item.name for item in current.inputs}
    assert (
        current.predictions
        == score("plco-m2012", PLCO, smoking_status=None, smoker=True).predictions
    )
    missing = refusal("plco-m2012", PLCO, smoking_status="former")
    assert isinstance(missing, MissingInputs)
    assert missing.names == ("years-quit",)
    refused = refusal("plco-m2012", PLCO, smoking_status=None, smoker=False, years_quit=5)
    assert isinstance(refused, MissingInputs)
    assert refused.names == ("smoking-status",)


@pytest.mark.parametrize(
    ("status", "smoker"), [("current", True), ("former", False), ("never", False)]
)
def test_smoking_now_follows_from_the_status(status: str, smoker: bool) -> None:
    plain = score("prevent", PREVENT, smoker=smoker)
    found = score("prevent", PREVENT, smoker=None, smoking_status=status)
    assert found.predictions == plain.predictions
    assert "smoking-status" in {item.name for item in found.inputs}
    assert "smoker" not in {item.name for item in found.inputs}


@pytest.mark.parametrize(
    ("change", "ever"),
    [
        ({"smoking_status": "current"}, True),
        ({"smoking_status": "former"}, True),
        ({"smoking_status": "never"}, False),
        ({"smoker": True}, True),
    ],
)
def test_ever_smoked_follows(change: dict[str, Any], ever: bool) -> None:
    found = score("mayo", MAYO, ever_smoker=None, **change)
    assert found.predictions == score("mayo", MAYO, ever_smoker=ever).predictions


def test_ever_smoked_does_not_follow_from_not_smoking_now() -> None:
    missing = refusal("mayo", MAYO, ever_smoker=None, smoker=False)
    assert isinstance(missing, MissingInputs)


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("plco-m2012", {"smoker": False}),
        ("plco-m2012", {"years_quit": 3}),
        ("plco-m2012", {"ever_smoker": False}),
        ("plco-m2012", {"years_smoked": 66}),
        ("plco-m2012", {"smoking_status": "former", "years_smoked": 40, "years_quit": 30}),
        ("prevent", {"smoking_status": "current"}),
        ("pce", {"total_cholesterol": 130, "hdl": 131}),
    ],
)
def test_contradictions_are_refused(model: str, change: dict[str, Any]) -> None:
    error = refusal(model, PEOPLE[model], **change)
    assert error.code == "contradicting-inputs"
    assert "contradict" in error.message


def test_the_caller_goes_before_the_chart() -> None:
    chart = given({"smoking-status": "current"}, "chart", reference="Observation/1")
    caller = given(PREVENT)
    found = MODELS["prevent"].compute({**caller, **chart}, AS_OF)
    assert found.predictions == score("prevent", PREVENT).predictions
    assert {item.source for item in found.inputs} == {"caller"}
    # And the other way round: the caller's status before the chart's flag.
    rest = {n: v for n, v in caller.items() if n != "smoker"}
    mixed = {**rest, **given({"smoking-status": "current"}), **given({"smoker": False}, "chart")}
    smoking = MODELS["prevent"].compute(mixed, AS_OF)
    assert smoking.predictions == score("prevent", PREVENT, smoker=True).predictions


def test_what_a_model_does_not_read_is_ignored() -> None:
    assert score("mayo", MAYO, hdl=50, race="asian") == score("mayo", MAYO)
    # Also where it contradicts itself.
    odd = {"smoker": True, "smoking_status": "never", "total_cholesterol": 100, "hdl": 200}
    assert score("brock", BROCK, **odd) == score("brock", BROCK)


def test_brock_takes_the_model_without_spiculation_and_says_so() -> None:
    plain, without = score("brock", BROCK), score("brock", BROCK, spiculated=None)
    assert plain.flags == ()
    assert len(without.flags) == 1
    assert "without spiculation" in without.flags[0]


def test_calcium_is_optional_and_its_gating_is_said() -> None:
    with_calcium, without = score("mesa-chd", MESA), score("mesa-chd", MESA, agatston=None)
    assert any("gating" in flag for flag in with_calcium.flags)
    assert any("without coronary calcium" in flag for flag in without.flags)
    known = MODELS["mesa-chd"].compute(given(MESA), AS_OF, flags=[NON_GATED])
    rationale = risk_score_assessment(known, None)["prediction"][0]["rationale"]
    assert NON_GATED in rationale


@pytest.mark.parametrize(
    ("model", "change", "level", "words"),
    [
        ("plco-m2012", {}, "moderate", "At or above 1.51 %"),
        ("plco-m2012", {"cigarettes_per_day": 2}, "low", "Below 1.51 %"),
        ("brock", {}, "low", "Below 10 %"),
        ("brock", {"spiculated": True}, "moderate", "At or above 10 %"),
        ("brock", {"spiculated": True, "nodule_diameter": 30}, "high", "At or above 10 %"),
    ],
)
def test_thresholds(model: str, change: dict[str, Any], level: str, words: str) -> None:
    found = score(model, PEOPLE[model], **change)
    assert found.predictions[0].qualitative == level
    prediction = risk_score_assessment(found, None)["prediction"][0]
    assert prediction["qualitativeRisk"]["coding"][0]["code"] == level
    assert prediction["rationale"].startswith(words)


def test_no_threshold_no_word() -> None:
    for code in ("mayo", "prevent", "pce", "mesa-chd"):
        for prediction in score(code, PEOPLE[code]).predictions:
            assert prediction.qualitative is None
            assert prediction.threshold is None
    assert [qualitative(p, 10.0) for p in (9.99, 10.0, 50.0, 50.01)] == [
        "low",
        "moderate",
        "moderate",
        "high",
    ]


def test_preliminary_findings_are_said() -> None:
    inputs = {
        **given(BROCK),
        "nodule-diameter": input_value(
            "nodule-diameter",
            8,
            "mm",
            source="imaging",
            reference="Observation/n",
            preliminary=True,
        ),
    }
    found = MODELS["brock"].compute(inputs, AS_OF)
    assert found.flags == (
        "Rests on preliminary findings that no human has confirmed: nodule-diameter.",
    )
    resource = risk_score_assessment(found, {"reference": "Patient/1"})
    assert resource["status"] == "preliminary"
    assert resource["basis"] == [{"reference": "Observation/n"}]


def test_a_risk_assessment_says_where_everything_came_from() -> None:
    inputs = {
        **given(PREVENT),
        **given({"systolic-bp": 160}, "chart", date="2025-12-01", reference="Observation/bp"),
        **given({"hdl": 45}, "chart", date="2025-11-01", reference="Observation/lipids"),
    }
    found = MODELS["prevent"].compute(inputs, AS_OF)
    identifier = {"system": "urn:x", "value": "1"}
    resource = risk_score_assessment(
        found, {"reference": "Patient/1"}, resource_id="r", identifier=identifier
    )
    assert (resource["id"], resource["identifier"]) == ("r", [identifier])
    assert resource["status"] == "final"
    assert resource["occurrenceDateTime"] == AS_OF
    assert resource["method"]["coding"][0]["code"] == "prevent"
    assert "1.0.0" in resource["method"]["text"]
    assert resource["basis"] == [
        {"reference": "Observation/lipids"},
        {"reference": "Observation/bp"},
    ]
    assert "mitigation" not in resource
    percents = [item["probabilityDecimal"] for item in resource["prediction"]]
    assert [round(p, 2) for p in percents] == [14.68, 9.2, 8.06]
    assert resource["prediction"][0]["whenPeriod"] == {"start": AS_OF, "end": "2036-02-03"}
    texts = [note["text"] for note in resource["note"]]
    assert "Age: 50 years, given by caller" in texts
    assert "Systolic blood pressure: 160 mm Hg, 2025-12-01, from Observation/bp" in texts
    parts = [
        {part["url"]: part for part in extension["extension"]}
        for extension in resource["extension"]
    ]
    assert [part["name"]["valueCode"] for part in parts] == list(MODELS["prevent"].required)
    pressure = next(part for part in parts if part["name"]["valueCode"] == "systolic-bp")
    assert pressure["value"]["valueQuantity"]["code"] == "mm[Hg]"
    assert pressure["source"]["valueCode"] == "chart"
    assert pressure["date"]["valueDateTime"] == "2025-12-01"
    assert pressure["reference"]["valueReference"] == {"reference": "Observation/bp"}


def test_a_horizon_that_ends_on_no_day_ends_the_day_before() -> None:
    found = MODELS["plco-m2012"].compute(given(PLCO), "2028-02-29")
    resource = risk_score_assessment(found, None)
    assert resource["prediction"][0]["whenPeriod"]["end"] == "2034-02-28"
    assert resource["subject"] == {"display": "not identified"}


def test_a_nodule_has_no_horizon() -> None:
    assert "whenPeriod" not in risk_score_assessment(score("mayo", MAYO), None)["prediction"][0]


def test_words() -> None:
    text = risk_score_text(score("brock", BROCK))
    assert "Malignancy of a pulmonary nodule: 8.26 %, below 10 %" in text
    assert "Upper lobe: yes, given by caller" in text
    imaging = input_value("agatston", 12, source="imaging", preliminary=True)
    assert input_text(imaging) == "Agatston score: 12, from the imaging, preliminary"


def test_the_page_says_what_the_models_do() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/services/risk-score.md").read_text("utf-8")
    for item in INPUTS.values():
        rows = [line for line in page.splitlines() if line.startswith(f"| `{item.name}` | ")]
        assert any(row.endswith(f"| {item.definition} |") for row in rows), item.name
        for code in item.codes:
            assert f"`{code}`" in rows[0]
    for model in MODELS.values():
        assert model.citation.removesuffix(")") in page
    for code, name, span in RANGES:
        if span.outside == "refuse":
            high = f"{'below ' if span.below else ''}{span.high:g}"
            assert f"| `{name}` | {span.low:g} | {high} | refused |" in page, code
