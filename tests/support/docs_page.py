"""A page of the documentation, run as it stands: every call, in order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fhir_ext.cli.tree import Tree

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"```bash\n(.*?)```\n<!-- expect: (.*?) -->", re.DOTALL)
_MARK = "----- block"


@dataclass(frozen=True, slots=True)
class Page:
    """A page whose calls each say what to expect of their output."""

    path: Path

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(call, regular expression that its output matches), in order."""
        return _BLOCK.findall(self.path.read_text("utf-8"))

    @property
    def calls(self) -> int:
        """Every call, with or without an expectation."""
        return self.path.read_text("utf-8").count("```bash")

    def run(self, tree: Tree, folder: Path, timeout: float) -> list[str]:
        """Output of each call, beside the running tree as a reader would be."""
        (folder / ".run").symlink_to(tree.directory)
        script = "set -euo pipefail\n" + "".join(
            f"{code}\necho; echo '{_MARK}'\n" for code, _ in self.blocks
        )
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {n: value for n, value in os.environ.items() if not n.startswith("FHIR_EXT_")}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env={**kept, "PATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.split(_MARK)
