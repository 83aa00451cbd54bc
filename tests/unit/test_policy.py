"""The policy table: every cell against a grid written by hand, and what must never be open."""

from __future__ import annotations

import itertools

import pytest

from fhir_ext.auth.grant import Persona, ScopeContext
from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import SettingsError
from fhir_ext.gateway.compartment import COMPARTMENT_TYPES, confinement_param
from fhir_ext.gateway.interaction import Kind
from fhir_ext.gateway.policy import Policy, Rule

LETTERS = {
    "r": Kind.READ,
    "v": Kind.VREAD,
    "h": Kind.HISTORY_INSTANCE,
    "H": Kind.HISTORY_TYPE,
    "s": Kind.SEARCH_TYPE,
    "c": Kind.CREATE,
    "C": Kind.CONDITIONAL_CREATE,
    "u": Kind.UPDATE,
    "U": Kind.CONDITIONAL_UPDATE,
    "p": Kind.PATCH,
    "d": Kind.DELETE,
}
MARKS = {"=": Rule.COMPARTMENT, "~": Rule.PROGRAMS, "*": Rule.OPEN}

#: Rows persona/context, columns classes; a dot and a row that is not there are denied.
GRID = """
                       identity   chart      results work  billing provenance group  subscription directory  conformance searching models     audit
patient/patient        =rvhs      =rvhs      =rvhs   =rvhs =rvhs   =rvhs      .      .            *rvhs      *rvhs       *rvhs     *rvhs      .
clinician/patient      =rvhs      =rvhscup   =rvhsc  =rvhs =rvhs   =rvhs      .      .            *rvhs      *rvhs       *rvhs     *rvhs      .
clinician/user         ~rvhs      ~rvhscup   ~rvhsc  ~rvhs ~rvhs   ~rvhs      ~r     .            *rvhs      *rvhs       *rvhs     *rvhs      .
radiologist/patient    =rvhs      =rvhscup   =rvhsc  =rvhs =rvhs   =rvhs      .      .            *rvhs      *rvhs       *rvhs     *rvhs      .
radiologist/user       ~rvhs      ~rvhscup   ~rvhsc  ~rvhs ~rvhs   ~rvhs      ~r     .            *rvhs      *rvhs       *rvhs     *rvhs      .
coordinator/user       ~rvhs      ~rvhs      ~rvhs   ~rvhs ~rvhs   ~rvhs      ~r     .            *rvhs      *rvhs       *rvhs     *rvhs      .
epidemiologist/user    .          .          .       .     .       .          .      .            .          *rvhs       *rvhs     .          .
ml-engineer/user       .          .          .       .     .       .          .      .            .          *rvhs       *rvhs     *rvhs      .
auditor/user           .          .          .       .     .       .          .      .            .          .           .         .          *rvhHs
administrator/user     .          .          .       .     .       .          *rvhHscupd *rvhHscud *rvhHscupd *rvhHscupd *rvhs     *rvhHscupd .
service/system         *rvhHscCuU *rvhHscCuU *rvhHscCuU *rvhHscCuU *rvhHscCuU *rvhHsc *rvhHs *rvhHs *rvhHs   *rvhHs      *rvhHs    *rvhHs     .
"""  # noqa: E501 - a grid

#: The only cells of ML engineers on a type that may be about patients.
ALERTS = {
    ("ml-engineer", "user", kind, "DetectedIssue"): Rule.ALERTS
    for kind in (Kind.READ, Kind.SEARCH_TYPE)
}

#: Cells of single types: what a patient's app may send, and work that is handed on.
SINGLE = {
    ("patient", "patient", Kind.CREATE, "QuestionnaireResponse"): Rule.COMPARTMENT,
    ("radiologist", "user", Kind.UPDATE, "Task"): Rule.PROGRAMS,
    ("coordinator", "user", Kind.UPDATE, "Task"): Rule.PROGRAMS,
    **ALERTS,
}

CARE = {
    ("patient", "patient"): Rule.COMPARTMENT,
    ("clinician", "patient"): Rule.COMPARTMENT,
    ("radiologist", "patient"): Rule.COMPARTMENT,
    ("clinician", "user"): Rule.PROGRAMS,
    ("radiologist", "user"): Rule.PROGRAMS,
    ("coordinator", "user"): Rule.PROGRAMS,
    ("service", "system"): Rule.OPEN,
}
EVERYBODY = {
    *CARE,
    ("epidemiologist", "user"),
    ("ml-engineer", "user"),
    ("administrator", "user"),
}

