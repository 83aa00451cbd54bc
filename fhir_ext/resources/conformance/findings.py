"""Profiles of places that services find, and of everything that a site names itself."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding
from fhir_ext.resources.conformance.profiles import (
    _element,
    _local_coding,
    _observation,
    _pattern,
    _profile,
    _required,
    panel_profile,
    site_coding,
)

Json = dict[str, Any]


def _part(name: str, coding: Coding, value: str) -> tuple[Json, ...]:
    """A component that must be there."""
    path = "Observation.component"
    return (
        {"id": f"{path}:{name}", "path": path, "sliceName": name, "min": 1, "max": "1"},
        {
            "id": f"{path}:{name}.code",
            "path": f"{path}.code",
            "patternCodeableConcept": _pattern(coding),
        },
        {
            "id": f"{path}:{name}.value[x]",
            "path": f"{path}.value[x]",
            "min": 1,
            "type": [{"code": value}],
        },
    )


def _detection(name: str, title: str, code: tuple[Json, ...]) -> Json:
    lengths = (f"{what}-{axis}" for what in ("centre", "size") for axis in "xyz")
    return _profile(
        name,
        "Observation",
        title,
        "One place that a model points at: its class, score, centre and size in the patient "
        "coordinate system of DICOM.",
        *_observation(
            *code,
            _required("Observation.subject", "Patient"),
            _required("Observation.value[x]", type=[{"code": "CodeableConcept"}]),
            _required("Observation.bodySite"),
            _required("Observation.device", "Device"),
            _required("Observation.derivedFrom", "ImagingStudy"),
            _element(
                "Observation.component",
                min=1,
                slicing={
                    "discriminator": [{"type": "pattern", "path": "code"}],
                    "rules": "open",
                },
            ),
            *_part("tracking", codes.TRACKING_UID, "string"),
            *_part("series", codes.SERIES_INSTANCE_UID, "string"),
            *_part("score", codes.RESULT_PART.coding("score"), "Quantity"),
            *(
                element
                for length in lengths
                for element in _part(length, codes.RESULT_PART.coding(length), "Quantity")
            ),
        ),
    )


def _member(name: str, title: str, description: str, kind: str, value: str) -> Json:
    """What a site calls by its own names."""
    return _profile(
        name,
        "Observation",
        title,
        description,
        *_observation(
            *site_coding("Observation.code", kind),
            _required("Observation.subject", "Patient"),
            _element("Observation.value[x]", type=[{"code": value}]),
            _required("Observation.bodySite"),
            _required("Observation.device", "Device"),
            _required("Observation.derivedFrom", "ImagingStudy"),
        ),
    )


FINDING_PROFILES: Final = (
    _detection(
        "imaging-detection",
        "Place found on images",
        _local_coding("Observation.code", codes.DETECTION),
    ),
    _detection(
        "site-detection",
        "Place found by a model of a site",
        site_coding("Observation.code", "detection"),
    ),
    panel_profile(
        "site-panel",
        "Panel of a model of a site",
        "Groups what one version of a site's own model said of one series or study.",
        *site_coding("Observation.code", "panel"),
    ),
    _member(
        "site-measurement",
        "Measurement by a model of a site",
        "One number under a name of the site, or the coded reason why it is withheld.",
        "measurement",
        "Quantity",
    ),
    _member(
        "site-classification",
        "Classification by a model of a site",
        "One category under a name of the site, or the coded reason why there is none.",
        "classification",
        "CodeableConcept",
    ),
)
