"""What a chart says about the inputs: windows, newest wins, statuses, units."""

from __future__ import annotations

from datetime import date

import pytest
from charts import (
    LN,
    RXNORM,
    SCT,
    blood_pressure,
    concept,
    condition,
    low_attenuation,
    measured,
    medication_request,
    observation,
    patient,
    quantity,
    relative,
    smoking,
)
from hypothesis import given
from hypothesis import strategies as st

from operations.risk_score.chart import read_chart, years_from_pack_years
from operations.risk_score.chart_codes import PACK_YEARS, chart_table
from operations.risk_score.inputs import INPUTS, input_value

AS_OF = date(2026, 3, 1)
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"


def read(*resources, names=tuple(INPUTS), as_of=AS_OF, **more):
    return read_chart(resources, (*names, PACK_YEARS), as_of, **more)


def value(*resources, name, **more):
    found = read(*resources, names=(name,), **more).inputs.get(name)
    return None if found is None else found.value


# The patient


@pytest.mark.parametrize(
    ("born", "age"),
    [
        ("1970-03-01", 56),
        ("1970-03-02", 55),
        ("1970-02", 56),
        ("1970-03", None),
        ("1970", None),
        ("2026-03-02", None),
        ("not a date", None),
    ],
)
def test_age_is_completed_years_and_never_guessed(born, age) -> None:
    assert value(patient(birthDate=born), name="age") == age


def test_a_leap_day_birthday_counts_on_the_first_of_march() -> None:
    born = patient(birthDate="2000-02-29")
    assert value(born, name="age", as_of=date(2026, 2, 28)) == 25
    assert value(born, name="age", as_of=date(2026, 3, 1)) == 26


@pytest.mark.parametrize(("gender", "sex"), [("male", "male"), ("other", None), ("unknown", None)])
def test_sex_is_male_or_female_only(gender, sex) -> None:
    assert value(patient(gender=gender), name="sex") == sex


def _us_core(name: str, *codes: str, part: str = "ombCategory") -> dict:
    system = "urn:oid:2.16.840.1.113883.6.238"
    return {
        "url": f"http://hl7.org/fhir/us/core/StructureDefinition/us-core-{name}",
        "extension": [{"url": part, "valueCoding": {"system": system, "code": c}} for c in codes],
    }


@pytest.mark.parametrize(
    ("extensions", "races"),
    [
        ([_us_core("race", "2106-3")], ["white"]),
        ([_us_core("race", "2054-5"), _us_core("ethnicity", "2186-5")], ["black"]),
        ([_us_core("race", "2106-3"), _us_core("ethnicity", "2135-2")], ["hispanic"]),
        ([_us_core("race", "2106-3", "2054-5")], []),
        ([_us_core("race", "2131-1")], []),
        ([], []),
    ],
)
def test_race_is_what_us_core_says(extensions, races) -> None:
    found = read(patient(extension=extensions), names=("race",))
    assert [item.value for item in found.races] == races
    assert ("race" in found.inputs) == bool(races)


def test_a_detailed_race_is_offered_beside_the_category() -> None:
    race = _us_core("race", "2028-9")
    race["extension"] += _us_core("race", "2034-7", part="detailed")["extension"]
    found = read(patient(extension=[race]), names=("race",))
    assert {item.value for item in found.races} == {"chinese", "asian"}


# Observations


def test_the_newest_value_in_the_window_wins_and_says_where_it_is_from() -> None:
    found = read(
        measured("2093-3", 190, "mg/dL", "2024-01-01", resource_id="old"),
        measured("2093-3", 210, "mg/dL", "2025-06-01T08:00:00+02:00", resource_id="new"),
        measured("2093-3", 180, "mg/dL", "2023-01-01", resource_id="older"),
    ).inputs["total-cholesterol"]
    assert (found.value, found.unit) == (210, "mg/dL")
    assert (found.source, found.reference) == ("chart", "Observation/new")
    assert found.date == "2025-06-01T08:00:00+02:00"


@pytest.mark.parametrize(
    ("when", "used"),
    [
        ("2026-03-01T23:59:59Z", True),
        ("2026-03-02", False),
        ("2021-03-01", True),
        ("2021-02-28", False),
        ("2021", True),
        ("2020", False),
        (None, False),
        ("gibberish", False),
    ],
)
def test_a_laboratory_value_counts_for_five_years_and_never_from_the_future(when, used) -> None:
    item = observation(concept(LN, "2093-3"), when, valueQuantity=quantity(200, "mg/dL"))
    assert (value(item, name="total-cholesterol") is not None) is used


def test_vital_signs_count_for_two_years() -> None:
    assert value(blood_pressure(130, "2024-03-01"), name="systolic-bp") == 130
    assert value(blood_pressure(130, "2024-02-29"), name="systolic-bp") is None


