"""What can be told of a manifest's gates before any image is seen.

Found: a rule about what the images do not have, and rules that together refuse everything.
Not found: regular expressions that no kernel matches, and what only a header would show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from models.gates.base import AllowGate, Bounded, GateBase
from models.gates.header import ContrastGate, ImageTypeGate, ModalityGate
from models.gates.projection import LateralityGate, MammographyViewGate, SpecialViewGate
from models.gates.stack import BloodPoolGate, SliceCountGate, SpacingGate
from models.gates.study import RequiredViewsGate
from models.gates.subject import FACET_NAMES, FACETS

Location = tuple[int | str, ...]
Found = Iterator[tuple[Location, str]]
#: A gate and where it stands in the manifest.
Placed = tuple[Location, GateBase]

#: Modality (0008,0060) of the images of a study.
_MODALITIES: Final = {
    "mammograms": {"MG"},
    "radiographs": {"CR", "DX"},
    "segmented-radiographs": {"CR", "DX"},
}


def contradictions(
    images: str, own: Sequence[GateBase], of_inputs: Sequence[GateBase], outputs: Sequence[str]
) -> Found:
    """Places in the manifest, and what is wrong there.

    Args:
        images: `inputs.images`.
        own: `gates`.
        of_inputs: gates that `inputs` stands for.
        outputs: names of the outputs.
    """
    placed: list[Placed] = [(("gates", index), gate) for index, gate in enumerate(own)]
    for at, gate in placed:
        yield from _misplaced(images, at, gate)
    yield from _views(placed)
    at_inputs: Location = ("inputs", "modality")
    everything = [*((at_inputs, gate) for gate in of_inputs), *placed]
    said: set[tuple[Location, str]] = set()
    for output in outputs:
        covering = [(at, gate) for at, gate in everything if gate.covers(output)]
        for found in _nothing_left(images, covering):
            if found not in said:
                said.add(found)
                yield found


def _misplaced(images: str, at: Location, gate: GateBase) -> Found:
    if gate.needs not in FACETS[images]:
        what = FACET_NAMES[gate.needs]
        yield (*at, "rule"), f"looks at {what}, which images: {images} does not have"
    if not gate.set_aside:
        return
    if "image" not in FACETS[images]:
        yield (*at, "set_aside"), f"images: {images} has nothing that could be set aside"
    elif gate.applies_to != "all":
        yield (*at, "set_aside"), "an image is set aside for all outputs or for none"


def _views(placed: Sequence[Placed]) -> Found:
    """Required views need to be known, and rules before must let them pass."""
    before: list[GateBase] = []
    for at, gate in placed:
        if isinstance(gate, RequiredViewsGate):
            for kind, rule in ((LateralityGate, "laterality"), (MammographyViewGate, None)):
                named = rule or "mammography-view"
                if not any(isinstance(earlier, kind) for earlier in before):
                    yield (*at, "rule"), f"needs a gate of rule {named} before it"
            yield from _unreachable(at, gate, before)
        if isinstance(gate, SpecialViewGate) and any(
            isinstance(earlier, RequiredViewsGate) for earlier in before
        ):
            yield (*at, "rule"), "must come before required-views"
        before.append(gate)


def _unreachable(at: Location, gate: RequiredViewsGate, before: Sequence[GateBase]) -> Found:
    for view in gate.views:
        side, _, name = view.partition("-")
        sides = [g.allow for g in before if isinstance(g, LateralityGate)]
        names = [g.allow for g in before if isinstance(g, MammographyViewGate) and g.allow]
        if any(side not in allow for allow in sides) or any(name not in allow for allow in names):
            yield (*at, "views"), f"{view} is refused before: everything is refused"


def _nothing_left(images: str, gates: Sequence[Placed]) -> Found:
    yield from _allowed(gates)
    yield from _ranges(gates)
    yield from _contrast(gates)
    yield from _image_types(gates)
    for at, gate in gates:
        if isinstance(gate, ModalityGate) and not _MODALITIES.get(images, set(gate.allow)) & set(
            gate.allow
        ):
            yield (
                at if at[0] == "inputs" else (*at, "allow"),
                f"images: {images} has none of these modalities: everything is refused",
            )


def _allowed(gates: Sequence[Placed]) -> Found:
    left: dict[str, set[str]] = {}
    for at, gate in gates:
        if not isinstance(gate, AllowGate):
            continue
        rule = _rule(gate)
        before = left.setdefault(rule, set(gate.allow))
        left[rule] = before & set(gate.allow)
        if before and not left[rule]:
            yield (*at, "allow"), f"{rule} allows {_list(before)} elsewhere: everything is refused"


def _ranges(gates: Sequence[Placed]) -> Found:
    """Bounds of one rule in several gates."""
    for lower, upper, bounds in _BOUNDS:
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        for at, gate in gates:
            found = bounds(gate)
            if found is None:
                continue
            rule = _rule(gate)
            if found[0] is not None:
                low[rule] = max(found[0], low.get(rule, found[0]))
            if found[1] is not None:
                high[rule] = min(found[1], high.get(rule, found[1]))
            if rule in low and rule in high and low[rule] > high[rule]:
                field = lower if found[0] == low[rule] else upper
                together = f"at least {low[rule]:g} and at most {high[rule]:g}"
                yield (*at, field), f"{rule} must be {together}: everything is refused"
                break


def _contrast(gates: Sequence[Placed]) -> Found:
    wanted: set[str] = set()
    for at, gate in gates:
        if isinstance(gate, ContrastGate):
            wanted.add(gate.wanted)
            if len(wanted) > 1:
                yield (*at, "rule"), "a contrast agent is wanted and not: everything is refused"
                return


def _image_types(gates: Sequence[Placed]) -> Found:
    forbidden: set[str] = set()
    required: set[str] = set()
    for at, gate in gates:
        if isinstance(gate, ImageTypeGate):
            forbidden |= set(gate.forbid)
            required |= set(gate.require)
            if both := forbidden & required:
                reason = f"{min(both)} is required and forbidden: everything is refused"
                yield (*at, "require" if set(gate.require) & both else "forbid"), reason
                return


Bounds = tuple[float | None, float | None]


def _bounded(gate: GateBase) -> Bounds | None:
    return (gate.min, gate.max) if isinstance(gate, Bounded) else None


def _counted(gate: GateBase) -> Bounds | None:
    return (gate.min, gate.max) if isinstance(gate, SliceCountGate) else None


def _spaced(gate: GateBase) -> Bounds | None:
    if not isinstance(gate, SpacingGate):
        return None
    return gate.min_between_slices, gate.max_between_slices


def _blood(gate: GateBase) -> Bounds | None:
    return (gate.min_hu, gate.max_hu) if isinstance(gate, BloodPoolGate) else None


#: Names of the fields of a lower and an upper bound, and how they are read.
_BOUNDS: Final[tuple[tuple[str, str, Callable[[GateBase], Bounds | None]], ...]] = (
    ("min", "max", _bounded),
    ("min", "max", _counted),
    ("min_between_slices", "max_between_slices", _spaced),
    ("min_hu", "max_hu", _blood),
)


def _rule(gate: Any) -> str:
    return str(gate.rule)


def _list(values: set[str]) -> str:
    return ", ".join(sorted(values))
