"""Write the conformance files: `python -m fhir_ext.resources.conformance`."""

from __future__ import annotations

from pathlib import Path

from fhir_ext.resources.conformance.definitions import files


def main(folder: Path = Path(__file__).parent) -> None:
    """Write every file, and remove those that no definition stands behind any more."""
    wanted = files()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
