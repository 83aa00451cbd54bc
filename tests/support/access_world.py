"""What the access tests put into HAPI: three patients, each of whose resources has a mark.

`own` is the patient of the launch context and a member of the program, `mate` another member,
`other` nobody's business. A mark in an answer tells whose data came through.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import requests

from fhir_ext.resources.codes import MODEL_ALERT

Json = dict[str, Any]

#: Prefix of every id.
PREFIX = "mx-"
#: `own` and the program are those of the people whom the development issuer knows.
OWN, MATE, OTHER = "demo-patient", f"{PREFIX}mate", f"{PREFIX}other"
PROGRAM = "demo-screening"
PEOPLE = (OWN, MATE, OTHER)
#: What the hook of the Subscription is authorized with.
HOOK_SECRET = "Authorization: Bearer mx-hook-secret-51c7"
#: A code that all Observations have, so that one search finds them.
CODE = "mx-test-code"
CODES = "https://w3id.org/fhir-ext/test/access"
TAG = {"system": CODES, "code": "access"}
#: Text of an alert about a model, which is about nobody.
ALERT = "Alert-about-a-model-4e1d"


def mark(patient: str) -> str:
    """Text that stands in every resource about a patient."""
    return f"Marked-{patient}-9f3b"


def reference(patient: str) -> Json:
    return {"reference": f"Patient/{patient}"}


def observation(patient: str, name: str | None = None) -> Json:
    return {
        "resourceType": "Observation",
        "id": name or f"{PREFIX}obs-{patient}",
        "status": "final",
        "code": {"coding": [{"system": CODES, "code": CODE}]},
        "subject": reference(patient),
        "effectiveDateTime": "2024-05-01",
        "valueString": mark(patient),
    }


def condition(patient: str, name: str | None = None) -> Json:
    resource = {
        "resourceType": "Condition",
        "code": {"text": "cough"},
        "subject": reference(patient),
        "note": [{"text": mark(patient)}],
    }
    if name is not None:
        resource["id"] = name
    return resource


def patient_resource(patient: str) -> Json:
    return {
        "resourceType": "Patient",
        "id": patient,
        "identifier": [{"system": CODES, "value": patient}],
        "name": [{"family": mark(patient)}],
        "gender": "female",
        "birthDate": "1961-03-04",
    }


def task(patient: str) -> Json:
    return {
        "resourceType": "Task",
        "id": f"{PREFIX}task-{patient}",
        "status": "requested",
        "intent": "order",
        "description": mark(patient),
        "for": reference(patient),
        "authoredOn": "2024-05-01T10:00:00Z",
    }


def issue(patient: str | None, name: str | None = None) -> Json:
    """A DetectedIssue with the code of our alerts; without a patient it is one."""
    about = {} if patient is None else {"patient": reference(patient)}
    return {
        "resourceType": "DetectedIssue",
        "id": name or f"{PREFIX}issue-{patient}",
        "status": "final",
        "code": {"coding": [{"system": MODEL_ALERT.url, "code": "model-drift"}]},
        **about,
        "implicated": [{"reference": f"Device/{PREFIX}model"}],
        "detail": ALERT if patient is None else mark(patient),
    }


def audit_event(patient: str) -> Json:
    return {
        "resourceType": "AuditEvent",
        "id": f"{PREFIX}audit-{patient}",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110112"},
        "recorded": "2024-05-01T10:00:00Z",
        "agent": [{"requestor": True, "who": {"display": "test"}}],
        "source": {"observer": {"display": "test"}},
        "entity": [{"what": reference(patient), "description": mark(patient)}],
    }


def shared() -> list[Json]:
    """What is nobody's, or of several people."""
    return [
        {"resourceType": "Device", "id": f"{PREFIX}model", "status": "active"},
        {
            "resourceType": "Device",
            "id": f"{PREFIX}implant-own",
            "patient": reference(OWN),
            "note": [{"text": mark(OWN)}],
        },
        {
            "resourceType": "Device",
            "id": f"{PREFIX}implant-other",
            "udiCarrier": [{"deviceIdentifier": "udi-of-other"}],
            "patient": reference(OTHER),
            "note": [{"text": mark(OTHER)}],
        },
        {"resourceType": "Practitioner", "id": f"{PREFIX}doctor", "name": [{"family": "Doctor"}]},
        {
            "resourceType": "CodeSystem",
            "id": f"{PREFIX}codes",
            "url": CODES,
            "status": "active",
            "content": "complete",
            "concept": [{"code": CODE}],
        },
        {
            "resourceType": "Subscription",
            "id": f"{PREFIX}hook",
            "status": "off",
            "reason": "test",
            "criteria": "Slot?",
            "channel": {
                "type": "rest-hook",
                "endpoint": "http://127.0.0.1:9/nowhere",
                "payload": "application/fhir+json",
                "header": [HOOK_SECRET],
            },
        },
    ]


