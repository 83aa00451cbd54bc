"""The page for app developers, run as it stands: every call, in order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fhir_ext.cli.tree import Tree

PAGE = Path(__file__).parents[2] / "docs" / "apps.md"
BLOCK = re.compile(r"```bash\n(.*?)```\n<!-- expect: (.*?) -->", re.DOTALL)
MARK = "----- block"


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def test_every_call_of_the_page_says_what_to_expect() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks()) == text.count("```bash") >= 8


@pytest.fixture(scope="module")
def outputs(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("apps")
    (folder / ".run").symlink_to(tree.directory)
    script = "set -euo pipefail\n" + "".join(
        f"{code}\necho; echo '{MARK}'\n" for code, _ in blocks()
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_EXT_")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.split(MARK)


@pytest.mark.parametrize("number", range(len(blocks())))
def test_a_call_answers_what_the_page_says(outputs: list[str], number: int) -> None:
    _, expected = blocks()[number]
    assert re.search(expected, outputs[number]), outputs[number][-2000:]
