"""Parts of profiles: modest differentials on R4 4.0.1."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources.codes import CANONICAL, Coding, LocalSystem, naming
from fhir_ext.resources.codes import profile as profile_url

Json = dict[str, Any]

R4: Final = "http://hl7.org/fhir/StructureDefinition"


def profile(name: str, base: str, title: str, description: str, *elements: Json) -> Json:
    """StructureDefinition of a constraint on a resource of R4."""
    return {
        "resourceType": "StructureDefinition",
        "id": f"fhir-ext-{name}",
        "url": profile_url(name),
        "name": "FhirExt" + "".join(part.capitalize() for part in name.split("-")),
        "title": title,
        "description": description,
        "fhirVersion": "4.0.1",
        "kind": "resource",
        "abstract": False,
        "type": base,
        "baseDefinition": f"{R4}/{base}",
        "derivation": "constraint",
        "differential": {"element": [{"id": base, "path": base}, *elements]},
    }


def element(path: str, **rules: Any) -> Json:
    """One element, as the rules say."""
    return {"id": path, "path": path, **rules}


def required(path: str, *targets: str, **rules: Any) -> Json:
    """One element that must be there; `targets` are what a reference may lead to."""
    found = element(path, min=1, **rules)
    if targets:
        found["type"] = [
            {"code": "Reference", "targetProfile": [f"{R4}/{target}" for target in targets]}
        ]
    return found


def pattern(coding: Coding) -> Json:
    """A CodeableConcept that has at least this coding."""
    return {"coding": [{"system": coding.system, "code": coding.code}]}


def bound(system: LocalSystem) -> Json:
    """Binding to all codes of a system of ours."""
    return {"strength": "required", "valueSet": f"{CANONICAL}/ValueSet/{system.id}"}


def sliced(by: str, path: str) -> Json:
    """Open slicing by the value or pattern of a child."""
    return {"discriminator": [{"type": by, "path": path}], "rules": "open"}


def local_coding(path: str, system: LocalSystem) -> tuple[Json, ...]:
    """One coding must be ours; others may say the same in other words.

    The binding sits on the coding: bound as a whole, a concept with a further coding in a
    system that the validator does not know is refused.
    """
    return _one_coding(path, "local", system.url, binding=bound(system))


def site_coding(path: str, kind: str) -> tuple[Json, ...]:
    """One coding must be in a site's own system, whose codes nobody but the site defines."""
    code = {"id": f"{path}.coding:site.code", "path": f"{path}.coding.code", "min": 1}
    return (*_one_coding(path, "site", naming.site_system(kind)), code)


def _one_coding(path: str, name: str, system: str, **rules: Any) -> tuple[Json, ...]:
    coding, one = f"{path}.coding", f"{path}.coding:{name}"
    return (
        {"id": coding, "path": coding, "slicing": sliced("value", "system"), "min": 1},
        {"id": one, "path": coding, "sliceName": name, "min": 1, "max": "1", **rules},
        {"id": f"{one}.system", "path": f"{coding}.system", "min": 1, "fixedUri": system},
    )


def components() -> Json:
    """`Observation.component`, told apart by code; before each `component`."""
    return element("Observation.component", min=1, slicing=sliced("pattern", "code"))


def component(name: str, coding: Coding, value: str) -> tuple[Json, ...]:
    """A component that must be there."""
    path = "Observation.component"
    one = f"{path}:{name}"
    return (
        {"id": one, "path": path, "sliceName": name, "min": 1, "max": "1"},
        {
            "id": f"{one}.code",
            "path": f"{path}.code",
            "patternCodeableConcept": pattern(coding),
        },
        {
            "id": f"{one}.value[x]",
            "path": f"{path}.value[x]",
            "min": 1,
            "type": [{"code": value}],
        },
    )
