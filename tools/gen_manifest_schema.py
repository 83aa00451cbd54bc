"""Write docs/manifest.schema.json from `models.manifest`, or check that it is up to date.

python tools/gen_manifest_schema.py            write
python tools/gen_manifest_schema.py --check    exit 1 when the file differs
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from models.manifest import Manifest

TARGET = Path(__file__).parents[1] / "docs" / "manifest.schema.json"


def render() -> str:
    """The JSON Schema (2020-12) of `manifest.yaml`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://w3id.org/fhir-ext/manifest.schema.json",
        **Manifest.model_json_schema(),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only compare")
    page = render()
    if parser.parse_args().check:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
            sys.stderr.write(f"{TARGET.name} is out of date: run tools/gen_manifest_schema.py\n")
            return 1
        return 0
    TARGET.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
