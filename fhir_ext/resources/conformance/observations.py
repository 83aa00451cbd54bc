"""Profiles of Observations: panels, and what a model says by its own or a site's names."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.conformance.elements import (
    component,
    components,
    element,
    local_coding,
    pattern,
    profile,
    required,
    site_coding,
)

Json = dict[str, Any]

_CODE: Final = "Observation.code"
_PLACE: Final = (
    "One place that a model points at: its class, score, centre and size in the patient "
    "coordinate system of DICOM."
)


def _observation(name: str, title: str, description: str, *own: Json) -> Json:
    """Security label and category, and then what is its own, in R4's order."""
    return profile(
        name,
        "Observation",
        title,
        description,
        required("Observation.meta.security"),
        element("Observation.category", patternCodeableConcept=pattern(codes.CATEGORY_IMAGING)),
        *own,
    )


def _panel(name: str, title: str, description: str, *code: Json) -> Json:
    """Groups members; `code` says what it may be called."""
    return _observation(
        name,
        title,
        description,
        *code,
        required("Observation.subject", "Patient"),
        element("Observation.value[x]", max="0"),
        required("Observation.device", "Device"),
        required("Observation.hasMember", "Observation"),
        required("Observation.derivedFrom", "ImagingStudy"),
        components(),
        *component("series", codes.SERIES_INSTANCE_UID, "string"),
    )


def _service_panel(name: str) -> Json:
    """The panel of one service of ours."""
    coding = codes.MEASUREMENT.coding(name)
    return _panel(
        name,
        coding.display if coding.display.endswith("panel") else f"{coding.display}: panel",
        "Groups what one model version said of one series or study.",
        element(_CODE, patternCodeableConcept=pattern(coding)),
    )


def _member(
    name: str,
    title: str,
    description: str,
    code: tuple[Json, ...],
    value: str,
    *more: Json,
    least: int | None = None,
) -> Json:
    """One thing that a model says of a region.

    Args:
        code: what it may be called.
        value: type of the value.
        more: about its components.
        least: 1 where a value must be there; else a reason may stand for it.
    """
    minimum = {} if least is None else {"min": least}
    return _observation(
        name,
        title,
        description,
        *code,
        required("Observation.subject", "Patient"),
        element("Observation.value[x]", **minimum, type=[{"code": value}]),
        required("Observation.bodySite"),
        required("Observation.device", "Device"),
        required("Observation.derivedFrom", "ImagingStudy"),
        *more,
    )


def _detection(name: str, title: str, code: tuple[Json, ...]) -> Json:
    lengths = (f"{what}-{axis}" for what in ("centre", "size") for axis in "xyz")
    parts = [
        component(part, codes.RESULT_PART.coding(part), "Quantity") for part in ("score", *lengths)
    ]
    return _member(
        name,
        title,
        _PLACE,
        code,
        "CodeableConcept",
        components(),
        *component("tracking", codes.TRACKING_UID, "string"),
        *component("series", codes.SERIES_INSTANCE_UID, "string"),
        *(item for part in parts for item in part),
        least=1,
    )


OBSERVATION_PROFILES: Final = (
    *(_service_panel(name) for name in codes.PANEL.values()),
    _member(
        "imaging-measurement",
        "Measurement on images",
        "One number of a model in one region, or the coded reason why it is withheld.",
        local_coding(_CODE, codes.MEASUREMENT),
        "Quantity",
    ),
    _member(
        "imaging-classification",
        "Classification of images",
        "One category of a model with the probability of every category, or the coded reason why "
        "there is none.",
        local_coding(_CODE, codes.CLASSIFICATION),
        "CodeableConcept",
        *local_coding("Observation.component.code", codes.CLASSIFICATION),
        required("Observation.component.value[x]", type=[{"code": "Quantity"}]),
    ),
    _detection("imaging-detection", "Place found on images", local_coding(_CODE, codes.DETECTION)),
    _panel(
        "site-panel",
        "Panel of a model of a site",
        "Groups what one version of a site's own model said of one series or study.",
        *site_coding(_CODE, "panel"),
    ),
    _member(
        "site-measurement",
        "Measurement by a model of a site",
        "One number under a name of the site, or the coded reason why it is withheld.",
        site_coding(_CODE, "measurement"),
        "Quantity",
    ),
    _member(
        "site-classification",
        "Classification by a model of a site",
        "One category under a name of the site, or the coded reason why there is none.",
        site_coding(_CODE, "classification"),
        "CodeableConcept",
    ),
    _detection(
        "site-detection",
        "Place found by a model of a site",
        site_coding(_CODE, "detection"),
    ),
)
