"""AuditEvent: that somebody asked the gateway for something, and what came of it.

Shapes follow IHE BALP 1.1.4 ("RESTful activities"): one event per patient whose data were in
the answer, or one without a patient. The profile is claimed where BALP has one and the event
holds all that it asks for; BALP has none for failures, transactions, history and operations.

The query of a search is kept as it was asked. It is patient data by its nature, and stands
nowhere but here: logs never show it.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from fhir_ext.audit.record import AccessRecord
from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding, concept
from fhir_ext.resources.ids import access_event_id

Json = dict[str, Any]

#: Last part of the profile's name, by interaction.
_BALP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "read": "Read",
        "vread": "Read",
        "create": "Create",
        "update": "Update",
        "patch": "Update",
        "delete": "Delete",
        "search": "Query",
        "search-type": "Query",
        "search-system": "Query",
    }
)

#: AuditEvent.action that each of these profiles fixes.
_ACTION: Final = MappingProxyType(
    {"Read": "R", "Create": "C", "Update": "U", "Delete": "D", "Query": "E"}
)

#: Reading: data flow to the client, which is their destination.
_READING: Final = frozenset(
    {"read", "vread", "history", "history-instance", "history-type", "history-system"}
)

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_RESOURCE = re.compile(r"[A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64}")
#: `fhirUser` of SMART: relative, or at another server.
_USER = re.compile(rf"(?:https?://[\x21-\x7e]+/)?{_RESOURCE.pattern}")
#: What no FHIR string may hold (R4 datatypes, string).
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

_URI: Final = "urn:ietf:rfc:3986"


@dataclass(frozen=True, slots=True)
class AuditServer:
    """The server that was accessed, and that writes about it.

    Attributes:
        device: reference of the Device of this software, which must exist.
        base_url: public FHIR base.
    """

    device: str
    base_url: str


def access_events(record: AccessRecord, server: AuditServer) -> list[Json]:
    """The AuditEvents of one access.

    The same arguments give the same resources, under the same ids.

    Returns:
        One for each patient in the order of the ids, or a single one.
    """
    patients: list[str | None] = [*sorted(set(record.patients))] or [None]
    return [_event(record, server, patient) for patient in patients]


def without_links(event: Json, base_url: str) -> Json:
    """The same event with logical references (FHIR R4 references, 2.3.0.3) for literal ones.

    For a server that refuses references to what it does not hold: deleted since, asked for in
    vain, or kept elsewhere, as users often are. Such an event is found by
    `entity:identifier`, not by `patient`.
    """
    changed = copy.deepcopy(event)
    for agent in changed["agent"]:
        if not agent.get("who", {}).get("reference", "").startswith("Device/"):
            _unlink(agent, "who", base_url)
    for entity in changed["entity"]:
        _unlink(entity, "what", base_url)
    return changed


def _unlink(holder: Json, name: str, base_url: str) -> None:
    reference = holder.get(name, {}).get("reference")
    if reference is None:
        return
    url = reference if "://" in reference else f"{base_url}/{reference}"
    logical: Json = {"identifier": {"system": _URI, "value": url}, "display": reference}
    if _RESOURCE.fullmatch(reference):
        logical["type"] = reference.partition("/")[0]
    holder[name] = logical


def _event(record: AccessRecord, server: AuditServer, patient: str | None) -> Json:
    entities = [
        *_asked(record),
        *([_patient_entity(patient)] if patient else []),
        _request_entity(record),
    ]
    event: Json = {
        "resourceType": "AuditEvent",
        "id": access_event_id(record.request_id, patient),
        "type": codes.AUDIT_REST.as_json(),
        "action": record.action,
        "recorded": record.recorded,
        "outcome": record.outcome,
        "agent": _agents(record, server),
        "source": {
            "site": urlsplit(server.base_url).netloc,
            "observer": {"reference": server.device},
            "type": [codes.AUDIT_APPLICATION.as_json()],
        },
        "entity": entities,
    }
    if record.interaction in codes.INTERACTIONS:
        event["subtype"] = [codes.INTERACTIONS[record.interaction].as_json()]
    if record.outcome != "0":
        event["outcomeDesc"] = record.refusal or f"HTTP {record.http_status}"
    if name := _profile(record, event):
        event["meta"] = {"profile": [codes.balp_profile(f"{'Patient' if patient else ''}{name}")]}
    return event


def _profile(record: AccessRecord, event: Json) -> str | None:
    """The BALP profile that an event fulfils, without its `Patient`."""
    name = _BALP.get(record.interaction)
    if name is None or record.outcome != "0" or record.action != _ACTION[name]:
        return None
    objects = [
        entity
        for entity in event["entity"]
        if entity["type"]["code"] == codes.ENTITY_SYSTEM.code
        and ("query" in entity if name == "Query" else "what" in entity)
    ]
    systems = [e for e in event["entity"] if e["type"]["code"] == codes.ENTITY_SYSTEM.code]
    client = event["agent"][0]
    known = "who" in client and "network" in client
    return name if known and len(objects) == len(systems) == 1 else None


def _agents(record: AccessRecord, server: AuditServer) -> list[Json]:
    client_role, server_role = _roles(record)
    by_user = _has_user(record)
    roles = [{"text": _text(persona)} for persona in record.personas]
    client: Json = {"type": concept(client_role), "requestor": not by_user}
    if record.client_id:
        name = _text(record.client_id)
        # `altId` is a search parameter (`altid`); an identifier inside of `who` is not.
        client |= {"who": {"identifier": {"value": name}, "display": name}, "altId": name}
    if record.network_address:
        client["network"] = {"address": record.network_address, "type": codes.NETWORK_IP}
    if roles and not by_user:
        client["role"] = roles
    agents = [
        client,
        {
            "type": concept(server_role),
            "who": {"reference": server.device},
            "requestor": False,
            "network": {"address": server.base_url, "type": codes.NETWORK_URI},
        },
    ]
    if by_user:
        agents.append(_user(record, roles))
    return agents


def _roles(record: AccessRecord) -> tuple[Coding, Coding]:
    """What client and server are to each other, as BALP has it.

    A search counts as sending a query to the server, although the data flow back.
    """
    if record.interaction == "delete":
        return codes.APPLICATION_AGENT, codes.CUSTODIAN
    if record.interaction in _READING:
        return codes.DESTINATION_ROLE, codes.SOURCE_ROLE
    return codes.SOURCE_ROLE, codes.DESTINATION_ROLE


def _has_user(record: AccessRecord) -> bool:
    """Whether a human stands behind the client; a program's token names itself."""
    return record.subject is not None and "service" not in record.personas


