"""How the names of results are coded: ours for what is shipped, a site's for what is its own.

A site may install any model under any names. A name of a shipped service that our code systems
hold is coded there. Every other name is coded under `<canonical>/CodeSystem/site-<kind>`, as
`<service>.<name>`, since two services of a site may use one word for two things. There is no
CodeSystem resource of the latter: only the site knows what its names mean. What the manifest
states as `code` stands beside either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fhir_ext.resources.codes.base import CANONICAL, Coding, LocalSystem
from fhir_ext.resources.codes.classification import (
    CATEGORIES,
    CLASSIFICATION,
    STANDARD_CATEGORY,
    STANDARD_CLASSIFICATION,
)
from fhir_ext.resources.codes.findings import ABSENT, DETECTION, PRESENT, STANDARD_DETECTION
from fhir_ext.resources.codes.local import MEASUREMENT
from fhir_ext.resources.codes.meanings import PANEL, STANDARD_MEASUREMENT
from fhir_ext.results import (
    Classification,
    Detection,
    Measurement,
    ModelIdentity,
    ServiceResult,
    StandardCode,
)

Json = dict[str, Any]

#: Kinds of the code systems of a site, of which there is no CodeSystem resource.
SITE_KINDS: Final = (
    "panel",
    "measurement",
    "classification",
    "category",
    "detection",
    "segment",
)

#: Categories of whatever may hold beside others, by their names.
_PRESENCE: Final[Mapping[str, Coding]] = {"present": PRESENT, "absent": ABSENT}

_PROBABILITY: Final = "-probability"


def site_system(kind: str) -> str:
    """URL of the code system of a site's names of one of `SITE_KINDS`."""
    return f"{CANONICAL}/CodeSystem/site-{kind}"


@dataclass(frozen=True, slots=True)
class Names:
    """Names of one kind of result.

    Attributes:
        kind: of `SITE_KINDS`.
        ours: the code system of shipped names.
        standard: standard codes of the same meaning, by name.
    """

    kind: str
    ours: LocalSystem
    standard: Mapping[str, Coding]

    def is_ours(self, service: str, name: str) -> bool:
        """Whether the name is one that we define."""
        return service in PANEL and name in self.ours

    def codings(self, service: str, name: str, stated: StandardCode | None) -> tuple[Coding, ...]:
        """Our coding or the site's, then those of standards.

        Args:
            stated: what the manifest says.
        """
        if not self.is_ours(service, name):
            return _distinct(site_coding(self.kind, service, name), _stated(stated))
        return _distinct(self.ours.coding(name), self.standard.get(name), _stated(stated))

    def name_in(self, concept: Json) -> str:
        """The name that a CodeableConcept stands for; empty when it is none of this kind."""
        for coding in concept.get("coding", []):
            if coding.get("system") == self.ours.url:
                return str(coding["code"])
            if coding.get("system") == site_system(self.kind):
                return str(coding["code"]).rpartition(".")[2]
        return ""


MEASUREMENTS: Final = Names("measurement", MEASUREMENT, STANDARD_MEASUREMENT)
CLASSIFICATIONS: Final = Names("classification", CLASSIFICATION, STANDARD_CLASSIFICATION)
DETECTIONS: Final = Names("detection", DETECTION, STANDARD_DETECTION)


def panel_coding(model: ModelIdentity, service: str) -> Coding:
    """What a panel is called; of a site's service by the title of its model."""
    if service in PANEL:
        return MEASUREMENT.coding(PANEL[service])
    return Coding(site_system("panel"), service, model.title)


def service_in(concept: Json) -> str | None:
    """The service that a panel's code stands for; None when it is none of ours."""
    for coding in concept.get("coding", []):
        if coding.get("system") == site_system("panel"):
            return str(coding["code"])
        for service, panel in PANEL.items():
            if coding.get("system") == MEASUREMENT.url and coding.get("code") == panel:
                return service
    return None


