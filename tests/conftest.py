"""Fixtures that every kind of test may ask for. Slow servers start once per run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pydicom
    from collector import Collector
    from installation import Installation
    from playwright.sync_api import Browser

    from fhir_ext.cli.tree import Tree
    from fhir_ext.phantom import PhantomPatient


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data; skips without `FHIR_EXT_REAL_DATA`, fails when it is unreadable."""
    name = os.environ.get("FHIR_EXT_REAL_DATA")
    if not name:
        pytest.skip("FHIR_EXT_REAL_DATA is not set")
    folder = Path(name)
    if not (folder / "README.md").is_file():
        pytest.fail("FHIR_EXT_REAL_DATA is set, but holds no README.md")
    return folder


@pytest.fixture(scope="session")
def dciodvfy() -> Path:
    """The DICOM validator of dicom3tools, installed when it is missing."""
    from fhir_ext.embedded.debian import ensure_programs

    program = "usr/bin/dciodvfy"
    return ensure_programs(("dicom3tools",), (program,), print).launcher(program)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. Its event loop would get into the way of other modules' own."""
    from playwright.sync_api import sync_playwright

    from fhir_ext.embedded.browser import ensure_chromium

    path = ensure_chromium(print)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(path), args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Gets the spans of the running installation."""
    from collector import running_collector

    with running_collector() as running:
        yield running


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Tree]:
    """A whole running installation: HAPI, Orthanc, serve, worker. Once per run."""
    from installation import ENVIRONMENT

    from fhir_ext.cli.tree import Tree

    running = Tree(
        tmp_path_factory.mktemp("tree"),
        lambda line: print(f"[tree] {line}"),
        environment={**ENVIRONMENT, "FHIR_EXT_TELEMETRY__OTLP_ENDPOINT": collector.endpoint},
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def hapi_base_url(tree: Tree) -> str:
    """FHIR base of the real HAPI."""
    return tree.urls["FHIR server"]


@pytest.fixture(scope="session")
def installation(tree: Tree) -> Installation:
    """The running tree with helpers around it."""
    from installation import Installation

    return Installation(tree)


@pytest.fixture(scope="session")
def small_study() -> Callable[..., list[list[pydicom.Dataset]]]:
    """Writes a coarse phantom study quickly: (patient, kernels) to series of instances."""
    from fhir_ext.phantom import PhantomSpec, build, write_study

    phantom = build(
        PhantomSpec(shape=(50, 170, 232), spacing_mm=(5.0, 1.5, 1.5), emphysema_fraction=0.1)
    )

    def write(
        patient: PhantomPatient, kernels: Sequence[str] = ("soft",)
    ) -> list[list[pydicom.Dataset]]:
        return write_study(phantom, patient, kernels)

    return write