@pytest.mark.parametrize(
    ("status", "used"),
    [("final", True), ("amended", True), ("corrected", True), ("preliminary", False),
     ("registered", False), ("entered-in-error", False), ("cancelled", False),
     ("unknown", False)],
)  # fmt: skip
def test_only_results_that_stand_are_used(status, used) -> None:
    item = measured("2093-3", 200, "mg/dL", "2026-01-01", status=status)
    found = value(item, name="total-cholesterol", allow_preliminary=True)
    assert (found is not None) is used, "a preliminary laboratory value never counts"


@pytest.mark.parametrize(
    ("item", "mmhg"),
    [
        (blood_pressure(141, "2026-01-01"), 141),
        (blood_pressure(141, "2026-01-01", panel="55284-4"), 141),
        (measured("8480-6", 141, "mm[Hg]", "2026-01-01"), 141),
        (measured("8462-4", 141, "mm[Hg]", "2026-01-01"), None),
    ],
)
def test_systolic_pressure_is_a_component_or_stands_alone(item, mmhg) -> None:
    assert value(item, name="systolic-bp") == mmhg


def test_units_are_converted() -> None:
    found = value(measured("14647-2", 5.2, "mmol/L", "2026-01-01"), name="total-cholesterol")
    assert found == pytest.approx(5.2 / 0.02586, rel=1e-9)
    assert value(measured("8480-6", 16, "kPa", "2026-01-01"), name="systolic-bp") == pytest.approx(
        120.01, abs=0.01
    )


@pytest.mark.parametrize(
    "element",
    [
        {"valueQuantity": {"value": 200}},
        {"valueQuantity": {"value": 200, "unit": "mg/dL"}},
        {"valueQuantity": {"value": 200, "unit": "mg/dL", "system": "urn:x", "code": "mg/dL"}},
        {"valueQuantity": quantity(200, "kg")},
        {"valueQuantity": {**quantity(200, "mg/dL"), "comparator": "<"}},
        {"valueQuantity": quantity(1e9, "mg/dL")},
    ],
)
def test_a_value_that_cannot_be_used_is_told_and_an_older_one_is_taken(element) -> None:
    bad = observation(concept(LN, "2093-3"), "2026-02-01", resource_id="bad", **element)
    good = measured("2093-3", 190, "mg/dL", "2025-01-01", resource_id="good")
    found = read(bad, good)
    assert found.inputs["total-cholesterol"].value == 190
    (note,) = found.notes
    assert note.name == "total-cholesterol"
    assert (note.issue.severity, note.issue.detail) == ("information", "unusable-value")
    assert "bad" not in note.text.split(), "no ids in messages"
    assert not read(good, {**bad, "effectiveDateTime": "2024-01-01"}).notes, "older: no matter"


def test_an_observation_without_a_value_is_as_if_it_were_not_there() -> None:
    empty = observation(concept(LN, "2093-3"), "2026-02-01")
    assert read(empty).inputs == {} and read(empty).notes == ()


@pytest.mark.parametrize(
    ("code", "status"),
    [("77176002", "current"), ("449868002", "current"), ("428041000124106", "current"),
     ("65568007", "current"), ("8517006", "former"), ("266919005", "never"),
     ("266927001", None)],
)  # fmt: skip
def test_smoking_status(code, status) -> None:
    found = read(smoking(code, "2026-01-01"))
    assert found.inputs.get("smoking-status") is None or (
        found.inputs["smoking-status"].value == status
    )
    assert ("smoking-status" in found.inputs) == (status is not None)
    assert bool(found.notes) == (status is None)


def test_years_smoked_follow_from_pack_years() -> None:
    item = observation(
        concept(SCT, "401201003"), "2026-01-01", valueQuantity=quantity(30, "{pack-years}")
    )
    pack_years = read(item).inputs[PACK_YEARS]
    cigarettes = input_value("cigarettes-per-day", 15.0, source="caller")
    years = years_from_pack_years(pack_years, cigarettes)
    assert years is not None and years.value == 40.0
    assert years.reference == "Observation/o"
    assert years_from_pack_years(pack_years, None) is None
    none = input_value("cigarettes-per-day", 0.0, source="caller")
    assert years_from_pack_years(pack_years, none) is None
    wrong = {**item, "valueQuantity": quantity(30, "kg")}
    assert PACK_YEARS not in read(wrong).inputs


# Conditions, medications, family