def resources() -> list[Json]:
    """Everything, tagged."""
    builders = (patient_resource, observation, task, audit_event, issue)
    found = [build(patient) for patient in PEOPLE for build in builders]
    found += [condition(patient, f"{PREFIX}cond-{patient}") for patient in PEOPLE]
    found += shared()
    # After the Device that it is about.
    found.append(issue(None, f"{PREFIX}alert"))
    for resource in found:
        resource["meta"] = {"tag": [TAG]}
    return found


class World:
    """HAPI with the test's resources in it.

    Args:
        hapi: base of HAPI itself, behind the gateway.
    """

    def __init__(self, hapi: str) -> None:
        self.hapi = hapi.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Content-Type"] = "application/fhir+json"

    @classmethod
    def prepared(cls, urls: dict[str, str], token: str) -> World:
        """The world in a running tree, once the gateway knows who is in the program.

        Args:
            urls: of the tree.
            token: of somebody who works for the program and may read Patients.
        """
        world = cls(urls["FHIR server"])
        world.put_everything()
        world.wait_for_members(urls["gateway"], token)
        return world

    def put_everything(self) -> None:
        """Write all resources, as they are at the beginning of a test."""
        entries = [
            {
                "resource": resource,
                "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"},
            }
            for resource in copy.deepcopy(resources())
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        answer = self._session.post(self.hapi, json=bundle, timeout=60)
        assert answer.status_code == 200, answer.text
        self._join_program()

    def wait_for_members(self, gateway: str, token: str) -> None:
        """Until the gateway knows the members; it remembers those of before for a while.

        Args:
            token: of somebody who works for the program.
        """
        deadline = time.monotonic() + 20
        url, headers = f"{gateway}/Patient/{MATE}", {"Authorization": f"Bearer {token}"}
        while requests.get(url, headers=headers, timeout=60).status_code != 200:
            assert time.monotonic() < deadline, "the member of the program is not seen"
            time.sleep(0.5)

    def _join_program(self) -> None:
        """Make `own` and `mate` members; others that are there stay."""
        found = self._session.get(f"{self.hapi}/Group/{PROGRAM}", timeout=60)
        group = (
            found.json()
            if found.status_code == 200
            else {"resourceType": "Group", "id": PROGRAM, "type": "person", "actual": True}
        )
        members = group.setdefault("member", [])
        known = {member["entity"]["reference"] for member in members}
        members += [
            {"entity": reference(patient)}
            for patient in (OWN, MATE)
            if f"Patient/{patient}" not in known
        ]
        self.put(group)

    def put(self, resource: Json) -> None:
        """Write one resource."""
        url = f"{self.hapi}/{resource['resourceType']}/{resource['id']}"
        answer = self._session.put(url, json=resource, timeout=60)
        assert answer.status_code in (200, 201), answer.text

    def read(self, path: str) -> Json:
        """What HAPI has."""
        answer = self._session.get(f"{self.hapi}/{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def raw(self, method: str, target: str) -> str:
        """Whatever HAPI answers to a request target, sent as it is written."""
        return self._session.request(method, self.hapi + target, timeout=60).text

    def exists(self, path: str) -> bool:
        return self._session.get(f"{self.hapi}/{path}", timeout=60).status_code == 200

    def count(self, query: str) -> int:
        """How many resources a search of HAPI finds."""
        found = self.read(f"{query}{'&' if '?' in query else '?'}_summary=count")
        return int(found["total"])
