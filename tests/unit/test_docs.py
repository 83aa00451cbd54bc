"""What the documentation names exists, the generated page is current, the site loads no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from prometheus_client import generate_latest
from pydantic import BaseModel

from fhir_ext.settings import Settings
from fhir_ext.telemetry import Metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "NOTICE"]
)
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}


def mentions(pattern: str) -> list[tuple[str, re.Match[str]]]:
    """(page, match) of a pattern in all pages."""
    return [
        (str(path.relative_to(ROOT)), found)
        for path, text in TEXT.items()
        for found in re.finditer(pattern, text)
    ]


def unknown(named: list[tuple[str, re.Match[str]]], known: set[str]) -> list[tuple[str, str]]:
    """(page, name) of matches whose first group is not known."""
    return [(page, match[1]) for page, match in named if match[1] not in known]


def test_the_configuration_page_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "gen_settings_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_has_a_description() -> None:
    def bare(model: type[BaseModel]) -> list[str]:
        found = []
        for name, info in model.model_fields.items():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += bare(kind)
            elif not info.description:
                found.append(f"{model.__name__}.{name}")
        return found

    assert bare(Settings) == []


def variables(model: type[BaseModel], prefix: str) -> set[str]:
    names = set()
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= variables(kind, f"{prefix}{name.upper()}__")
        else:
            names.add(f"{prefix}{name.upper()}")
    return names


def test_settings_that_pages_name_exist() -> None:
    named = mentions(r"(FHIR_EXT_[A-Z]+__[A-Z_]*[A-Z])\b")
    assert len(named) > 30
    assert unknown(named, variables(Settings, "FHIR_EXT_")) == []


#: What follows the project's name at the start of a sentence.
PROSE = {"puts"}


def test_commands_that_pages_name_exist() -> None:
    from fhir_ext.cli import app

    commands = dict(getattr(typer.main.get_command(app), "commands", {}))
    groups = {name: set(getattr(group, "commands", {})) for name, group in commands.items()}
    named = mentions(r"(?:`|\n|bin/)fhir-ext ([a-z]+)(?: ([a-z]+))?(?=[ `\n])")
    assert len(named) > 15
    assert unknown(named, {*commands, *PROSE}) == []
    # `fhir-ext patients` alone names the group.
    in_groups = [match for _, match in named if groups.get(match[1]) and match[2]]
    assert [match[0] for match in in_groups if match[2] not in groups[match[1]]] == []


def test_make_targets_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    assert targets == {"help", "demo", "test", "lint", "bench", "docs", "clean"}
    named = mentions(r"(?:`|\n)make ([a-z]+)")
    assert len(named) > 5
    assert unknown(named, targets) == []


def test_ci_runs_what_contributors_run() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make .*$", script, re.MULTILINE) == ["make lint", "make test"]


def test_metrics_that_pages_name_exist() -> None:
    page = generate_latest(Metrics().registry).decode()
    known = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    named = mentions(r"`(?:rate\()?(fhir_ext_[a-z_]+)")
    assert len(named) > 8
    assert unknown(named, known) == []
    table = TEXT[ROOT / "docs" / "telemetry.md"]
    assert [name for name in known if f"`{name}`" not in table] == []


def test_links_out_of_the_site_lead_to_files() -> None:
    """mkdocs checks links inside docs/; these are the pages around it."""
    wrong = []
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT[ROOT / name]):
            if "://" not in target and not (ROOT / target).exists():
                wrong.append((name, target))
    assert wrong == []


def test_every_decision_is_in_the_index() -> None:
    index = TEXT[ROOT / "docs" / "adr" / "index.md"]
    records = sorted(path.name for path in (ROOT / "docs" / "adr").glob("0*.md"))
    assert re.findall(r"\]\((\d{4}-[a-z-]+\.md)\)", index) == records


class Loads(HTMLParser):
    """Collects what a page makes a browser fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source"}:
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.addresses.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    loads = Loads()
    for page in pages:
        loads.feed(page.read_text(encoding="utf-8"))
    assert len(loads.addresses) > 10
    assert {address for address in loads.addresses if "//" in address} == set()
