"""A model's folder is copied to where the site's versions are: whole, checked, or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from fhir_ext.errors import ConflictError, NotFoundError, OutcomeIssue, UnprocessableError
from models.manifest import Manifest
from operations.model_registry.folder import (
    Inspection,
    digest_of,
    inspect_folder,
    installed_files,
)

#: Copies that a killed process left are deleted once they are this old (s).
_STALE: Final = 3600.0

#: Read of a file at once, in bytes.
_CHUNK: Final = 1 << 20

#: Most bytes of a manifest and of texts of licences together.
_BESIDE: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A version where the registry finds it.

    Attributes:
        manifest: what it is.
        folder: where it is.
        digest: over its files.
    """

    manifest: Manifest
    folder: Path
    digest: str


def require_usable(found: Inspection) -> Manifest:
    """The manifest of a folder that may be installed.

    Raises:
        UnprocessableError: `model-invalid`, with everything that is wrong as its issues.
    """
    if found.manifest is None:
        issues = [
            OutcomeIssue("invalid", "model-invalid", f"line {item.line}: {item.field}: {reason}")
            for item in found.problems
            for reason in [item.reason]
        ]
        text = "; ".join(issue.diagnostics for issue in issues)
        raise UnprocessableError(
            f"the folder cannot be installed: {text}", code="model-invalid", issues=issues
        )
    return found.manifest


def place(
    source: Path,
    site: Path,
    max_bytes: int,
    shipped: Callable[[str, str], bool],
    known: Callable[[str, str], str | None] = lambda _service, _version: None,
) -> Placed:
    """Copy a model's folder to `<site>/<id>/<version>`.

    The copy is made under a name that the registry does not look at, checked there, brought
    to the disk, and renamed. A version that is there with the same files is left alone.

    Args:
        source: folder of `manifest.yaml`; what the manifest does not name stays behind, but
            for texts of licences.
        max_bytes: largest sum of the sizes of all files.
        shipped: whether a service's version comes with this software.
        known: digest of a service's version as it was installed before, also where its folder
            is gone since: other files under its number would inherit its state.

    Raises:
        UnprocessableError: `model-invalid`.
        ConflictError: `model-exists`: the version is installed with other files;
            `model-changed`: the folder changed while it was copied.
    """
    manifest = require_usable(inspect_folder(source, max_bytes))
    if shipped(manifest.id, manifest.version):
        raise ConflictError("this version comes with this software", code="model-exists")
    target = site / manifest.id / manifest.version
    target.parent.mkdir(parents=True, exist_ok=True)
    with _building(target) as building:
        # No more than was looked at, with the manifest and the texts of licences.
        left = max_bytes + _BESIDE
        for name in installed_files(source):
            left -= _copy(source, name, building / name, left)
        # What counts is the copy: the source may change while it is read.
        copied = require_usable(inspect_folder(building, max_bytes))
        if copied != manifest:
            raise _changed()
        digest = digest_of(building)
        if known(manifest.id, manifest.version) not in (None, digest):
            raise _other_files()
        if target.exists():
            _require_same(target, digest)
        else:
            _sync_tree(building)
            _rename(building, target, digest)
    return Placed(manifest, target, digest)


def inbox_folder(inbox: Path, name: str) -> Path:
    """A folder of the inbox, by its name alone.

    Raises:
        NotFoundError: `model-folder`: there is none, or it is a link.
    """
    folder = inbox / name
    plain = name not in ("", ".", "..") and Path(name).name == name and "\\" not in name
    if not plain or "\0" in name or folder.is_symlink() or not folder.is_dir():
        raise NotFoundError("the inbox has no such folder", code="model-folder")
    return folder


def _require_same(target: Path, digest: str) -> None:
    if digest_of(target) != digest:
        raise _other_files()


def _other_files() -> ConflictError:
    return ConflictError(
        "this version is installed with other files; a change needs a new version",
        code="model-exists",
    )


def _rename(building: Path, target: Path, digest: str) -> None:
    try:
        building.rename(target)
    except OSError:
        # Somebody else installed it in between.
        if not target.is_dir():
            raise
        _require_same(target, digest)
    _sync(target.parent)


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A new folder beside the target that is gone at the end, unless it was renamed."""
    for old in target.parent.glob(".*"):
        if old.is_dir() and time.time() - old.stat().st_mtime > _STALE:
            shutil.rmtree(old, ignore_errors=True)
    folder = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(folder: Path, name: str, target: Path, limit: int) -> int:
    """Copy one file of a folder; returns its size.

    Raises:
        ConflictError: `model-changed`: it is a link or no file by now, or too large.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with _open_inside(folder, name) as read, target.open("xb") as write:
        while chunk := read.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise _changed()
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    return size


def _open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a file below a folder; no step of the way is a link, whoever put one there since.

    Raises:
        ConflictError: `model-changed`.
    """
    step = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        *parents, last = PurePosixPath(name).parts
        for part in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            below = os.open(part, flags, dir_fd=step)
            os.close(step)
            step = below
        # A pipe would wait for somebody who writes.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(last, flags, dir_fd=step), "rb")
    except OSError as error:
        raise _changed() from error
    finally:
        os.close(step)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _changed()
    return file


def _changed() -> ConflictError:
    return ConflictError("the folder changed while it was copied", code="model-changed")


def _sync_tree(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        _sync(Path(root))


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
