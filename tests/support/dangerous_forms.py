"""Requests that have let other people's data out of FHIR servers, and how each must end.

Every form is sent with a token confined to the patient `own`, and with one confined to the
members of a program. `refused` is a 4xx; `confined` is an answer in which nothing of the
patient `other` stands. Either way the mark of `other` never appears.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from access_world import (
    CODE,
    CODES,
    MATE,
    OTHER,
    OWN,
    PREFIX,
    PROGRAM,
    mark,
    observation,
    reference,
)

Json = dict[str, Any]

#: Begins the family name of `other`; less than the mark, which links and texts would repeat.
NAME = mark(OTHER).rpartition("-")[0]

REFUSED, CONFINED, EITHER = "refused", "confined", "either"

_OTHER_OBS = f"/Observation/{PREFIX}obs-{OTHER}"
_OWN_OBS = f"/Observation/{PREFIX}obs-{OWN}"
_ALL = f"code={CODES}|{CODE}"


@dataclass(frozen=True)
class Form:
    """One request.

    Attributes:
        target: path and query as they go onto the wire, below the FHIR base.
        verdict: REFUSED, CONFINED, or EITHER where both keep the promise.
    """

    target: str
    verdict: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        extra = "".join(f" {name}: {value}" for name, value in self.headers.items())
        return f"{self.method} {self.target}{extra} {self.body.decode()}".strip()[:150]


def extras() -> list[Json]:
    """Resources that tie the three patients together."""
    return [
        # About the own patient, pointing at the other.
        {
            **observation(OWN, f"{PREFIX}obs-link"),
            "performer": [reference(OTHER)],
            "hasMember": [{"reference": f"Observation/{PREFIX}obs-{OTHER}"}],
            "derivedFrom": [{"reference": f"Observation/{PREFIX}obs-{OTHER}"}],
        },
        # About the other, made by the own patient: in both compartments by R4.
        {**observation(OTHER, f"{PREFIX}obs-by-own"), "performer": [reference(OWN)]},
        # Of nobody, and pointing at the other.
        {
            "resourceType": "Observation",
            "id": f"{PREFIX}obs-nobody",
            "status": "final",
            "code": {"coding": [{"system": CODES, "code": CODE}]},
            "valueString": mark(OTHER),
            "performer": [reference(OTHER)],
        },
        {
            "resourceType": "Provenance",
            "id": f"{PREFIX}prov-{OTHER}",
            "target": [reference(OTHER), {"reference": f"Observation/{PREFIX}obs-link"}],
            "recorded": "2024-05-01T10:00:00Z",
            "agent": [{"who": {"display": mark(OTHER)}}],
        },
        {
            "resourceType": "Appointment",
            "id": f"{PREFIX}appointment",
            "status": "booked",
            "description": mark(OTHER),
            "participant": [
                {"actor": reference(patient), "status": "accepted"} for patient in (OWN, OTHER)
            ],
        },
        {
            "resourceType": "Group",
            "id": f"{PREFIX}mixed-group",
            "type": "person",
            "actual": True,
            "name": mark(OTHER),
            "member": [{"entity": reference(patient)} for patient in (OWN, MATE, OTHER)],
        },
        {
            "resourceType": "List",
            "id": f"{PREFIX}list",
            "status": "current",
            "mode": "working",
            "subject": reference(OWN),
            "entry": [{"item": {"reference": f"Observation/{PREFIX}obs-{OTHER}"}}],
        },
    ]


def _get(verdict: str, *targets: str) -> list[Form]:
    return [Form(target, verdict) for target in targets]


SEARCHES = [
    # Parameters that look into other resources.
    *_get(
        REFUSED,
        f"/Patient?_has:Observation:patient:code={CODE}",
        f"/Patient?_has:Group:member:_id={PROGRAM}",
        f"/Observation?patient._has:Group:member:_id={PROGRAM}",
        f"/Observation?performer:Patient._has:Observation:patient:code={CODE}",
        f"/Observation?_filter=subject%20eq%20Patient/{OTHER}",
        f"/Observation?_filter=code%20eq%20{CODE}%20or%20status%20eq%20final",
        "/Observation?_contained=true",
        "/Observation?_contained=both&_containedType=contained",
        "/Observation?_query=everybody",
        f"/Observation?_list={PREFIX}list",
        f"/Observation?_content={NAME}",
        f"/Observation?_text={NAME}",
        f"/Observation?performer:Patient.family={NAME}",
        f"/Observation?performer.family={NAME}",
        f"/Observation?has-member:Observation.value-string={NAME}",
        f"/Observation?derived-from.patient.family={NAME}",
        f"/Observation?derived-from:Observation.subject:Patient.family={NAME}",
        f"/Observation?_sort=patient.name&{_ALL}",
        f"/Observation?_sort=-performer:Patient.family&{_ALL}",
        f"/Observation?_type=Patient&{_ALL}",
        "/?_type=Patient,Observation",
        f"/?_id={OTHER}",
        f"/Patient?_method=DELETE&_id={OWN}",
        f"/Group?member=Patient/{OTHER}",
        f"/AuditEvent?patient=Patient/{OWN}",
    ),
    # Values and modifiers against the confining parameter.
    *_get(
        CONFINED,
        f"/Observation?{_ALL}",
        f"/Observation?patient=Patient/{OTHER}",
        f"/Observation?patient={OTHER}",
        f"/Observation?subject:Patient={OTHER}",
        f"/Observation?patient=Patient/{OWN}&patient=Patient/{OTHER}",
        f"/Observation?patient=Patient/{OWN},Patient/{OTHER}",
        f"/Observation?patient=Patient/{OTHER},Patient/{MATE}&patient=Patient/{OTHER}",
        f"/Observation?_id={PREFIX}obs-{OTHER}",
        f"/Observation?performer=Patient/{OTHER}",
        f"/Observation?performer=Patient/{OWN}",
        f"/Observation?patient.family={NAME}",
        f"/Observation?subject:Patient.identifier={CODES}|{OTHER}",
        f"/Observation?_tag:not=none&{_ALL}",
        f"/Observation?_lastUpdated=gt2000-01-01&{_ALL}",
        f"/Observation?status:not=draft&{_ALL}",
        f"/Observation?{_ALL}&_sort=-_id&_count=50",
        f"/Patient?_id={OTHER}",
        f"/Patient?_id={OWN},{OTHER}",
        f"/Patient?identifier={CODES}|{OTHER}",
        f"/Patient?family={NAME}",
        f"/Patient?link=Patient/{OTHER}",
        "/Patient?active:missing=true",
        f"/Appointment?patient=Patient/{OWN}",
        f"/Appointment?_id={PREFIX}appointment",
        f"/Provenance?target=Observation/{PREFIX}obs-link",
        f"/Task?patient=Patient/{OTHER}",
        f"/Device?patient=Patient/{OTHER}",
    ),
    *_get(
        EITHER,
        f"/Observation?patient:missing=true&{_ALL}",
        f"/Observation?subject:missing=true&{_ALL}",
        f"/Observation?subject:not=Patient/{OWN}",
        f"/Observation?patient:not=Patient/{OWN}",
        f"/Observation?patient:identifier={CODES}|{OTHER}",
        f"/Observation?subject:above=Patient/{OTHER}",
        f"/Observation?patient=&{_ALL}",
        f"/Observation?PATIENT=Patient/{OTHER}",
        f"/Observation?patient%00=Patient/{OTHER}",
        f"/Observation?patient=Patient/{OWN}%00,Patient/{OTHER}",
        f"/Observation?patient=Patient/{OWN}%26patient=Patient/{OTHER}",
        f"/Observation?patient=Patient/{OWN}%0d%0aX-Y:%20z",
        f"/Observation?nonsense=1&{_ALL}",
        f"/Patient?_id:not={OWN}",
        "/Patient?_id:missing=true",
        f"/Observation?_has=x&{_ALL}",
        f"/Observation?_getpages=1&{_ALL}",
        f"/Observation?_at=2024-01-01&{_ALL}",
        f"/Observation?_summary=text&{_ALL}",
        f"/Observation?{_ALL}&_elements:exclude=subject",
        f"/Observation?_summary=nonsense&{_ALL}",
        f"/Observation?_total=accurate&_summary=count&{_ALL}",
        f"/Observation?_maxresults=5&{_ALL}",
        f"/Observation?_source=x&{_ALL}",
        f"/Observation?_graph=x&{_ALL}",
        f"/Observation?_narrative=x&{_ALL}",
        f"/Observation?_expunge=true&{_ALL}",
    ),
    # Elements cut away that say whose a resource is.
    *_get(
        CONFINED,
        f"/Observation?{_ALL}&_elements=valueString",
        f"/Observation?{_ALL}&_elements=id,status",
        f"/Observation?{_ALL}&_elements=valueString&_elements=status",
        f"/Observation?{_ALL}&_summary=true",
        f"/Observation?{_ALL}&_summary=data",
        "/Patient?_elements=name",
    ),
    # What comes along.
    *_get(
        CONFINED,
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:has-member",
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:derived-from",
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:performer",
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:performer:Patient",
        f"/Observation?_id={PREFIX}obs-link&_include=*",
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:*",
        f"/Observation?_id={PREFIX}obs-link&_include=Observation:has-member"
        "&_include:iterate=Observation:subject",
        f"/Observation?_id={PREFIX}obs-link&_include:recurse=Observation:has-member",
        f"/Observation?_id={PREFIX}obs-link&_revinclude=Provenance:target",
        f"/Observation?_id={PREFIX}obs-link&_revinclude=*",
        f"/Patient?_id={OWN}&_revinclude=Observation:performer",
        f"/Patient?_id={OWN}&_revinclude=Group:member",
        f"/Patient?_id={OWN}&_revinclude=Appointment:actor",
        f"/Patient?_id={OWN}&_revinclude=AuditEvent:patient",
        f"/Patient?_id={OWN}&_revinclude=*",
        f"/List?_id={PREFIX}list&_include=List:item",
        f"/Patient/{OWN}/$everything",
        f"/Patient/{OWN}/$everything?_type=Observation,Group,Appointment,AuditEvent",
        f"/Patient/{OWN}/$everything?_id={OTHER}",
        f"/Patient/{OWN}/$everything?patient=Patient/{OTHER}",
    ),
]

READS = [
    *_get(
        REFUSED,
        f"/Patient/{OTHER}",
        f"/Patient/{OTHER}/_history/1",
        _OTHER_OBS,
        f"{_OTHER_OBS}/_history/1",
        f"{_OTHER_OBS}?_elements=valueString",
        f"{_OTHER_OBS}?_summary=text",
        f"{_OTHER_OBS}?_format=xml",
        f"{_OTHER_OBS}?_format=html/json",
        f"{_OTHER_OBS}?_format=text/html&_pretty=true",
        f"{_OTHER_OBS}?_format=json&_format=xml",
        f"/Observation/{PREFIX}obs-by-own",
        f"/Observation/{PREFIX}obs-nobody",
        f"/Appointment/{PREFIX}appointment",
        f"/Group/{PREFIX}mixed-group",
        f"/Provenance/{PREFIX}prov-{OTHER}",
        f"/Device/{PREFIX}implant-other",
        f"/AuditEvent/{PREFIX}audit-{OWN}",
        f"/Patient/{OTHER}/$everything",
        f"/Patient/{OTHER}/%24everything",
        "/Patient/$everything",
        f"/Patient/{OTHER}/$graphql?query={{id,name{{family}}}}",
        f"/Patient/{OWN}/$graphql?query={{id}}",
        "/$graphql?query={PatientList{name{family}}}",
        f"/Patient/{OTHER}/$meta",
        "/Patient/$export",
        "/$export?_type=Patient",
        f"/Group/{PROGRAM}/$export",
        f"{_OTHER_OBS}/$validate",
        f"/Observation/$lastn?patient=Patient/{OTHER}",
        f"/Patient/{OTHER}/Observation",
        f"/Patient/{OTHER}/*",
        f"/Patient/{OWN}/Observation",
        "/Observation/_history",
        "/Patient/_history",
        "/_history",
        "/Binary/1",
        f"{_OTHER_OBS}/_history",
        f"/Patient/{OTHER}/_history",
    ),
    *_get(
        CONFINED,
        f"{_OWN_OBS}?_pretty=true",
        f"{_OWN_OBS}/_history?_count=5",
    ),
    *_get(
        EITHER,
        f"{_OWN_OBS}?_elements=valueString",
        f"{_OWN_OBS}?_summary=text",
        f"{_OWN_OBS}?_format=xml",
        f"/Observation?{_ALL}&_format=xml",
        f"/Observation?{_ALL}&_format=application/fhir%2Bxml",
        f"/Observation?{_ALL}&_format=html/json",
        f"/Observation?{_ALL}&_format=application/x-turtle",
        f"/Observation?{_ALL}&_format=json&_format=xml",
        f"/Observation?{_ALL}&_pretty=true",
    ),
]

#: Spellings of addresses; each would reach `Patient/other` somewhere.
PATHS = _get(
    REFUSED,
    f"/Patient%2F{OTHER}",
    "/Patient/mx%2Dother",
    f"/%50atient/{OTHER}",
    f"/Patient/{OTHER}%00",
    f"/Patient/{OTHER}%20",
    f"/Patient/{OWN}/../{OTHER}",
    f"/Patient/{OWN}%2F..%2F{OTHER}",
    f"/Patient/{OWN}/%2e%2e/{OTHER}",
    f"/Patient/{OWN}/%2E%2E/{OTHER}",
    f"/Patient/{OWN}/..%2f{OTHER}",
    f"/Observation/../Patient/{OTHER}",
    f"/../fhir/Patient/{OTHER}",
    f"/./Patient/{OTHER}",
    f"/Patient/./{OTHER}",
    f"//Patient/{OTHER}",
    f"/Patient//{OTHER}",
    f"/Patient/{OTHER}/",
    f"/Patient/{OTHER};v=1",
    f"/Patient;x=y/{OTHER}",
    f"/Patient/{OWN};/../{OTHER}",
    f"/Patient\\{OTHER}",
    f"/Patient/{OWN}\\..\\{OTHER}",
    f"/patient/{OTHER}",
    f"/PATIENT/{OTHER}",
    f"/Patient/{OTHER}%23",
    f"/Patient/{OTHER}%3F_format=json",
    f"/Patient/{OTHER}/_history/1/",
    f"/Patient/{OTHER}/_history/%31",
    f"/Patient/{OWN}/_history/../../{OTHER}",
    f"/%2e%2e/fhir/Patient/{OTHER}",
    "/Patient/%6dx-other",
    "/Patient/%C0%AEmx-other",
    f"/Patient/{OTHER}\tx",
    "/Patient/" + "x" * 65,
)


def _form(target: str, body: str, verdict: str, kind: str = "x-www-form-urlencoded") -> Form:
    headers = {"Content-Type": f"application/{kind}"}
    return Form(target, verdict, "POST", headers, body.encode())


POSTED = [
    _form("/Observation/_search", f"patient=Patient/{OTHER}", CONFINED),
    _form(f"/Observation/_search?patient=Patient/{OTHER}", f"patient=Patient/{OWN}", CONFINED),
    _form(f"/Observation/_search?patient=Patient/{OWN}", f"patient=Patient/{OTHER}", CONFINED),
    _form(f"/Observation/_search?{_ALL}", "_elements=valueString", CONFINED),
    _form(f"/Observation/_search?_id={PREFIX}obs-link", "_include=*", CONFINED),
    _form("/Observation/_search", f"_id={PREFIX}obs-link&_revinclude=*", CONFINED),
    _form("/Observation/_search", f"_has:Group:member:_id={PROGRAM}", REFUSED),
    _form("/Observation/_search?_filter=status%20eq%20final", f"patient={OWN}", REFUSED),
    _form("/Observation/_search", f"_method=GET&patient=Patient/{OTHER}", REFUSED),
    _form("/Observation/_search", f"patient={OTHER}", REFUSED, "json"),
    _form("/Observation/_search", f"patient=Patient/{OTHER}", REFUSED, "octet-stream"),
    _form(f"/Patient/{OTHER}/_search", "", REFUSED),
    _form("/_search", "_type=Patient", REFUSED),
    _form("/", f"_type=Patient&_id={OTHER}", REFUSED),
    _form(f"/Patient/{OTHER}", "_method=GET", REFUSED),
    _form("/$graphql", '{"query":"{PatientList{id}}"}', REFUSED, "json"),
    _form(f"/Patient/{OTHER}/$everything", '{"resourceType":"Parameters"}', REFUSED, "fhir+json"),
    _form("/Patient/$everything", '{"resourceType":"Parameters"}', REFUSED, "fhir+json"),
]


def _with(name: str, value: str, target: str, verdict: str, method: str = "GET") -> Form:
    return Form(target, verdict, method, {name: value})


HEADERS = [
    *(
        _with(name, "DELETE", f"/Condition/{PREFIX}cond-{OWN}", REFUSED, method)
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
        for method in ("GET", "POST")
    ),
    _with("X-Original-URL", f"/fhir/Patient/{OTHER}", f"/Patient/{OWN}", CONFINED),
    _with("X-Rewrite-URL", f"/fhir/Patient/{OTHER}", f"/Patient/{OWN}", CONFINED),
    _with("X-Forwarded-Host", "evil.example", f"/Observation?{_ALL}&_count=1", CONFINED),
    _with("X-Forwarded-Prefix", "/evil.example", f"/Observation?{_ALL}&_count=1", CONFINED),
    _with("Forwarded", "host=evil.example", f"/Observation?{_ALL}&_count=1", CONFINED),
    _with("X-Forwarded-For", "127.0.0.1", f"/Patient/{OTHER}", REFUSED),
    _with("Prefer", "handling=lenient", f"/Observation?patien=x&{_ALL}", EITHER),
    _with("Prefer", "handling=strict", f"/Observation?{_ALL}", CONFINED),
    _with("Prefer", "respond-async", f"/Observation?{_ALL}", CONFINED),
    _with("Prefer", "respond-async", f"/Patient/{OTHER}/$everything", REFUSED),
    _with("Accept", "application/fhir+xml", f"/Observation?{_ALL}", EITHER),
    _with("Accept", "application/fhir+xml", _OTHER_OBS, REFUSED),
    _with("Accept", "text/html", f"/Observation?{_ALL}", EITHER),
    _with("If-None-Match", 'W/"999"', _OTHER_OBS, REFUSED),
    _with("If-Modified-Since", "Mon, 01 Jan 2001 00:00:00 GMT", _OTHER_OBS, REFUSED),
    _with("Range", "bytes=0-5000", _OTHER_OBS, REFUSED),
    _with("Cache-Control", "no-store, max-results=5", f"/Observation?{_ALL}", CONFINED),
]

FORMS = [*SEARCHES, *READS, *PATHS, *POSTED, *HEADERS]