#: (operation, type) to who may call it; `$validate` has a test of its own.
OPERATIONS: dict[tuple[str, str], dict[tuple[str, str], Rule]] = {
    ("$everything", "Patient"): CARE,
    ("$risk-score", "Patient"): CARE,
    ("$risk-score", "RiskAssessment"): CARE,
    ("$review", "Task"): {("radiologist", "user"): Rule.PROGRAMS},
    ("$claim", "Task"): {
        ("radiologist", "user"): Rule.PROGRAMS,
        ("coordinator", "user"): Rule.PROGRAMS,
    },
    ("$release", "Task"): {
        ("radiologist", "user"): Rule.PROGRAMS,
        ("coordinator", "user"): Rule.PROGRAMS,
    },
    ("$expand", "ValueSet"): dict.fromkeys(EVERYBODY, Rule.OPEN),
    ("$validate-code", "ValueSet"): dict.fromkeys(EVERYBODY, Rule.OPEN),
    ("$validate-code", "CodeSystem"): dict.fromkeys(EVERYBODY, Rule.OPEN),
    ("$lookup", "CodeSystem"): dict.fromkeys(EVERYBODY, Rule.OPEN),
    ("$subsumes", "CodeSystem"): dict.fromkeys(EVERYBODY, Rule.OPEN),
    ("$translate", "ConceptMap"): dict.fromkeys(EVERYBODY, Rule.OPEN),
}

#: Operations of HAPI and of FHIR that nobody may call.
FORBIDDEN_OPERATIONS = """
    $graphql $meta $meta-add $meta-delete $expunge $reindex $mark-all-resources-for-reindexing
    $perform-reindexing-pass $export $import $delete-expunge $apply-codesystem-delta-add
    $apply-codesystem-delta-remove $upload-external-code-system $trigger-subscription
    $process-message $document $merge $diff $match $get-resource-counts $versions $submit-data
    $evaluate-measure $lastn $poll-export-status $binary-access-read $analyze
""".split()  # noqa: SIM905 - a list of 27 strings reads worse

CONTEXTS: tuple[ScopeContext, ...] = ("patient", "user", "system")
ALWAYS = {Kind.BUNDLE, Kind.CAPABILITIES, Kind.PAGE}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load()


def expected_cells(policy: Policy) -> dict[tuple[str, str, str, str | None], Rule]:
    """The grid, unfolded; the classes are the table's own."""
    head, *rows = (line.split() for line in GRID.strip().splitlines())
    cells: dict[tuple[str, str, str, str | None], Rule] = dict(SINGLE)
    for who, *columns in rows:
        persona, _, context = who.partition("/")
        assert len(columns) == len(head)
        for name, column in zip(head, columns, strict=True):
            for letter in column[1:]:
                for resource_type in policy.classes[name]:
                    key = (persona, context, LETTERS[letter], resource_type)
                    cells[key] = MARKS[column[0]]
    return cells


def test_every_interaction_on_every_type(policy: Policy) -> None:
    expected = expected_cells(policy)
    asked = 0
    for persona, context, kind in itertools.product(Persona, CONTEXTS, Kind):
        for resource_type in sorted(RESOURCE_TYPES):
            key = (persona.value, context, kind.value, resource_type)
            assert policy.rule(persona, context, kind.value, resource_type) is expected.get(
                key, Rule.DENY
            ), key
            asked += 1
    assert asked == 9 * 3 * len(Kind) * 146


@pytest.mark.parametrize("persona", Persona)
def test_system_level(policy: Policy, persona: Persona) -> None:
    for context, kind in itertools.product(CONTEXTS, Kind):
        wanted = Rule.OPEN if kind in ALWAYS else Rule.DENY
        assert policy.rule(persona, context, kind.value, None) is wanted


@pytest.mark.parametrize("persona", Persona)
def test_operations(policy: Policy, persona: Persona) -> None:
    names = {name for name, _ in OPERATIONS}
    for name, context, resource_type in itertools.product(
        names, CONTEXTS, [*sorted(RESOURCE_TYPES), None]
    ):
        wanted = OPERATIONS.get((name, str(resource_type)), {})
        assert policy.rule(persona, context, name, resource_type) is wanted.get(
            (persona.value, context), Rule.DENY
        ), (name, context, resource_type)


def test_validate_only_what_one_may_write(policy: Policy) -> None:
    for persona, context, resource_type in itertools.product(Persona, CONTEXTS, RESOURCE_TYPES):
        writes = policy.rule(persona, context, "create", resource_type) is not Rule.DENY
        rule = policy.rule(persona, context, "$validate", resource_type)
        assert rule is (Rule.OPEN if writes else Rule.DENY)


@pytest.mark.parametrize("persona", Persona)
def test_operations_that_are_nobodys(policy: Policy, persona: Persona) -> None:
    for name, context, resource_type in itertools.product(
        FORBIDDEN_OPERATIONS, CONTEXTS, [*RESOURCE_TYPES, None]
    ):
        assert policy.rule(persona, context, name, resource_type) is Rule.DENY


