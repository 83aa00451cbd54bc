"""A whole result read back from the FHIR server, as the service once gave it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from fhir_ext.errors import UnprocessableError
from fhir_ext.resources import codes
from fhir_ext.resources.imaging_study import study_instance_uid_of
from fhir_ext.resources.reading import MemberReading, component_of, read_member
from fhir_ext.results import Measurement, ModelIdentity, Refusal, ServiceResult

Json = dict[str, Any]

_SERVICE: Final = {panel: service for service, panel in codes.PANEL.items()}
_NOTE: Final = re.compile(r"[a-z-]+: found (?P<seen>.*); needed (?P<needed>.*)", re.DOTALL)


def result_of(
    panel: Json, members: Sequence[Json], device: Json, imaging_study: Json
) -> ServiceResult:
    """The result that a panel and its members stand for, with the values they have now.

    Args:
        members: in the panel's order.
        device: the Device that `panel.device` names.
        imaging_study: the ImagingStudy that `panel.derivedFrom` names.

    Returns:
        Without risks and issues, and without instances: FHIR does not name them.

    Raises:
        UnprocessableError: the panel is none of ours, or its parts do not say what they must.
    """
    try:
        name = next(
            c["code"] for c in panel["code"]["coding"] if c["system"] == codes.MEASUREMENT.url
        )
        service, key = _SERVICE[name], _identifier(panel, codes.INFERENCE_KEY)
        series = component_of(panel, codes.SERIES_INSTANCE_UID.code)["valueString"]
        measurements = tuple(_measurement(item) for item in members)
        model = model_of(device)
    except (KeyError, StopIteration, IndexError) as error:
        raise UnprocessableError("the result cannot be read back", code="not-a-review") from error
    return ServiceResult(
        service=service,
        model=model,
        inference_key=key,
        study_instance_uid=study_instance_uid_of(imaging_study) or "",
        series_instance_uid=series,
        sop_instance_uids=(),
        status="done" if any(m.value is not None for m in measurements) else "refused",
        measurements=measurements,
    )


def model_of(device: Json) -> ModelIdentity:
    """The model version that a Device of ours stands for; its review policy is not in it.

    Raises:
        KeyError, IndexError: it is none of ours.
    """
    version, settings = (item["value"] for item in device["version"][:2])
    return ModelIdentity(
        id=device["modelNumber"],
        version=version,
        title=device["deviceName"][0]["name"],
        settings_hash=settings,
    )


def sr_instance_uid_of(panel: Json) -> str | None:
    """SOP Instance UID of the SR that holds the panel's numbers; None when there is none."""
    for identifier in panel.get("identifier", []):
        if identifier.get("system") == codes.DICOM_UID:
            return str(identifier["value"]).removeprefix("urn:oid:")
    return None


def _measurement(observation: Json) -> Measurement:
    reading = read_member(observation)
    if reading is None:
        raise KeyError("code")
    if reading.value is not None:
        return Measurement(reading.name, reading.region, reading.unit, value=reading.value)
    return Measurement(
        reading.name, reading.region, reading.unit, refusal=_refusal(reading, observation)
    )


def _refusal(reading: MemberReading, observation: Json) -> Refusal:
    text = next((note["text"] for note in observation.get("note", [])), "")
    said = _NOTE.fullmatch(text)
    seen, needed = (said["seen"], said["needed"]) if said else ("", "")
    return Refusal(reading.reason or "other", seen, needed)


def _identifier(resource: Json, system: str) -> str:
    return str(next(i["value"] for i in resource["identifier"] if i["system"] == system))
