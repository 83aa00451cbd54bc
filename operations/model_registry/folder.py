"""A model's folder, looked at from outside: the manifest, the files it names, their hashes.

Nothing here imports torch or opens a network. What is inside of a file of weights is looked
at when it is loaded (`models.runtime`); here a file that is a pickle as a whole is refused.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import yaml

from models.manifest import Manifest, ManifestError, Problem, read_manifest
from models.manifest.base import is_inside
from models.registry import MANIFEST
from operations.model_registry.usable import unusable_here

#: Read of a file at once, in bytes.
_CHUNK: Final = 1 << 20

#: First byte of a pickle of protocol 2 and later; the second is the protocol.
_PICKLE: Final = 0x80

#: Licence texts go with a model although no manifest names them.
_LICENCES: Final = ("LICENSE*", "LICENCE*", "NOTICE*")

#: Never part of a model: written by Python or by an operating system beside it.
_IGNORED: Final = frozenset({"__pycache__"})


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a manifest names.

    Attributes:
        line, field: where it does.
        file: path inside the model's folder.
        sha256: as stated; None where nothing is stated.
        hashed: whether a hash must be stated.
    """

    line: int
    field: str
    file: str
    sha256: str | None
    hashed: bool = True


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a folder.

    Attributes:
        folder: the folder.
        manifest: None when it cannot be used.
        problems: everything that is wrong, by line; empty exactly when it may be installed.
    """

    folder: Path
    manifest: Manifest | None
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, object]:
        """What is wrong, without the folder's place on this machine."""
        problems = [
            {"line": item.line, "field": item.field, "reason": item.reason}
            for item in self.problems
        ]
        return {"valid": not problems, "problems": problems}


def inspect_folder(folder: Path, max_bytes: int) -> Inspection:
    """Read a manifest and every file it names.

    Args:
        folder: of `manifest.yaml`.
        max_bytes: largest sum of the sizes of all files.
    """
    path = folder / MANIFEST
    manifest: Manifest | None = None
    problems: list[Problem] = []
    if path.is_symlink():
        return Inspection(folder, None, (Problem(1, "manifest", "is a link"),))
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        if not error.problems:
            return Inspection(folder, None, (_unreadable(path, error),))
        problems += error.problems
    if manifest is not None:
        problems += unusable_here(manifest, path)
    files = named_files(path)
    script = manifest is not None and manifest.runtime.kind == "torchscript"
    problems += _file_problems(folder, files, max_bytes, _may_hold_pickles(manifest), script)
    problems.sort(key=lambda problem: problem.line)
    return Inspection(folder, None if problems else manifest, tuple(problems))


def named_files(manifest: Path) -> tuple[NamedFile, ...]:
    """Every file that the text of a manifest names; it must be YAML without aliases."""
    root = yaml.compose(manifest.read_text("utf-8"), Loader=yaml.SafeLoader)
    return tuple(_walk(root, ())) if root is not None else ()


def installed_files(folder: Path) -> tuple[str, ...]:
    """Paths below a folder that make up its model: what is named, and texts of licences."""
    # `a/b` and `a//b` are one file.
    named = {PurePosixPath(item.file).as_posix() for item in named_files(folder / MANIFEST)}
    beside = {
        path.name
        for pattern in _LICENCES
        for path in folder.glob(pattern)
        if path.is_file() and not path.is_symlink() and path.name.isprintable()
    }
    return tuple(sorted({MANIFEST, *named, *beside}))


def digest_of(folder: Path) -> str:
    """sha256 (hex) over the names and contents of all files below a folder.

    Raises:
        OSError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for path in sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        whole.update(f"{name}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED and name[0] != "."]
        yield from (Path(root) / name for name in names if name[0] != ".")


def _unreadable(path: Path, error: ManifestError) -> Problem:
    """What the reader says of a file that it could not take apart, without the file's path."""
    text = error.message.removeprefix(f"{path}:").strip()
    line, _, reason = text.partition(": ")
    return Problem(int(line), "manifest", reason) if line.isdigit() else Problem(1, "file", text)


def _walk(node: yaml.Node, at: tuple[str, ...]) -> Iterator[NamedFile]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*at, str(index)))
    if not isinstance(node, yaml.MappingNode):
        return
    inside = {key.value: value for key, value in node.value}
    file, stated = inside.get("file"), inside.get("sha256")
    if isinstance(file, yaml.ScalarNode):
        text = stated.value if isinstance(stated, yaml.ScalarNode) else None
        line = file.start_mark.line + 1
        # A model card is text for people; nothing hangs on its bytes.
        yield NamedFile(line, ".".join((*at, "file")), file.value, text, at != ("card",))
    for key, value in inside.items():
        yield from _walk(value, (*at, key))


def _file_problems(
    folder: Path, files: tuple[NamedFile, ...], max_bytes: int, pickles: bool, script: bool
) -> Iterator[Problem]:
    left = max_bytes
    for item in files:
        if not is_inside(item.file):
            # The schema says so, with its line.
            continue
        found = folder / PurePosixPath(item.file)
        if reason := _unusable(folder, found):
            yield Problem(item.line, item.field, reason)
            continue
        left -= found.stat().st_size
        if left < 0:
            yield Problem(item.line, item.field, f"the files have more than {max_bytes} bytes")
            return
        if is_bare_pickle(found) or (not pickles and holds_pickle(found)):
            yield Problem(item.line, item.field, "is a pickle, which may hold any code")
        if script and item.field == "runtime.weights.file" and not is_torchscript(found):
            yield Problem(item.line, item.field, "is no file of torch.jit.save")
        if item.hashed and (seen := sha256_of(found)) != item.sha256:
            name = f"{item.field.removesuffix('file')}sha256"
            yield Problem(item.line, name, f"the file has sha256 {seen}")


def _unusable(folder: Path, path: Path) -> str | None:
    """Why a file cannot be read as a part of its folder."""
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except (OSError, RuntimeError):
        return "the file cannot be read"
    steps = [path, *list(path.parents)[: len(path.relative_to(folder).parts) - 1]]
    if not inside or any(step.is_symlink() for step in steps):
        return "is a link"
    if not path.is_file():
        return "is no file"
    return None if os.access(path, os.R_OK) else "the file cannot be read"


def _may_hold_pickles(manifest: Manifest | None) -> bool:
    """Whether torch's zip archives may hold a `data.pkl`, which restricted readers then read.

    Not known while the manifest is wrong, which is reason enough to refuse the folder.
    """
    return manifest is None or manifest.runtime.kind in ("torchscript", "monai-bundle")


def is_bare_pickle(path: Path) -> bool:
    """Whether a file is a pickle as a whole, of protocol 2 or later."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == _PICKLE and start[1] in range(2, 6)


def holds_pickle(path: Path) -> bool:
    """Whether a file is a zip archive with a `data.pkl`, as `torch.save` writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def is_torchscript(path: Path) -> bool:
    """Whether a file is what `torch.jit.save` writes: `torch.save` writes no code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