@pytest.mark.parametrize("persona", [Persona.EPIDEMIOLOGIST, Persona.ML_ENGINEER])
def test_no_patient_level_route(policy: Policy, persona: Persona) -> None:
    operations = {name for name, _ in OPERATIONS} | set(FORBIDDEN_OPERATIONS) | {"$validate"}
    interactions = [kind.value for kind in Kind] + sorted(operations)
    for context, interaction, resource_type in itertools.product(
        CONTEXTS, interactions, COMPARTMENT_TYPES
    ):
        wanted = ALERTS.get((persona, context, interaction, resource_type), Rule.DENY)
        assert policy.rule(persona, context, interaction, resource_type) is wanted


def test_what_was_recorded_stays(policy: Policy) -> None:
    changes = [
        kind
        for kind in Kind
        if kind.value.endswith(("update", "patch", "delete")) or kind is Kind.CONDITIONAL_CREATE
    ]
    for persona, context, kind in itertools.product(Persona, CONTEXTS, changes):
        for resource_type in ("Provenance", "AuditEvent"):
            assert policy.rule(persona, context, kind.value, resource_type) is Rule.DENY
        assert policy.rule(persona, context, kind.value, "SearchParameter") is Rule.DENY


def test_open_on_patient_data_is_for_programs_without_a_user(policy: Policy) -> None:
    clinical = COMPARTMENT_TYPES - {"AuditEvent", "Group"}
    for persona, context, kind in itertools.product(Persona, CONTEXTS, Kind):
        for resource_type in clinical:
            if policy.rule(persona, context, kind.value, resource_type) is Rule.OPEN:
                assert (persona, context) == (Persona.SERVICE, "system")


def test_a_confined_search_can_be_confined(policy: Policy) -> None:
    """Where the table says so, a parameter exists; a history has none."""
    confined = {Rule.COMPARTMENT, Rule.PROGRAMS}
    for persona, context, resource_type in itertools.product(Persona, CONTEXTS, RESOURCE_TYPES):
        if policy.rule(persona, context, "search-type", resource_type) in confined:
            assert confinement_param(resource_type) is not None
            assert resource_type in COMPARTMENT_TYPES
        assert policy.rule(persona, context, "history-type", resource_type) not in confined


def test_shared_types_are_in_no_compartment(policy: Policy) -> None:
    assert not policy.shared & COMPARTMENT_TYPES
    assert {"Practitioner", "Organization", "CodeSystem", "Device"} <= policy.shared


def test_unknown_names_are_denied(policy: Policy) -> None:
    assert policy.rule(Persona.SERVICE, "system", "READ", "Patient") is Rule.DENY
    assert policy.rule(Persona.SERVICE, "system", "read", "patient") is Rule.DENY
    assert policy.rule(Persona.SERVICE, "system", "everything", "Patient") is Rule.DENY


def shipped() -> str:
    from importlib import resources

    return resources.files("fhir_ext.gateway").joinpath("policy.yaml").read_text("utf-8")


RULE = "\n  - who: [clinician]\n    may: [read]\n    of: [Patient]\n    rule: own\n"


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        ("identity: [Patient, Person]", "identity: [Patient]", "lacks Person"),
        ("identity: [Patient, Person]", "identity: [Patient, Persn]", "'Persn', no type"),
        ("identity: [Patient, Person]", "identity: [Patient, Person, Patient]", "is in identity"),
        ("  audit: [AuditEvent]", "  audit: [AuditEvent, Task]", "'Task' is in work and in audit"),
        ("  audit: [AuditEvent]", "  group: [AuditEvent]", "'group' is there twice"),
        ("  audit: [AuditEvent]", "  Basic: [AuditEvent]", "has the name of a type"),
        ("[epidemiologist]", "[epidemologist]", "epidemologist"),
        ("  ml-engineer: [user]\n", "", "personas lacks ml-engineer"),
        ("  system: open", "  system: wide", "wide"),
        ("  system: open\n", "", "own lacks system"),
        ("  look: [read,", "  look: [peek,", "'peek' is no interaction"),
        ("  look: [read,", "  read: [read,", "interactions.read is itself"),
        ("of: [audit]", "of: [audits]", "'audits' is neither a class nor a type"),
        ("may: [look, history-type]\n    of: [audit]", "may: [$]\n    of: [audit]", "'$' is no"),
        ("    of: [audit]\n", "", "of"),
        ("rules:", "rules:" + RULE.replace("own", "open"), "says 'compartment'"),
        ("rules:", "rules:" + RULE.replace("own", "deny"), "rule"),
        ("rules:", "rules:" + RULE + "    when: now\n", "when"),
        (
            "rules:",
            "rules:" + RULE.replace("[clinician]", "[auditor]") + "    contexts: [patient]\n",
            "auditor has no patient/",
        ),
        ("rules:", "rules: [", "not YAML"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(find: str, replace: str, said: str) -> None:
    text = shipped()
    assert find in text
    with pytest.raises(SettingsError) as caught:
        Policy.from_text(text.replace(find, replace, 1))
    assert said in caught.value.message


def test_the_same_said_twice_is_no_error() -> None:
    Policy.from_text(shipped().replace("rules:", "rules:" + RULE, 1))
