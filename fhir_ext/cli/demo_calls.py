"""The demo's second half: an app asks for a risk score, and a radiologist corrects a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
from rich.table import Table

from fhir_ext.cli.demo_studies import DemoCase
from fhir_ext.cli.parts import Parts
from fhir_ext.cli.watching import within
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.issuer.flows import login
from fhir_ext.resources.codes import LN, TASK_TYPE, UCUM
from fhir_ext.resources.ids import imaging_study_id

Json = dict[str, Any]
Say = Callable[[str], None]

APP, PROGRAM = "demo-app", "demo-screening"

#: What the demo puts into the chart: LOINC, value, UCUM unit. Cholesterol in the unit that
#: laboratories outside of the United States use.
CHART = (
    ("2093-3", 5.2, "mmol/L"),
    ("2085-9", 45.0, "mg/dL"),
    ("8480-6", 148.0, "mm[Hg]"),
    ("39156-5", 27.5, "kg/m2"),
    ("98979-8", 88.0, "mL/min/{1.73_m2}"),
)

#: What the app gives, because no chart says that something is not there.
GIVEN = {"smoker": False, "diabetes": False, "bp-treated": True, "statin": False}

#: What it gives besides for a patient of whom the archive's headers do not say it.
UNSAID: dict[str, Json] = {
    "age": {"valueQuantity": {"value": 60, "unit": "years", "system": UCUM, "code": "a"}},
    "sex": {"valueCode": "female"},
}

#: The reviewer's value (%) in place of the machine's low attenuation area.
HUMAN_VALUE = 4.5

#: Longest wait (s) for what follows a review: the SR, the AuditEvents.
PATIENCE = 60.0


@dataclass(slots=True)
class Calls:
    """What was called and seen.

    Attributes:
        rows: (who, call, answer), in order.
        inputs: (input, value, where from) of the risk score.
        trail: (what, where) that the review left behind.
        problems: what was not as it should be.
    """

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    trail: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: object, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def as_json(self) -> Json:
        return {
            "calls": [list(row) for row in self.rows],
            "inputs": [list(row) for row in self.inputs],
            "trail": [list(row) for row in self.trail],
        }

    def tables(self) -> Iterator[Table]:
        """For the terminal."""
        calls = Table("who", "call", "answer", title="Calls through the gateway, with tokens")
        for row in self.rows:
            calls.add_row(*row)
        yield calls
        inputs = Table("input", "value", "where from", title="What the risk score was made of")
        for row in self.inputs:
            inputs.add_row(*row)
        yield inputs
        trail = Table("what the review left behind", "where", title="The trail of the review")
        for what in self.trail:
            trail.add_row(*what)
        yield trail


class Caller:
    """Somebody with a token."""

    def __init__(self, gateway: str, issuer: str, persona: str, scope: str) -> None:
        self.persona, self.gateway = persona, gateway
        self.token = str(login(issuer, APP, persona, scope)["access_token"])

    def call(
        self, method: str, path: str, body: Json | None = None, **headers: str
    ) -> requests.Response:
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        if body is not None:
            sent["Content-Type"] = "application/fhir+json"
        data = json.dumps(body) if body is not None else None
        return requests.request(method, self.gateway + path, data=data, headers=sent, timeout=30)


def show_calls(
    urls: dict[str, str],
    parts: Parts,
    archive: DicomWebClient,
    cases: Sequence[DemoCase],
    say: Say,
) -> Calls:
    """Play an app and a radiologist, each with a token of its own.

    Args:
        urls: of the running tree.
    """
    calls = Calls()
    study = parts.fhir.read("ImagingStudy", imaging_study_id(cases[0].study_instance_uid))
    patient = study["subject"]["reference"].removeprefix("Patient/")
    _prepare(parts, patient)
    say("an app with a token asks for a risk score; the same with a scope too few")
    _risk_score(calls, urls, parts.fhir.read("Patient", patient))
    say("a radiologist corrects one number of the model")
    _review(calls, urls, archive, cases[0], patient)
    return calls


def _prepare(parts: Parts, patient: str) -> None:
    """A program with the patient in it, a reader with a name, and something in the chart."""
    member = {"entity": {"reference": f"Patient/{patient}"}}
    parts.fhir.put(
        {
            "resourceType": "Group",
            "id": PROGRAM,
            "type": "person",
            "actual": True,
            "member": [member],
        }
    )
    parts.fhir.put(
        {
            "resourceType": "Practitioner",
            "id": "demo-radiologist",
            "name": [{"family": "Oyama", "given": ["Yuki"]}],
        }
    )
    for code, value, unit in CHART:
        parts.fhir.put(
            {
                "resourceType": "Observation",
                "id": f"demo-{code}",
                "status": "final",
                "code": {"coding": [{"system": LN, "code": code}]},
                "subject": {"reference": f"Patient/{patient}"},
                "effectiveDateTime": datetime.now(UTC).date().isoformat(),
                "valueQuantity": {"value": value, "unit": unit, "system": UCUM, "code": unit},
            }
        )


def _risk_score(calls: Calls, urls: dict[str, str], patient: Json) -> None:
    path = f"/Patient/{patient['id']}/$risk-score"
    values: dict[str, Json] = {name: {"valueBoolean": value} for name, value in GIVEN.items()}
    if "birthDate" not in patient:
        values["age"] = UNSAID["age"]
    if patient.get("gender") not in ("female", "male"):
        values["sex"] = UNSAID["sex"]
    given = [
        {
            "name": "input",
            "part": [{"name": "name", "valueCode": name}, {"name": "value", **value}],
        }
        for name, value in values.items()
    ]
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "model", "valueCode": "prevent"}, *given],
    }
    app = Caller(urls["gateway"], urls["issuer"], "clinician", "user/*.rs")
    asked = app.call("POST", path, body)
    answer = asked.json()
    calls.expect(asked.status_code == 200, f"$risk-score answered {asked.status_code}")
    percents = [item.get("probabilityDecimal") for item in answer.get("prediction", [])]
    words = ", ".join(
        f"{item['outcome']['coding'][0]['display']} {item['probabilityDecimal']} %"
        for item in answer.get("prediction", [])
    )
    calls.expect(percents and all(percents), "$risk-score gave no probability")
    calls.rows.append(("clinician, user/*.rs", f"POST {path}", f"{asked.status_code}: {words}"))
    for item in answer.get("extension", []):
        calls.inputs.append(_input_row(item))
    narrow = Caller(urls["gateway"], urls["issuer"], "clinician", "user/Observation.rs")
    refused = narrow.call("POST", path, body)
    told = refused.json()["issue"][0]
    calls.expect(refused.status_code == 403, "a scope too few was not refused")
    calls.rows.append(
        (
            "clinician, user/Observation.rs",
            f"POST {path}",
            f"{refused.status_code}: {told['diagnostics']}",
        )
    )


def _input_row(extension: Json) -> tuple[str, str, str]:
    parts = {item["url"]: item for item in extension["extension"]}
    value = next((v for k, v in parts["value"].items() if k.startswith("value")), "")
    shown = f"{value['value']} {value['code']}" if isinstance(value, dict) else str(value)
    reference = parts.get("reference", {}).get("valueReference", {}).get("reference")
    source = parts["source"]["valueCode"]
    return parts["name"]["valueCode"], shown, reference or f"given by {source}"


def _review(
    calls: Calls,
    urls: dict[str, str],
    archive: DicomWebClient,
    case: DemoCase,
    patient: str,
) -> None:
    reader = Caller(
        urls["gateway"],
        urls["issuer"],
        "radiologist",
        "user/Task.rus user/Observation.rs user/Provenance.rs",
    )
    found = _worklist(reader, patient)
    if found is None:
        calls.problems.append("the worklist has no result to review")
        return
    task, target = found
    machine = target["valueQuantity"]["value"]
    tag = f'W/"{task["meta"]["versionId"]}"'
    path = f"/Task/{task['id']}/$review"
    decided = reader.call("POST", path, _decision(target["id"]), **{"If-Match": tag})
    calls.expect(decided.status_code == 200, f"$review answered {decided.status_code}")
    if decided.status_code != 200:
        return
    calls.rows.append(
        (
            "radiologist",
            f"POST {path}",
            f"200: modify, low attenuation {machine} % becomes {HUMAN_VALUE} %",
        )
    )
    again = reader.call("POST", path, _decision(target["id"], 9.0), **{"If-Match": tag})
    code = again.json()["issue"][0]["details"]["coding"][0]["code"]
    calls.expect(again.status_code == 409, "a second, different decision was not refused")
    calls.rows.append(("radiologist, decides otherwise", f"POST {path}", f"409: {code}"))
    _show_trail(calls, reader, target["id"], machine)
    _show_archive(calls, reader, archive, case, task["id"])
    _show_audit(calls, urls, patient)


def _worklist(reader: Caller, patient: str) -> tuple[Json, Json] | None:
    """An open review of the patient, and its low attenuation area of both lungs."""
    code = f"{TASK_TYPE.url}|review-ai-result"
    search = f"/Task?patient=Patient/{patient}&status=requested&code={code}"
    for entry in reader.call("GET", search).json().get("entry", []):
        task = entry["resource"]
        panel = reader.call("GET", f"/{task['focus']['reference']}").json()
        for member in panel.get("hasMember", []):
            observation = reader.call("GET", f"/{member['reference']}").json()
            codes = {item.get("code") for item in observation["code"]["coding"]}
            # The first one in the panel speaks of both lungs.
            if "laa-950" in codes and "valueQuantity" in observation:
                return task, observation
    return None


def _decision(target: str, value: float = HUMAN_VALUE) -> Json:
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "outcome", "valueCode": "modify"},
            {"name": "reason", "valueCodeableConcept": {"text": "airways counted as lung"}},
            {
                "name": "change",
                "part": [
                    {"name": "target", "valueReference": {"reference": f"Observation/{target}"}},
                    {
                        "name": "value",
                        "valueQuantity": {"value": value, "system": UCUM, "code": "%"},
                    },
                ],
            },
        ],
    }


def _show_trail(calls: Calls, reader: Caller, target: str, machine: float) -> None:
    changed = reader.call("GET", f"/Observation/{target}").json()
    shown = changed.get("valueQuantity", {}).get("value")
    calls.expect(
        (changed.get("status"), shown) == ("amended", HUMAN_VALUE), "the number was not amended"
    )
    calls.trail.append(
        (f"{changed.get('status')}, {shown} %: the human's value", f"GET Observation/{target}")
    )
    before = reader.call("GET", f"/Observation/{target}/_history/1").json()
    calls.expect(before.get("valueQuantity", {}).get("value") == machine, "no earlier version")
    calls.trail.append(
        (
            f"{before.get('status')}, {machine} %: the machine's value",
            f"GET Observation/{target}/_history/1",
        )
    )
    search = f"/Provenance?target=Observation/{target}"
    entries = reader.call("GET", search).json().get("entry", [])
    agents = [
        agent["type"]["coding"][0]["code"]
        for entry in entries
        for agent in entry["resource"]["agent"]
    ]
    calls.expect("verifier" in agents, "no Provenance of the review")
    calls.trail.append(
        (f"{len(entries)} Provenances: who made it, who verified it", f"GET {search[1:]}")
    )


def _show_archive(
    calls: Calls, reader: Caller, archive: DicomWebClient, case: DemoCase, task_id: str
) -> None:
    def stored() -> bool:
        task = reader.call("GET", f"/Task/{task_id}").json()
        return bool(task["businessStatus"]["coding"][0]["code"] == "done")

    calls.expect(within(PATIENCE, stored), "the corrected SR did not reach the archive")
    count = sum(
        series.instance_count
        for series in archive.list_series(case.study_instance_uid)
        if series.modality == "SR"
    )
    calls.trail.append((f"{count} SRs in the study, one a verified successor", "the archive"))


def _show_audit(calls: Calls, urls: dict[str, str], patient: str) -> None:
    auditor = Caller(urls["gateway"], urls["issuer"], "auditor", "user/AuditEvent.rs")
    search = f"/AuditEvent?patient=Patient/{patient}&_summary=count"

    def total() -> int:
        return int(auditor.call("GET", search).json().get("total", 0))

    calls.expect(within(PATIENCE, lambda: total() > 0), "no AuditEvent of the patient")
    calls.trail.append((f"{total()} AuditEvents of this patient", f"GET {search[1:]}"))
    seen = auditor.call("GET", f"/Patient/{patient}")
    calls.expect(seen.status_code == 403, "the auditor saw a patient")
    calls.rows.append(
        ("auditor", f"GET /Patient/{patient}", f"403: {seen.json()['issue'][0]['diagnostics']}")
    )
