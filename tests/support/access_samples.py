"""Accesses of every shape, as the gateway notes them."""

from __future__ import annotations

from noting import record

from fhir_ext.audit.record import AccessRecord
from fhir_ext.resources.access_event import AuditServer

SERVER = AuditServer("Device/software", "https://fhir.example.org/fhir")

SERVICE = {"subject": "svc", "client_id": "etl", "fhir_user": None, "personas": ("service",)}
NOBODY = {"subject": None, "client_id": None, "fhir_user": None, "personas": (), "patients": ()}


def _write(interaction: str, action: str, **changes: object) -> AccessRecord:
    resources = ("Observation/new",)
    values: dict[str, object] = {"target": "Observation", "resources": resources, **changes}
    return record(7, interaction=interaction, action=action, **values)


SAMPLES: dict[str, AccessRecord] = {
    "read": record(1),
    "read of no patient": record(1, target="Organization/1", patients=()),
    "read by a program": record(1, **SERVICE),
    "vread": record(1, interaction="vread"),
    "create": _write("create", "C", http_status=201),
    "create of no patient": _write("create", "C", patients=(), resources=("Organization/9",)),
    "update": _write("update", "U", target="Observation/new"),
    "conditional update": _write("update", "U", query="identifier=a%7Cb"),
    "patch": _write("patch", "U", target="Observation/new"),
    "delete": _write("delete", "D", target="Observation/new", resources=()),
    "search": record(
        2, interaction="search-type", action="E", target="Observation", query="code=1"
    ),
    "search of several": record(
        2,
        interaction="search-type",
        action="E",
        target="Observation",
        query="code=1&_include=Observation:subject",
        patients=("p2", "p1", "p3"),
    ),
    "search of nothing": record(
        2, interaction="search-type", action="E", target="Patient", query="", patients=()
    ),
    "search of all": record(2, interaction="search-system", action="E", target=None, query="_id=1"),
    "history": record(3, interaction="history-instance", target="Patient/p1"),
    "capabilities": record(3, interaction="capabilities", target=None, **NOBODY),
    "transaction": _write(
        "transaction",
        "E",
        target=None,
        resources=("Observation/1", "Observation/2"),
        patients=("p1", "p2"),
    ),
    "operation": record(
        4,
        interaction="operation",
        action="E",
        target="Patient/p1",
        operation="everything",
        query="start=2020-01-01",
    ),
    "operation of the system": record(
        4, interaction="operation", action="E", target=None, operation="risk-score", patients=()
    ),
    "operation of a type": record(
        4, interaction="operation", action="E", target="RiskAssessment", operation="risk-score"
    ),
    "refused": record(5, outcome="4", http_status=403, refusal="scope", patients=()),
    "refused search": record(
        5,
        interaction="search-type",
        action="E",
        target="Patient",
        query="name=x",
        outcome="4",
        http_status=403,
        refusal="confinement",
        patients=(),
    ),
    "no token": record(5, outcome="4", http_status=401, refusal="unauthorized", **NOBODY),
    "not found": record(5, outcome="4", http_status=404, patients=()),
    "failed": record(5, outcome="8", http_status=503, patients=()),
    "no address": record(6, network_address=None),
    "odd names": record(6, subject="a\x00b\x1f", client_id=" ", personas=("x\x07y",)),
    "nonsense": record(6, interaction="", action="E", target="a b/../c", outcome="4", patients=()),
}
