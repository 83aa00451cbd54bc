"""A whole result read back from the FHIR server, as the service once gave it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from fhir_ext.errors import UnprocessableError
from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding
from fhir_ext.resources.codes.naming import probability_in, service_in
from fhir_ext.resources.imaging_study import study_instance_uid_of
from fhir_ext.resources.reading import MemberReading, component_of, read_member
from fhir_ext.results import (
    Classification,
    Detection,
    Measurement,
    ModelIdentity,
    Refusal,
    ServiceResult,
    StandardCode,
    Uncertainty,
)

Json = dict[str, Any]

#: FHIR R4 Observation.status of what a human withdrew.
_WITHDRAWN: Final = "entered-in-error"
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
        Without risks and issues, and without instances: FHIR does not name them. Places that
        were entered in error are left out.

    Raises:
        UnprocessableError: the panel is none of ours, or its parts do not say what they must.
    """
    service = service_in(panel["code"])
    try:
        key = _identifier(panel, codes.INFERENCE_KEY)
        series = component_of(panel, codes.SERIES_INSTANCE_UID.code)["valueString"]
        model = model_of(device)
        read = [(_member(item), item) for item in members]
    except (KeyError, StopIteration, IndexError, TypeError) as error:
        raise UnprocessableError("the result cannot be read back", code="not-a-review") from error
    if service is None:
        raise UnprocessableError("the panel is none of ours", code="not-a-review")
    measurements = tuple(_measurement(r, item) for r, item in read if r.kind == "measurement")
    decided = tuple(_classification(r, item) for r, item in read if r.kind == "classification")
    places = [(r, item) for r, item in read if r.kind == "detection" and r.status != _WITHDRAWN]
    segmentation = component_of(panel, codes.REFERENCED_SEGMENT.code).get("valueString")
    stands = any(m.value is not None for m in measurements) or any(
        c.chosen is not None for c in decided
    )
    return ServiceResult(
        service=service,
        model=model,
        inference_key=key,
        study_instance_uid=study_instance_uid_of(imaging_study) or "",
        series_instance_uid=series,
        sop_instance_uids=(),
        status="done" if stands or places else "refused",
        measurements=measurements,
        classifications=decided,
        detections=tuple(_detection(r, item) for r, item in places),
        notes=tuple(_notes([(r.name, item) for r, item in read], panel)),
        frame_of_reference_uid=_frame([item for _, item in places]),
        seg_instance_uid=segmentation,
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


def _member(observation: Json) -> MemberReading:
    reading = read_member(observation)
    if reading is None:
        raise KeyError("code")
    return reading


def _measurement(reading: MemberReading, observation: Json) -> Measurement:
    name = reading.name
    code = _stated(observation["code"], codes.STANDARD_MEASUREMENT.get(name))
    if reading.value is None:
        refusal = _refusal(reading, observation)
        return Measurement(name, reading.region, reading.unit, refusal=refusal, code=code)
    return Measurement(
        name,
        reading.region,
        reading.unit,
        value=reading.value,
        uncertainty=_uncertainty(observation),
        code=code,
    )


def _uncertainty(observation: Json) -> Uncertainty | None:
    half = component_of(observation, codes.MEASUREMENT_UNCERTAINTY.code).get("valueQuantity")
    if half is None:
        return None
    level = component_of(observation, codes.RESULT_PART.coding("confidence-level").code)
    if not level:
        return Uncertainty("sd", half["value"])
    return Uncertainty("interval", half["value"], level["valueQuantity"]["value"])


def _classification(reading: MemberReading, observation: Json) -> Classification:
    given = {
        probability_in(part["code"], reading.name): part["valueQuantity"]["value"]
        for part in observation.get("component", [])
        if probability_in(part["code"], reading.name)
    }
    code = _stated(observation["code"], codes.STANDARD_CLASSIFICATION.get(reading.name))
    if not reading.category:
        refusal = _refusal(reading, observation)
        return Classification(reading.name, reading.region, (), refusal=refusal, code=code)
    # What a human chose has no probabilities, so that the others are not known from here.
    categories = tuple(given) or (reading.category,)
    standard = codes.STANDARD_CATEGORY.get(reading.name, {}).get(reading.category)
    chosen = _stated(observation["valueCodeableConcept"], standard)
    return Classification(
        reading.name,
        reading.region,
        categories,
        tuple(given.values()),
        reading.category,
        code=code,
        category_codes=tuple(chosen if c == reading.category else None for c in categories)
        if chosen
        else (),
    )


def _detection(reading: MemberReading, observation: Json) -> Detection:
    x, y, z, *sizes = (
        component_of(observation, codes.RESULT_PART.coding(f"{what}-{axis}").code)["valueQuantity"][
            "value"
        ]
        for what in ("centre", "size")
        for axis in "xyz"
    )
    return Detection(
        reading.name,
        reading.region,
        reading.category,
        reading.value if reading.value is not None else 0.0,
        (x, y, z),
        (sizes[0], sizes[1], sizes[2]),
        code=_stated(observation["code"], codes.STANDARD_DETECTION.get(reading.name)),
        category_code=_stated(
            observation["valueCodeableConcept"], codes.STANDARD_DETECTION.get(reading.category)
        ),
        tracking_uid=component_of(observation, codes.TRACKING_UID.code).get("valueString", ""),
    )


def _stated(concept: Json, standard: Coding | None) -> StandardCode | None:
    """What a manifest stated: the coding that is not ours, a site's, or the one we know."""
    known = () if standard is None else ((standard.system, standard.code),)
    for coding in concept.get("coding", []):
        ours = str(coding.get("system", "")).startswith(f"{codes.CANONICAL}/")
        if not ours and (coding.get("system"), coding.get("code")) not in known:
            return StandardCode(coding["system"], coding["code"], coding.get("display", ""))
    return None


def _frame(places: Sequence[Json]) -> str:
    frames = (component_of(item, codes.FRAME_OF_REFERENCE_UID.code) for item in places)
    return next((str(frame["valueString"]) for frame in frames if frame), "")


def _notes(members: Sequence[tuple[str, Json]], panel: Json) -> list[tuple[str, str]]:
    """What was noted beside outputs; not what a reviewer or a refusal says."""
    found = [
        (name, note["text"])
        for name, item in (*members, ("", panel))
        for note in item.get("note", [])
        if "time" not in note and not _NOTE.fullmatch(note["text"])
    ]
    return list(dict.fromkeys(found))


def _refusal(reading: MemberReading, observation: Json) -> Refusal:
    text = next((note["text"] for note in observation.get("note", [])), "")
    said = _NOTE.fullmatch(text)
    seen, needed = (said["seen"], said["needed"]) if said else ("", "")
    return Refusal(reading.reason or "other", seen, needed)


def _identifier(resource: Json, system: str) -> str:
    return str(next(i["value"] for i in resource["identifier"] if i["system"] == system))