@pytest.mark.parametrize(
    ("item", "name", "said"),
    [
        (condition(concept(SCT, "44054006")), "diabetes", True),
        (condition(concept(ICD10CM, "E11.9")), "diabetes", True),
        (condition(concept(SCT, "237599002")), "diabetes", True),
        (condition(concept(SCT, "15777000")), "diabetes", None),
        (condition(concept(ICD10CM, "R73.03")), "diabetes", None),
        (condition(concept(ICD10CM, "J44.1")), "copd", True),
        (condition(concept(ICD10CM, "J43.9")), "copd", None),
        (condition(concept(ICD10CM, "J43.9")), "emphysema", True),
        (condition(concept(SCT, "87433001")), "emphysema", True),
        (condition(concept(ICD10CM, "C18.9")), "personal-cancer", True),
        (condition(concept(ICD10CM, "C44.91")), "personal-cancer", None),
        (condition(concept(SCT, "266897007")), "family-mi", True),
        (condition(concept(SCT, "160270001")), "family-mi", False),
        (condition(concept("urn:other", "44054006")), "diabetes", None),
    ],
)
def test_conditions_by_code_and_by_block(item, name, said) -> None:
    assert value(item, name=name) is said


@pytest.mark.parametrize(
    ("verified", "used"),
    [(None, True), ("confirmed", True), ("unconfirmed", False), ("provisional", False),
     ("differential", False), ("refuted", False), ("entered-in-error", False)],
)  # fmt: skip
def test_only_confirmed_conditions_count(verified, used) -> None:
    item = condition(concept(ICD10CM, "J44.9"), verified=verified)
    assert (value(item, name="copd") is not None) is used


def test_nothing_is_concluded_from_absence() -> None:
    found = read(patient(), smoking("266919005", "2026-01-01"))
    assert set(found.inputs) == {"age", "sex", "smoking-status"}


def test_diabetes_must_last_and_cancer_must_not() -> None:
    over = {"clinical": "resolved", "onset": "2010-01-01"}
    assert value(condition(concept(ICD10CM, "E11.9"), **over), name="diabetes") is None
    assert value(condition(concept(ICD10CM, "C18.9"), **over), name="personal-cancer") is True
    later = condition(concept(ICD10CM, "E11.9"), clinical="resolved", abatementDateTime="2026-06")
    assert value(later, name="diabetes") is True, "it ended after the date of the score"
    ended = condition(concept(ICD10CM, "E11.9"), abatementString="gone")
    assert value(ended, name="diabetes") is None


def test_a_condition_that_begins_later_does_not_count() -> None:
    item = condition(concept(ICD10CM, "J44.9"), onset="2026-03-02")
    assert value(item, name="copd") is None


@pytest.mark.parametrize(
    ("code", "onset", "said"),
    [("C18.9", "2021-02-28", True), ("C18.9", "2021-03-01", None), ("C18.9", None, None),
     ("C34.1", "2000-01-01", None), ("C79.3", "2000-01-01", None)],
)  # fmt: skip
def test_extrathoracic_cancer_must_be_five_years_past(code, onset, said) -> None:
    item = condition(concept(ICD10CM, code), onset=onset)
    assert value(item, name="prior-extrathoracic-cancer") is said


@pytest.mark.parametrize(
    ("change", "used"),
    [({}, True), ({"status": "stopped"}, False), ({"intent": "plan"}, False),
     ({"intent": "proposal"}, False), ({"doNotPerform": True}, False),
     ({"authoredOn": "2026-03-02"}, False)],
)  # fmt: skip
def test_a_statin_is_an_order_in_use(change, used) -> None:
    item = medication_request(concept(RXNORM, "617310"), **change)
    for name in ("statin", "lipid-treated"):
        assert (value(item, name=name) is True) is used
    assert value(item, name="bp-treated") is None


def test_medications_by_reference_contained_and_class() -> None:
    known = {"resourceType": "Medication", "id": "x", "code": concept(RXNORM, "314231")}
    order = medication_request(concept(RXNORM, "0"))
    del order["medicationCodeableConcept"]
    referring = {**order, "medicationReference": {"reference": "Medication/x"}}
    assert value(referring, known, name="statin") is True
    assert value(referring, name="statin") is None
    inside = {**order, "medicationReference": {"reference": "#x"}, "contained": [known]}
    assert value(inside, name="statin") is True
    atc = "http://www.whocc.no/atc"
    statement = {
        "resourceType": "MedicationStatement",
        "id": "s",
        "status": "active",
        "medicationCodeableConcept": concept(atc, "C09AA05"),
    }
    assert value(statement, name="bp-treated") is True
    assert value(medication_request(concept(atc, "C10AX09")), name="lipid-treated") is True
    assert value(medication_request(concept(atc, "C10AX09")), name="statin") is None


