"""What all parts of a manifest have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from fhir_ext.errors import SettingsError

Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a manifest.

    Attributes:
        line: line of the file, from 1.
        field: dotted path of the field; `manifest` for the whole.
        reason: one sentence.
    """

    line: int
    field: str
    reason: str


class ManifestError(SettingsError):
    """A manifest cannot be used.

    The message has one line `file:line: field: reason` for each problem.

    Attributes:
        problems: the same, taken apart; empty when the file cannot be read at all.
    """

    default_code = "manifest-invalid"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Part(BaseModel):
    """A mapping of the manifest: unknown keys are errors, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def inconsistent(at: Location, reason: str) -> PydanticCustomError:
    """An error of a check over several fields, to be raised by a validator of the whole.

    Args:
        at: where the author of the manifest should look; `reader` turns it into a line.
        reason: one sentence.
    """
    return PydanticCustomError("inconsistent", "{reason}", {"reason": reason, "at": at})


def is_inside(text: str) -> bool:
    """Whether a text is a relative POSIX path that stays inside of a folder.

    Names with a leading dot and caches of Python are left out where a folder is hashed
    (`operations.model_registry.folder`): a manifest cannot name what nobody would look at.
    """
    path = PurePosixPath(text)
    hidden = any(part[0] == "." or part == "__pycache__" for part in path.parts)
    return bool(path.parts) and not (
        path.is_absolute() or hidden or "\\" in text or not text.isprintable()
    )


def _inside(text: str) -> str:
    if not is_inside(text):
        raise ValueError(
            "must be a path inside the model's folder, with forward slashes and no hidden names"
        )
    return PurePosixPath(text).as_posix()


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the lower bound must be below the upper")
    return bounds


KEBAB = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
#: Semantic Versioning 2.0.0 without build metadata. `\d` would be the digits of every script,
#: so that two spellings of one number were two versions.
SEMVER = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
SHA256 = r"^[0-9a-f]{64}$"
#: Ids and versions are names of folders and parts of URLs.
LONGEST_NAME = 64

Kebab = Annotated[str, Field(pattern=KEBAB, max_length=LONGEST_NAME)]
Version = Annotated[str, Field(pattern=SEMVER, max_length=LONGEST_NAME)]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=SHA256)]
Positive = Annotated[float, Field(gt=0)]
#: Relative POSIX path below the folder of the manifest.
InnerPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
#: Two numbers, the lower one first.
Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class HashedFile(Part):
    """A file beside the manifest.

    Attributes:
        file: path inside the model's folder.
        sha256: of its bytes, 64 lower-case hex digits.
    """

    file: InnerPath
    sha256: Sha256


class Code(Part):
    """A code that results are written under.

    Attributes:
        system: URI of the code system.
        code: the code.
        display: its name in that system.
    """

    system: Annotated[str, Field(pattern=r"^(https?://|urn:)\S+$")]
    code: Text
    display: Text
