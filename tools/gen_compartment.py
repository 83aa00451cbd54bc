"""Write `fhir_ext/gateway/compartment.json` from two files of HL7 FHIR R4.

    python tools/gen_compartment.py compartmentdefinition-patient.json search-parameters.json

The first is in the definitions of FHIR 4.0.1 (`CompartmentDefinition/patient`); the second
too, and in `hapi-fhir-validation-resources-r4`, below `org/hl7/fhir/r4/model/sp`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

VERSION = "4.0.1"
TARGET = Path(__file__).parents[1] / "fhir_ext" / "gateway" / "compartment.json"

#: Types that name a patient although R4 has no place for them in the compartment.
ADDED = {"Task": ["patient"], "Device": ["patient"]}

_EXPRESSION = re.compile(r"([A-Z]\w+)\.([A-Za-z.]+?)(?:\.where\(resolve\(\) is Patient\))?")


def main(compartment_file: Path, search_parameter_file: Path) -> None:
    """Read both, write the table."""
    compartment = json.loads(compartment_file.read_text("utf-8"))
    if compartment["version"] != VERSION:
        sys.exit(f"the CompartmentDefinition is of FHIR {compartment['version']}, not {VERSION}")
    parameters = _parameters(json.loads(search_parameter_file.read_text("utf-8")))
    members = {item["code"]: item["param"] for item in compartment["resource"] if "param" in item}
    table = {
        "source": "HL7 FHIR R4 4.0.1 (2019-11-01): CompartmentDefinition/patient and "
        "search-parameters; written by tools/gen_compartment.py",
        "members": {name: _entry(name, members[name], parameters) for name in sorted(members)},
        "added": {name: _entry(name, ADDED[name], parameters) for name in sorted(ADDED)},
    }
    TARGET.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _parameters(bundle: Json) -> dict[tuple[str, str], list[str]]:
    """(type, code) to the element paths it indexes, below the type."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in bundle["entry"]:
        resource = entry["resource"]
        if resource["version"] != VERSION or resource["type"] != "reference":
            continue
        for part in resource["expression"].split("|"):
            if match := _EXPRESSION.fullmatch(part.strip()):
                found.setdefault((match[1], resource["code"]), []).append(match[2])
    return found


def _entry(name: str, codes: list[str], parameters: dict[tuple[str, str], list[str]]) -> Json:
    """What the table says of one type."""
    if name == "Patient":
        confine, owner = "_id", ["id"]
    elif (name, "patient") in parameters:
        confine, owner = "patient", parameters[name, "patient"]
    else:
        # A Group is of many patients: no parameter confines it to one.
        confine, owner = (None if name == "Group" else codes[0]), parameters[name, codes[0]]
    return {
        "params": {code: parameters[name, code] for code in codes},
        "confine": confine,
        "owner": owner,
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