@pytest.mark.parametrize(
    ("item", "name", "said"),
    [
        (relative(concept(SCT, "22298006"), "FTH"), "family-mi", True),
        (relative(concept(SCT, "22298006"), "GRFTH"), "family-mi", None),
        (relative(concept(ICD10CM, "C34.90"), "GRFTH"), "family-lung-cancer", True),
        (relative(concept(ICD10CM, "C34.90"), status="entered-in-error"), "family-lung-cancer",
         None),
        (relative(concept(ICD10CM, "C34.90"), date="2027"), "family-lung-cancer", None),
        (relative(concept(ICD10CM, "C18.9")), "family-lung-cancer", None),
    ],
)  # fmt: skip
def test_family_history(item, name, said) -> None:
    assert value(item, name=name) is said


# Imaging


@pytest.mark.parametrize(("percent", "said"), [(5.0, True), (4.999, False), (31.2, True)])
def test_emphysema_from_low_attenuation_of_both_lungs(percent, said) -> None:
    found = read(low_attenuation(percent, "2026-01-01")).inputs["emphysema"]
    assert found.value is said and found.source == "imaging"
    one_side = low_attenuation(percent, "2026-01-01", side="7771000")
    assert "emphysema" not in read(one_side).inputs


def test_preliminary_imaging_is_used_only_when_allowed_and_is_marked() -> None:
    item = low_attenuation(9.0, "2026-01-01", status="preliminary")
    assert "emphysema" not in read(item).inputs
    found = read(item, allow_preliminary=True).inputs["emphysema"]
    assert found.value is True and found.preliminary
    final = low_attenuation(9.0, "2026-01-01")
    assert not read(final, allow_preliminary=True).inputs["emphysema"].preliminary


def test_the_problem_list_goes_before_imaging() -> None:
    found = read(
        low_attenuation(1.0, "2026-02-01"), condition(concept(SCT, "87433001"), onset="2015-01-01")
    ).inputs["emphysema"]
    assert (found.value, found.source) == (True, "chart")


def test_the_threshold_of_emphysema_is_that_of_the_lung_density_service() -> None:
    from models.registry import Registry

    manifest = Registry().manifest("lung-density")
    (rule,) = (r for r in chart_table().rules["emphysema"] if r.source == "imaging")
    assert rule.at_least == manifest.thresholds["emphysema_laa_950_percent"]


@pytest.mark.parametrize(
    "element",
    [{"valueQuantity": quantity(312, "1")}, {"valueQuantity": quantity(312, "{score}")},
     {"valueInteger": 312}],
)  # fmt: skip
def test_agatston(element) -> None:
    item = observation(concept(SCT, "450360000"), "2026-01-01", **element)
    found = read(item).inputs["agatston"]
    assert (found.value, found.source) == (312, "imaging")


# The table, and properties


def test_every_rule_names_an_input_and_every_input_but_three_is_found() -> None:
    table = chart_table()
    found = {name for name in INPUTS if table.accepted(name)}
    by_patient = {"age", "sex"}
    derived = {"ever-smoker", "smoker"}
    given_by_caller = {"cigarettes-per-day", "years-smoked", "years-quit"}
    counted = {"nodule-count"}
    assert set(INPUTS) - found - by_patient == derived | given_by_caller
    assert counted <= found


dates = st.dates(min_value=date(2010, 1, 1), max_value=date(2032, 12, 31))


@given(days=st.lists(dates, min_size=1, max_size=8, unique=True), as_of=dates)
def test_the_value_is_always_the_newest_that_is_not_in_the_future(days, as_of) -> None:
    items = [
        measured("2093-3", 100 + n, "mg/dL", day.isoformat(), resource_id=f"o{n}")
        for n, day in enumerate(days)
    ]
    found = read(*items, names=("total-cholesterol",), as_of=as_of).inputs
    usable = [day for day in days if day <= as_of and (as_of - day).days <= 5 * 365]
    if not usable:
        # Leap days make the window one or two days longer than five times 365.
        assert (
            not found or (as_of - date.fromisoformat(found["total-cholesterol"].date)).days < 1828
        )
    else:
        assert found["total-cholesterol"].date == max(usable).isoformat()


@given(data=st.data())
def test_the_order_of_the_resources_does_not_matter(data) -> None:
    chart = [
        patient(),
        blood_pressure(120, "2026-01-01", resource_id="a"),
        blood_pressure(150, "2026-01-01", resource_id="b"),
        measured("2085-9", 50, "mg/dL", "2025-01-01", resource_id="c"),
        condition(concept(SCT, "87433001")),
        low_attenuation(2.0, "2026-01-01", resource_id="d"),
    ]
    shuffled = data.draw(st.permutations(chart))
    assert read(*shuffled) == read(*chart)
