"""Folder for what is built or downloaded once, outside the clone, keyed by content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str], None]


def cache_root() -> Path:
    """`FHIR_EXT_CACHE`, or `fhir-ext` in the user's cache folder of the platform."""
    if named := os.environ.get("FHIR_EXT_CACHE"):
        return Path(named).expanduser().resolve()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fhir-ext"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fhir-ext"


def content_key(facts: Iterable[str], files: Iterable[Path] = (), root: Path = Path()) -> str:
    """Key of something made from these: 16 hex digits.

    Args:
        facts: versions and choices, in a fixed order.
        files: sources; their names relative to `root` and their bytes count.
        root: folder of the sources.
    """
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.encode() + b"\0")
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cached(name: str, key: str) -> Path | None:
    """The folder of `install`, if it is there."""
    folder = cache_root() / name / key
    return folder if folder.is_dir() else None


def install(name: str, key: str, build: Callable[[Path], None], progress: Progress) -> Path:
    """The folder `name/key` of the cache, built by `build` if it is not there.

    `build` fills an empty folder that is renamed when complete: what is in the cache is
    whole. A second process waits for the first and then finds the folder.
    """
    if folder := cached(name, key):
        return folder
    home = cache_root() / name
    with _locked(home / f"{key}.lock", progress):
        if folder := cached(name, key):
            return folder
        # Left over by a process that was killed: we hold the lock, so nobody uses it.
        for old in home.glob(f"{key}.part-*"):
            shutil.rmtree(old)
        part = Path(tempfile.mkdtemp(prefix=f"{key}.part-", dir=home))
        part.chmod(0o755)
        try:
            build(part)
            part.rename(home / key)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return home / key


def size_mb(folder: Path) -> float:
    """Size of all files below, in 10^6 bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


@contextmanager
def _locked(file: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock; the kernel frees it when the process ends in whatever way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building the same; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
