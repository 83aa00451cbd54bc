"""Rules over the images of a study, and the choice of those that a model looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

from fhir_ext.dicom.projection import ProjectionImage
from fhir_ext.results import Refusal
from models.gates.base import GateBase, Words
from models.gates.subject import Facet, Subject

Image = TypeVar("Image", bound=ProjectionImage)
#: Images that a rule set aside, with its refusal.
Aside = list[tuple[Image, Refusal]]


class RequiredViewsGate(GateBase):
    """Each of these views once, such as `L-CC`; other views are set aside.

    A gate of rule `special-view` before this one may have taken a view away: then that is
    the reason why it is missing. Rules `laterality` and `mammography-view` must come before.
    """

    needs: ClassVar[Facet] = "mammogram"
    reasons: ClassVar[tuple[str, ...]] = ("missing-view", "duplicate-view", "special-view")

    rule: Literal["required-views"]
    views: Words

    def check(self, subject: Subject) -> Refusal | None:
        """A single image is never refused; `narrow` looks at all of them."""
        return None

    def narrow(self, images: Sequence[Image], aside: Aside[Image]) -> tuple[Image, ...] | Refusal:
        """The images of the required views, in the order of `views`.

        Args:
            images: what the gates before left.
            aside: what they set aside; what is not required is added.
        """
        needed = f"one each of {', '.join(self.views)}"
        found: dict[str, list[Image]] = {view: [] for view in self.views}
        for image in images:
            name = view_name(image)
            if name in found:
                found[name].append(image)
            else:
                aside.append((image, Refusal("mammography-view", "another view", needed)))
        twice = [view for view in self.views if len(found[view]) > 1]
        if twice:
            return Refusal("duplicate-view", f"several of {', '.join(twice)}", needed)
        missing = [view for view in self.views if not found[view]]
        if not missing:
            return tuple(found[view][0] for view in self.views)
        special = {
            view_name(image): refusal.seen
            for image, refusal in reversed(aside)
            if refusal.rule == "special-view"
        }
        for view in missing:
            if view in special:
                return Refusal("special-view", f"{view}: {special[view]}", needed)
        return Refusal("missing-view", f"no {', '.join(missing)}", needed)


def view_name(image: ProjectionImage) -> str:
    """`L-CC` and the like; empty parts where side or view is not stated in one way."""
    side, view = (
        values[0] if len(values) == 1 else "" for values in (image.lateralities, image.views)
    )
    return f"{side}-{view}"


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Image]):
    """The images of a study that a model looks at.

    Attributes:
        images: at least one; in the order of the required views, where there are some.
        set_aside: rule to number of images that are not looked at.
    """

    images: tuple[Image, ...]
    set_aside: Mapping[str, int]


def choose(gates: Iterable[GateBase], images: Sequence[Image]) -> Chosen[Image] | Refusal:
    """Gate all images of a study, gate after gate.

    Args:
        gates: in order.
        images: at least one.

    Returns:
        The images that are left, or the first reason why the study cannot be used.
    """
    if len({image.study_instance_uid for image in images}) > 1:
        return Refusal("wrong-study", "images of several studies", "images of one study")
    left: Sequence[Image] = images
    aside: Aside[Image] = []
    for gate in gates:
        narrowed = _narrowed(gate, left, aside)
        if isinstance(narrowed, Refusal):
            return narrowed
        left = narrowed
    return Chosen(tuple(left), Counter(refusal.rule for _, refusal in aside))


def _narrowed(
    gate: GateBase, images: Sequence[Image], aside: Aside[Image]
) -> Sequence[Image] | Refusal:
    if isinstance(gate, RequiredViewsGate):
        return gate.narrow(images, aside)
    kept: list[Image] = []
    for image in images:
        refusal = gate.check(Subject.of_image(image))
        if refusal is None:
            kept.append(image)
        elif gate.set_aside:
            aside.append((image, refusal))
        else:
            return refusal
    # Nothing is left: the reason is what took the last images away.
    return kept or aside[-1][1]