def _user(record: AccessRecord, roles: list[Json]) -> Json:
    writes = record.action in ("C", "U", "D")
    subject = _text(record.subject or "")
    who: Json = {"identifier": {"value": subject}, "display": subject}
    if record.fhir_user and _USER.fullmatch(record.fhir_user):
        who["reference"] = record.fhir_user
    user: Json = {
        "type": concept(codes.PARTICIPATING_AUTHOR if writes else codes.INFORMATION_RECIPIENT),
        "who": who,
        "altId": subject,
        "requestor": True,
    }
    return {**user, "role": roles} if roles else user


def _asked(record: AccessRecord) -> list[Json]:
    """Entities of what was asked for, and of what a write made or changed."""
    if _BALP.get(record.interaction) == "Query":
        return [_query_entity(record)]
    written = [_object({"reference": item}) for item in record.resources]
    found = written or ([_object(_what(record.target))] if record.target else [])
    if record.operation:
        found = found or [_object(None)]
        found[0]["name"] = f"${_text(record.operation)}"
    if record.query:
        found.append(_query_entity(record))
    return found


def _what(target: str) -> Json:
    if _RESOURCE.fullmatch(target):
        return {"reference": target}
    shown: Json = {"display": _text(target)}
    return {**shown, "type": target} if _TYPE.fullmatch(target) else shown


def _object(what: Json | None) -> Json:
    entity: Json = {
        "type": codes.ENTITY_SYSTEM.as_json(),
        "role": codes.ROLE_RESOURCE.as_json(),
    }
    return {"what": what, **entity} if what else entity


def _query_entity(record: AccessRecord) -> Json:
    """The request below the FHIR base, as it was asked: `Observation?patient=1`."""
    asked = record.target or ""
    if record.query:
        asked = f"{asked}?{record.query}"
    return {
        "type": codes.ENTITY_SYSTEM.as_json(),
        "role": codes.ROLE_QUERY.as_json(),
        "query": base64.b64encode((asked or "?").encode()).decode(),
    }


def _patient_entity(patient: str) -> Json:
    return {
        "what": {"reference": f"Patient/{patient}"},
        "type": codes.ENTITY_PERSON.as_json(),
        "role": codes.ROLE_PATIENT.as_json(),
    }


def _request_entity(record: AccessRecord) -> Json:
    entity: Json = {
        "what": {"identifier": {"value": record.request_id}},
        "type": codes.ENTITY_REQUEST_ID.as_json(),
    }
    # A command of an operator has none.
    if record.http_status:
        status = str(record.http_status)
        entity["detail"] = [{"type": "http-status", "valueString": status}]
    return entity


def _text(value: str) -> str:
    """A value from outside as a FHIR string."""
    return _CONTROL.sub("", value).strip() or "?"
