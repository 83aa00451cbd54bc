"""Profile of classifications."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.conformance.profiles import (
    _element,
    _local_coding,
    _observation,
    _profile,
    _required,
)

Json = dict[str, Any]

CLASSIFICATION: Final = _profile(
    "imaging-classification",
    "Observation",
    "Classification of images",
    "One category of a model with the probability of every category, or the coded reason why "
    "there is none.",
    *_observation(
        *_local_coding("Observation.code", codes.CLASSIFICATION),
        _required("Observation.subject", "Patient"),
        _element("Observation.value[x]", type=[{"code": "CodeableConcept"}]),
        _required("Observation.bodySite"),
        _required("Observation.device", "Device"),
        _required("Observation.derivedFrom", "ImagingStudy"),
        *_local_coding("Observation.component.code", codes.CLASSIFICATION),
        _required("Observation.component.value[x]", type=[{"code": "Quantity"}]),
    ),
)

CLASSIFICATION_PROFILES: Final = (CLASSIFICATION,)