def measurement_codings(result: ServiceResult, item: Measurement) -> tuple[Coding, ...]:
    """What a number is called."""
    return MEASUREMENTS.codings(result.service, item.name, item.code)


def classification_codings(result: ServiceResult, item: Classification) -> tuple[Coding, ...]:
    """What is decided."""
    return CLASSIFICATIONS.codings(result.service, item.name, item.code)


def category_codings(
    result: ServiceResult, item: Classification, category: str
) -> tuple[Coding, ...]:
    """What a category of a classification is called.

    Raises:
        ValueError: it is none of them.
    """
    at = item.categories.index(category)
    stated = item.category_codes[at] if item.category_codes else None
    return codings_of_category(result.service, item.name, category, stated)


def codings_of_category(
    service: str, name: str, category: str, stated: StandardCode | None = None
) -> tuple[Coding, ...]:
    """What a category of the classification `name` of a service is called."""
    if service in PANEL and category in CATEGORIES.get(name, ()):
        standard = STANDARD_CATEGORY.get(name, {}).get(category)
        return _distinct(CATEGORIES[name].coding(category), standard, _stated(stated))
    site = site_coding("category", f"{service}.{name}", category)
    return _distinct(site, _PRESENCE.get(category), _stated(stated))


def category_in(concept: Json) -> str:
    """The name of a category that a CodeableConcept stands for; empty when it is none."""
    urls = {system.url for system in CATEGORIES.values()}
    for coding in concept.get("coding", []):
        if coding.get("system") in urls:
            return str(coding["code"])
        if coding.get("system") == site_system("category"):
            return str(coding["code"]).rpartition(".")[2]
    return ""


def probability_coding(result: ServiceResult, item: Classification, category: str) -> Coding:
    """What the probability of one category is called."""
    name = f"{item.name}-{category}{_PROBABILITY}"
    return CLASSIFICATIONS.codings(result.service, name, None)[0]


def probability_in(concept: Json, name: str) -> str:
    """The category of the classification `name` whose probability a code stands for."""
    coded = CLASSIFICATIONS.name_in(concept)
    if not (coded.startswith(f"{name}-") and coded.endswith(_PROBABILITY)):
        return ""
    return coded.removeprefix(f"{name}-").removesuffix(_PROBABILITY)


def detection_codings(result: ServiceResult, item: Detection) -> tuple[Coding, ...]:
    """What was looked for."""
    return DETECTIONS.codings(result.service, item.name, item.code)


def found_codings(result: ServiceResult, item: Detection) -> tuple[Coding, ...]:
    """The class of what was found."""
    if DETECTIONS.is_ours(result.service, item.category):
        return DETECTIONS.codings(result.service, item.category, item.category_code)
    site = site_coding("category", f"{result.service}.{item.name}", item.category)
    return _distinct(site, _stated(item.category_code))


def segment_codings(
    service: str, output: str, label: str, stated: StandardCode | None
) -> tuple[Coding, ...]:
    """What a segment of an output shows."""
    return _distinct(site_coding("segment", f"{service}.{output}", label), _stated(stated))


def site_coding(kind: str, service: str, name: str) -> Coding:
    """The coding of a name of a site's own."""
    return Coding(site_system(kind), f"{service}.{name}", words(name))


def words(name: str) -> str:
    """A kebab-case name for people."""
    text = name.replace("-", " ")
    return text[:1].upper() + text[1:]


def _stated(code: StandardCode | None) -> Coding | None:
    return None if code is None else Coding(code.system, code.code, code.display)


def _distinct(*codings: Coding | None) -> tuple[Coding, ...]:
    """Those that are there, one for each code; the first one's display stands."""

    def unique() -> Iterator[Coding]:
        seen = set()
        for coding in codings:
            if coding is not None and (coding.system, coding.code) not in seen:
                seen.add((coding.system, coding.code))
                yield coding

    return tuple(unique())
