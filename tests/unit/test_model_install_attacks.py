"""Folders that change while they are installed, and versions that come back as others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from registry_samples import LUNG, OPERATOR, Desk, lung_folder, lung_manifest, write_model

from fhir_ext.errors import ConflictError
from fhir_ext.settings import Settings
from models.lifecycle import State
from models.registry import NotInstalledError
from models.runtime.host import Host
from operations.model_registry import install
from operations.model_registry.folder import installed_files
from subscriptions.models import WorkerModels

SECRET = "the key of the machine"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def card_folder(tmp_path: Path, name: str = "card.md") -> Path:
    """A folder with a page that the manifest names without a hash."""
    folder = write_model(tmp_path / "m", lung_manifest("1.1.0", card={"file": name}))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("# Card")
    (folder / "LICENSE").write_text("free")
    return folder


def exchange(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Have something happen after a folder was looked at and before it is copied."""

    def listed(folder: Path) -> tuple[str, ...]:
        names = installed_files(folder)
        change(folder)
        return names

    monkeypatch.setattr(install, "installed_files", listed)


def link(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        secret = folder.parent / "secret"
        secret.write_text(SECRET)
        (folder / name).unlink()
        (folder / name).symlink_to(secret)

    return change


def linked_folder(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "card.md").write_text(SECRET)
    shutil.rmtree(folder / "docs")
    (folder / "docs").symlink_to(elsewhere)


def pipe(folder: Path) -> None:
    (folder / "card.md").unlink()
    os.mkfifo(folder / "card.md")


def grown(folder: Path) -> None:
    os.truncate(folder / "LICENSE", 1 << 40)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("card.md", link("card.md")),
        ("card.md", link("LICENSE")),
        ("docs/card.md", linked_folder),
        ("card.md", pipe),
        ("card.md", grown),
    ],
)
def test_what_is_exchanged_before_the_copy_is_not_installed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None]
) -> None:
    exchange(monkeypatch, change)
    with pytest.raises(ConflictError) as caught:
        desk.service.install(card_folder(desk.tmp_path, name), OPERATOR)
    assert caught.value.code == "model-changed"
    assert desk.service.versions() == []
    assert list((desk.settings.folder / LUNG).iterdir()) == []


def test_one_file_with_two_spellings_is_copied_once(desk: Desk) -> None:
    folder = card_folder(desk.tmp_path, "docs/card.md")
    (folder / "manifest.yaml").write_text(
        (folder / "manifest.yaml").read_text().replace("docs/card.md", "./docs//card.md")
    )
    assert desk.service.install(folder, OPERATOR).version == "1.1.0"


@pytest.mark.parametrize("state", [State.ACTIVE, State.RECALLED])
def test_other_files_do_not_inherit_the_state_of_a_version_whose_folder_is_gone(
    desk: Desk, state: State
) -> None:
    desk.tested("1.1.0")
    if state is State.ACTIVE:
        desk.service.activate(LUNG, "1.1.0", OPERATOR)
    else:
        desk.service.recall(LUNG, "1.1.0", "wrong numbers", OPERATOR)
    target = desk.settings.folder / LUNG / "1.1.0"
    shutil.rmtree(target)
    other = lung_folder(desk.tmp_path / "other", "1.1.0", title="Another")
    with pytest.raises(ConflictError) as caught:
        desk.service.install(other, OPERATOR)
    assert caught.value.code == "model-exists"
    assert not target.exists()
    # The files that were there may come back, to where they stood.
    again = desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    assert (again.state, target.is_dir()) == (state, True)


def test_a_manifest_that_is_exchanged_after_the_test_is_not_run(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    desk.service.activate(LUNG, version, OPERATOR)
    settings = Settings.model_validate(
        {
            "intake": {"hook_secret": "s" * 40, "hook_url": "http://127.0.0.1:9/hooks"},
            "models": {"folder": desk.settings.folder, "inbox": desk.settings.inbox},
        }
    )

    def worker() -> WorkerModels:
        queue: Any = desk.queue
        fhir: Any = SimpleNamespace(find=lambda *_: None)
        return WorkerModels.build(settings, desk.repository, queue, Host(), fhir)

    worker().registry.load(LUNG, version)
    path = desk.settings.folder / LUNG / version / "manifest.yaml"
    text = path.read_text("utf-8")
    other = lung_manifest(version, thresholds={"low_attenuation_hu": -800})
    write_model(path.parent, {**other, "gates": []})
    with pytest.raises(NotInstalledError) as caught:
        worker().registry.load(LUNG, version)
    assert caught.value.code == "model-files-changed"
    path.write_text(text, "utf-8")
    worker().registry.load(LUNG, version)
