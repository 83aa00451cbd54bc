"""Step 1: the four standard views among the images of a study, or why there are not four.

An image that is only beside the point (a spot view, a raw image, a synthetic one) is set
aside; one that makes the answer unsure refuses the study. What is doubtful is never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict

from fhir_ext.dicom.mammography import FOR_PRESENTATION, IMPLANT_DISPLACED, Mammogram
from fhir_ext.results import Refusal

#: In the order in which the network takes them.
VIEWS: Final = ("L-CC", "R-CC", "L-MLO", "R-MLO")

#: What this service refuses beyond `models.gates.RULES` (CodeSystem `refusal-reason`).
RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wrong-study": "The images are not of one study.",
        "breast-implant": "A breast holds an implant.",
        "presentation-intent": "Only raw images are there, not those made for reading.",
        "laterality": "The side of a breast is not stated, or stated in two ways.",
        "mammography-view": "The view is not stated, or stated in two ways.",
        "special-view": "In place of a standard view there is a special one.",
        "missing-view": "One of the four standard views is missing.",
        "duplicate-view": "A standard view is there more than once.",
        "image-size": "The image is smaller than the part that the network looks at.",
        "patient-orientation": "The breast lies on the other side than the header says.",
        "blank-image": "All pixels are the same.",
    }
)

_EXPECTED: Final = "one each of L-CC, R-CC, L-MLO, R-MLO"


class ViewSettings(BaseModel):
    """Settings of the manifest for the choice of images.

    Attributes:
        max_magnification: Estimated Radiographic Magnification Factor above which a view
            counts as magnified. A breast that lies on the detector has 1.0 to 1.1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_magnification: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Images of a study.

    Attributes:
        views: the four standard views, in the order of `VIEWS`.
        set_aside: reason to number of images that were not looked at.
    """

    views: tuple[Mammogram, ...]
    set_aside: Mapping[str, int]


def select_views(images: Sequence[Mammogram], settings: ViewSettings) -> Selection | Refusal:
    """The four standard views of a study, or the first reason why it cannot be used.

    Args:
        images: 2D mammograms of one study whose image type is accepted.
        settings: of the manifest.
    """
    refused = _whole_study(images)
    if refused:
        return refused
    set_aside = Counter({"presentation-intent": 0, "special-view": 0, "mammography-view": 0})
    standard: dict[str, list[Mammogram]] = {view: [] for view in VIEWS}
    special: dict[str, str] = {}
    for image in images:
        if image.intent != FOR_PRESENTATION:
            set_aside["presentation-intent"] += 1
            continue
        name = _name(image)
        if isinstance(name, Refusal):
            return name
        reason = _special(image, settings)
        if name not in standard:
            set_aside["mammography-view"] += 1
        elif reason:
            set_aside["special-view"] += 1
            special.setdefault(name, reason)
        else:
            standard[name].append(image)
    refused = _not_one_each(standard, special, set_aside["presentation-intent"])
    if refused:
        return refused
    reasons = {reason: count for reason, count in set_aside.items() if count}
    return Selection(tuple(standard[view][0] for view in VIEWS), reasons)


def _whole_study(images: Sequence[Mammogram]) -> Refusal | None:
    """What is asked of all images before any is set aside."""
    if len({image.study_instance_uid for image in images}) > 1:
        return Refusal("wrong-study", "images of several studies", "images of one study")
    if any(image.implant or IMPLANT_DISPLACED in image.modifiers for image in images):
        return Refusal("breast-implant", "an implant is stated", "no implant")
    return None


def _name(image: Mammogram) -> str | Refusal:
    """`L-CC` and the like; the side or the view must be stated in one way only."""
    if len(image.lateralities) != 1 or image.lateralities[0] not in ("L", "R"):
        return Refusal("laterality", _stated(image.lateralities), "L or R")
    if len(image.views) != 1:
        return Refusal("mammography-view", _stated(image.views), "one view, stated in one way")
    return f"{image.lateralities[0]}-{image.views[0]}"


def _special(image: Mammogram, settings: ViewSettings) -> str:
    """Why a view is no standard one; empty when it is."""
    if image.modifiers:
        return ", ".join(image.modifiers)
    if image.magnification is not None and image.magnification > settings.max_magnification:
        return f"magnified {image.magnification:g} times"
    if any(word in image.paddle for word in ("SPOT", "MAG")):
        return "spot or magnification paddle"
    return ""


def _not_one_each(
    standard: Mapping[str, Sequence[Mammogram]], special: Mapping[str, str], raw: int
) -> Refusal | None:
    twice = [view for view in VIEWS if len(standard[view]) > 1]
    if twice:
        return Refusal("duplicate-view", f"several of {', '.join(twice)}", _EXPECTED)
    missing = [view for view in VIEWS if not standard[view]]
    if not missing:
        return None
    if raw and not any(standard.values()) and not special:
        return Refusal("presentation-intent", "only FOR PROCESSING", FOR_PRESENTATION)
    for view in missing:
        if view in special:
            return Refusal("special-view", f"{view}: {special[view]}", _EXPECTED)
    return Refusal("missing-view", f"no {', '.join(missing)}", _EXPECTED)


def _stated(values: Iterable[str]) -> str:
    """Header values for a refusal: words of DICOM only, whatever the header holds."""
    known = ("L", "R", "B", "CC", "MLO", "ML", "LM", "LMO", "FB", "SIO", "ISO", "XCCL", "XCCM")
    shown = [value if value in known else "another value" for value in values]
    return " and ".join(shown) or "not stated"
