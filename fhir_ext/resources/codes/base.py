"""What codes are made of: systems, codings, and our own code systems as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

CANONICAL: Final = "https://w3id.org/fhir-ext"

SCT: Final = "http://snomed.info/sct"
LN: Final = "http://loinc.org"
DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
UCUM: Final = "http://unitsofmeasure.org"
DICOM_UID: Final = "urn:dicom:uid"
HL7: Final = "http://terminology.hl7.org/CodeSystem"

#: Identifier systems of ours.
INFERENCE_KEY: Final = f"{CANONICAL}/identifier/inference-key"
MODEL_VERSION: Final = f"{CANONICAL}/identifier/model-version"

#: Coding Scheme Designator (0008,0102) of our code systems in DICOM; 99 marks it as private
#: (PS3.16 section 8.2).
PRIVATE_SCHEME: Final = "99FHIREXT"


@dataclass(frozen=True, slots=True)
class Coding:
    """A code as FHIR `Coding` writes it."""

    system: str
    code: str
    display: str

    def as_json(self) -> Json:
        return {"system": self.system, "code": self.code, "display": self.display}


def concept(*codings: Coding, text: str | None = None) -> Json:
    """CodeableConcept: several codings say the same thing, the most specific first."""
    found: Json = {}
    if codings:
        found["coding"] = [coding.as_json() for coding in codings]
    if text is not None:
        found["text"] = text
    return found


@dataclass(frozen=True, slots=True)
class LocalCode:
    """One concept of a CodeSystem of ours."""

    code: str
    display: str
    definition: str


@dataclass(frozen=True, slots=True)
class LocalSystem:
    """A CodeSystem of ours.

    Attributes:
        id: last part of the canonical URL, and id of the resource.
        title: name for people.
        description: what the codes are for.
        codes: in the order in which they are published.
        complete: False when other codes may be in use too (CodeSystem.content `fragment`).
    """

    id: str
    title: str
    description: str
    codes: tuple[LocalCode, ...]
    complete: bool = True

    @property
    def url(self) -> str:
        return f"{CANONICAL}/CodeSystem/{self.id}"

    def __contains__(self, code: object) -> bool:
        return any(item.code == code for item in self.codes)

    def coding(self, code: str) -> Coding:
        """The Coding of one of the codes.

        Raises:
            KeyError: there is no such code.
        """
        for item in self.codes:
            if item.code == code:
                return Coding(self.url, code, item.display)
        raise KeyError(code)

    def coding_or_other(self, code: str) -> Coding:
        """The Coding of a code, `other` for one that is not (yet) published."""
        return self.coding(code if code in self else "other")


def local_codes(*rows: tuple[str, str, str]) -> tuple[LocalCode, ...]:
    return tuple(LocalCode(*row) for row in rows)


#: Who makes what we write: Device.manufacturer, and Manufacturer (0008,0070) of our DICOM
#: objects, by which the archive bridge knows them as ours.
MANUFACTURER: Final = "fhir-ext"


def resource_type(name: str) -> Coding:
    """A FHIR R4 resource type as a Coding."""
    return Coding("http://hl7.org/fhir/resource-types", name, name)


def profile(name: str) -> str:
    """Canonical URL of a profile of ours."""
    return f"{CANONICAL}/StructureDefinition/{name}"
