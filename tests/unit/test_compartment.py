"""Whose a resource is, against the elements of HL7's table and forms of references."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.gateway.compartment import (
    COMPARTMENT_TYPES,
    confinement_param,
    deciding_elements,
    patients_of,
    subjects_of,
    touches_compartment,
)

Json = dict[str, Any]

#: CompartmentDefinition/patient of FHIR 4.0.1 with the elements that its parameters index, as
#: the pages of the resources list them; written out apart from the table that is tested. The
#: main subject comes first.
SPECIFICATION = """
Account subject | AdverseEvent subject | AllergyIntolerance patient recorder asserter
Appointment participant.actor | AppointmentResponse actor | AuditEvent agent.who entity.what
Basic subject author | BodyStructure patient | CarePlan subject activity.detail.performer
CareTeam subject participant.member | ChargeItem subject | Claim patient payee.party
ClaimResponse patient | ClinicalImpression subject | Communication subject sender recipient
CommunicationRequest subject sender recipient requester
Composition subject author attester.party | Condition subject asserter | Consent patient
Coverage beneficiary policyHolder subscriber payor | CoverageEligibilityRequest patient
CoverageEligibilityResponse patient | DetectedIssue patient | DeviceRequest subject performer
DeviceUseStatement subject | DiagnosticReport subject | DocumentManifest subject author recipient
DocumentReference subject author | Encounter subject | EnrollmentRequest candidate
EpisodeOfCare patient | ExplanationOfBenefit patient payee.party | FamilyMemberHistory patient
Flag subject | Goal subject | Group member.entity | ImagingStudy subject | Immunization patient
ImmunizationEvaluation patient | ImmunizationRecommendation patient | Invoice subject recipient
List subject source | MeasureReport subject | Media subject
MedicationAdministration subject performer.actor | MedicationDispense subject receiver
MedicationRequest subject | MedicationStatement subject | MolecularSequence patient
NutritionOrder patient | Observation subject performer | Person link.target
Procedure subject performer.actor | Provenance target | QuestionnaireResponse subject author
RelatedPerson patient | RequestGroup subject action.participant | ResearchSubject individual
RiskAssessment subject | Schedule actor | ServiceRequest subject performer | Specimen subject
SupplyDelivery patient | SupplyRequest deliverTo | VisionPrescription patient
"""
MEMBERS = {
    words[0]: words[1:]
    for words in (part.split() for line in SPECIFICATION.splitlines() for part in line.split("|"))
    if words
}
#: Types where several elements name main subjects.
EQUAL = {"AuditEvent"}

NOBODYS = [
    {"reference": "http://elsewhere.example/fhir/Patient/p1"},
    {"reference": "https://gateway.example/fhir/Patient/p1"},
    {"reference": "/Patient/p1"},
    {"reference": "./Patient/p1"},
    {"reference": "Patient?identifier=p1"},
    {"reference": "Patient/p1?x=y"},
    {"reference": "Patient/p1/"},
    {"reference": "Patient/p1#x"},
    {"reference": "Patient/p1\n"},
    {"reference": "Patient/p1/_history"},
    {"reference": "Patient/"},
    {"reference": "Patient/" + "p" * 65},
    {"reference": "patient/p1"},
    {"reference": "#p1"},
    {"reference": "urn:uuid:7ad4bd1c-5dcd-4d13-bd6b-2b3a8b0c4d2f"},
    {"reference": "Group/p1"},
    {"reference": "RelatedPerson/p1"},
    {"reference": ["Patient/p1"]},
    {"reference": {"reference": "Patient/p1"}},
    {"identifier": {"value": "Patient/p1"}, "type": "Patient"},
    {"display": "Patient/p1"},
    {},
]


def placed(resource_type: str, path: str, value: object, *, listed: bool = False) -> Json:
    """A resource with a value at a path; every step in a list if `listed`."""
    for name in reversed(path.split(".")):
        value = {name: [value] if listed else value}
    assert isinstance(value, dict)
    return {"resourceType": resource_type, "id": "r1", **value}


def test_the_types_are_those_of_r4() -> None:
    assert len(MEMBERS) == 65
    assert {*MEMBERS, "Patient", "Task"} == COMPARTMENT_TYPES
    assert COMPARTMENT_TYPES <= RESOURCE_TYPES


@pytest.mark.parametrize("resource_type", sorted(MEMBERS))
def test_every_element_of_the_table_counts(resource_type: str) -> None:
    for number, path in enumerate(MEMBERS[resource_type]):
        for reference in ("Patient/p1", "Patient/p1/_history/3"):
            for listed in (False, True):
                resource = placed(resource_type, path, {"reference": reference}, listed=listed)
                assert patients_of(resource) == {"p1"}
                main = number == 0 or resource_type in EQUAL
                assert subjects_of(resource) == ({"p1"} if main else frozenset())
        assert touches_compartment(path.partition(".")[0], resource_type)
    roots = {path.partition(".")[0] for path in MEMBERS[resource_type]}
    assert deciding_elements(resource_type) == roots


@pytest.mark.parametrize("reference", NOBODYS, ids=str)
def test_other_references_are_nobodys(reference: Json) -> None:
    resource = placed("Observation", "subject", reference)
    assert patients_of(resource) == subjects_of(resource) == frozenset()


@pytest.mark.parametrize("odd", ["Patient/p1", 7, None, True, [], ["Patient/p1"], [[{}]]], ids=str)
def test_odd_shapes_are_nobodys(odd: object) -> None:
    assert not patients_of({"resourceType": "Observation", "subject": odd, "performer": odd})
    assert not patients_of({"resourceType": "Appointment", "participant": [{"actor": odd}, odd]})
    assert not patients_of({"resourceType": "Patient", "id": odd if odd != "Patient/p1" else 1})


def test_a_child_measured_by_its_mother() -> None:
    observation = {
        "resourceType": "Observation",
        "subject": {"reference": "Patient/child"},
        "performer": [{"reference": "Patient/mother"}, {"reference": "Practitioner/p"}],
    }
    assert patients_of(observation) == {"child", "mother"}
    assert subjects_of(observation) == {"child"}


def test_a_patient_is_its_own_and_not_that_of_a_link() -> None:
    patient = {
        "resourceType": "Patient",
        "id": "a",
        "link": [{"other": {"reference": "Patient/b"}, "type": "seealso"}],
    }
    assert patients_of(patient) == subjects_of(patient) == {"a"}
    assert not patients_of({"resourceType": "Patient"})
    assert touches_compartment("link", "Patient")


def test_several_people_in_one_resource() -> None:
    group = {
        "resourceType": "Group",
        "member": [{"entity": {"reference": f"Patient/{name}"}} for name in "abc"],
    }
    assert subjects_of(group) == set("abc")
    assert confinement_param("Group") is None


@pytest.mark.parametrize("resource_type", ["Practitioner", "CodeSystem", "Nonsense", ""])
def test_types_without_a_compartment(resource_type: str) -> None:
    resource = placed(resource_type, "subject", {"reference": "Patient/p1"})
    assert patients_of(resource) == frozenset()
    assert confinement_param(resource_type) is None
    assert not touches_compartment("subject", resource_type)


def test_task_and_an_implant_name_a_patient() -> None:
    assert patients_of(placed("Task", "for", {"reference": "Patient/p1"})) == {"p1"}
    assert not patients_of(placed("Task", "owner", {"reference": "Patient/p1"}))
    assert confinement_param("Task") == "patient"
    assert patients_of(placed("Device", "patient", {"reference": "Patient/p1"})) == {"p1"}
    assert "Device" not in COMPARTMENT_TYPES


@pytest.mark.parametrize(
    ("resource_type", "wanted"),
    [
        ("Patient", "_id"),
        ("Observation", "patient"),
        ("ImagingStudy", "patient"),
        ("Coverage", "patient"),
        ("ResearchSubject", "patient"),
        ("Provenance", "patient"),
        ("AdverseEvent", "subject"),
        ("SupplyRequest", "subject"),
        ("Schedule", "actor"),
    ],
)
def test_the_parameter_that_confines(resource_type: str, wanted: str) -> None:
    assert confinement_param(resource_type) == wanted


@pytest.mark.parametrize("root", ["", "id", "resourceType", "subject", "_subject", "performer"])
def test_what_a_patch_may_not_touch(root: str) -> None:
    assert touches_compartment(root, "Observation")


@pytest.mark.parametrize("root", ["status", "code", "valueQuantity", "note", "meta", "__subject"])
def test_what_a_patch_may_touch(root: str) -> None:
    assert not touches_compartment(root, "Observation")


scalars = st.none() | st.booleans() | st.integers() | st.sampled_from(["Patient/a", "Patient/b"])
names = st.sampled_from(["reference", "actor", "party", "who", "member", "id", "resourceType"])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def resources(draw: st.DrawFn) -> Json:
    resource_type = draw(st.sampled_from(sorted(RESOURCE_TYPES)))
    elements = sorted(deciding_elements(resource_type) | {"subject", "patient", "text"})
    filled = draw(st.dictionaries(st.sampled_from(elements), anything, max_size=4))
    return {**filled, "resourceType": resource_type}


@given(resources())
def test_subjects_are_among_the_patients(resource: Json) -> None:
    assert subjects_of(resource) <= patients_of(resource)
    assert not patients_of(resource) - {"a", "b"} or resource["resourceType"] == "Patient"


@given(resources(), st.data())
def test_other_elements_do_not_matter(resource: Json, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["status", "note", "extension", "contained", "for_"]))
    changed = {**resource, name: data.draw(anything)}
    if not touches_compartment(name, resource["resourceType"]):
        assert patients_of(changed) == patients_of(resource)
        assert subjects_of(changed) == subjects_of(resource)
