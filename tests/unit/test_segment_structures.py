"""Which structure a segment is: by codes of any scheme, by label only where the code is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from analytic import FRAME, geometry_of, volume_of
from pydicom.sr import _concepts_dict as dictionary
from seg_samples import LIVER, ORGAN, SPLEEN, seg, segment

from fhir_ext.dicom.seg import CodedEntry, SegmentIdentity
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Region
from models.segment_measurements.measure import WANTED
from models.segmentation.structures import collect, structure_table

TABLE = structure_table()
SHAPE = (6, 12, 12)
GRID = geometry_of(SHAPE, (2.0, 1.0, 1.0))
LEFT = CodedEntry("SCT", "7771000", "Left")
RIGHT = CodedEntry("SCT", "24028007", "Right")
NEOPLASM = CodedEntry("SCT", "49755003", "Morphologically Altered Structure")


def named(label: str = "x", **what: Any) -> str | None:
    codes = {
        key: CodedEntry(*value) if isinstance(value, tuple) and isinstance(value[0], str) else value
        for key, value in what.items()
    }
    return TABLE.identify(SegmentIdentity(1, label, **codes))


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ({"type": LIVER}, "liver"),
        ({"type": ("SRT", "T-62000", "Liver")}, "liver"),
        ({"type": ("RADLEX", "RID58", "liver")}, "liver"),
        ({"type": ("SCT", "66794005", "L1")}, "vertebra-l1"),
        ({"type": ("RADLEX", "RID29193", "L1")}, "vertebra-l1"),
        ({"type": ("SRT", "T-42400", "Descending aorta")}, "descending-aorta"),
        ({"type": ("SCT", "64033007", "Kidney"), "type_modifiers": (LEFT,)}, "left-kidney"),
        ({"type": ("SCT", "64033007", "Kidney")}, None),
        # Both sides are not the left one.
        ({"type": ("SCT", "64033007", "Kidney"), "type_modifiers": (LEFT, RIGHT)}, None),
        ({"type": ("SCT", "39607008", "Lung"), "type_modifiers": (RIGHT, LEFT)}, "lungs"),
        ({"type": ORGAN, "region": SPLEEN}, "spleen"),
        ({"type": ("99ACME", "7", "Organ 7"), "region": SPLEEN}, "spleen"),
        ({"type": ORGAN, "label": "vertebrae_L1"}, "vertebra-l1"),
        ({"type": ORGAN, "label": "left kidney"}, None),
        ({"type": ORGAN, "label": "Kidney-Left"}, "left-kidney"),
        ({"type": None, "label": "coronary arteries"}, "coronary-arteries"),
        ({"type": ("SCT", "45341000", "Pulmonary trunk")}, "pulmonary-trunk"),
        ({"type": ("SCT", "81040000", "Pulmonary artery")}, "pulmonary-artery"),
        # A tumour in the liver is not the liver, whatever its label says.
        ({"type": ("SCT", "4147007", "Mass"), "region": LIVER, "label": "liver"}, None),
        ({"type": LIVER, "category": NEOPLASM}, None),
        ({"type": ORGAN, "category": NEOPLASM, "region": LIVER}, None),
        # A specific code that we do not know is not guessed from its label.
        ({"type": ("SCT", "39607008", "Lung"), "label": "liver"}, "lungs"),
        ({"type": ("SCT", "39607008", "Lung"), "type_modifiers": (LEFT,)}, "left-lung"),
        ({"type": ("SCT", "0", "Liver"), "label": "liver"}, None),
    ],
)  # fmt: skip
def test_names(what: dict[str, Any], name: str | None) -> None:
    assert named(**what) == name


def test_every_code_of_the_table_is_in_the_dictionary_of_dicom() -> None:
    known = {code for entry in dictionary.concepts["SCT"].values() for code in entry}
    named_twice: dict[tuple[str, str], str] = {}
    for name, structure in TABLE.structures.items():
        assert structure.sct, name
        assert structure.sct <= known, name
        for scheme, codes in (("sct", structure.sct), ("radlex", structure.radlex)):
            for code in codes:
                key = (scheme, code + (structure.side or ""))
                assert named_twice.setdefault(key, name) == name
    for group in (TABLE.generic, TABLE.not_anatomy):
        assert group.sct <= known


def test_the_table_names_everything_that_is_measured() -> None:
    from models.registry import Registry

    manifest = Registry().manifest("segment-measurements")
    for output in manifest.outputs:
        assert output.region.value in TABLE.structures
        assert output.region.value in WANTED


def images(frame: str = FRAME) -> CTVolume:
    grid = replace(GRID, frame_of_reference_uid=frame)
    return volume_of(np.zeros(SHAPE, np.int16), grid)


def drawn(low: int, high: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    found = np.zeros(SHAPE, np.uint8)
    found[1:4, low:high, low:high] = 1
    return found


def test_pieces_of_one_structure_are_united() -> None:
    both = np.stack([drawn(1, 4), drawn(6, 9)], axis=-1)
    found = collect(images(), [seg(GRID, both, segment(1), segment(2))], ["liver"])
    liver = found.found["liver"]
    assert liver.mask.sum() == both.sum()
    assert liver.box == (slice(1, 4), slice(1, 9), slice(1, 9))


def test_hand_before_program_then_the_newest() -> None:
    def one(size: int, drawn_by: str, time: str, uid: str) -> Any:
        pixels = drawn(1, 1 + size)
        made = seg(GRID, pixels, segment(1, drawn=drawn_by), instance=uid)
        return replace(made, content_time=time)

    old = one(2, "AUTOMATIC", "20260101000000", "1.2.3.1")
    new = one(3, "AUTOMATIC", "20260201000000", "1.2.3.2")
    hand = one(4, "MANUAL", "20250101000000", "1.2.3.3")
    for order in ([old, new], [new, old]):
        found = collect(images(), order, ["liver"]).found["liver"]
        assert (found.sop_instance_uid, found.mask.sum()) == ("1.2.3.2", 27)
    found = collect(images(), [new, hand, old], ["liver"]).found["liver"]
    assert (found.sop_instance_uid, found.drawn_by) == ("1.2.3.3", "MANUAL")


def test_what_is_not_known_or_usable_is_reported() -> None:
    bone = ("SCT", "272673000", "Bone")
    two = [segment(1, bone), segment(2, SPLEEN)]
    pixels = np.stack([drawn(1, 4), np.zeros(SHAPE, np.uint8)], axis=-1)
    made = seg(GRID, pixels, *two, kind="BINARY", keep_empty=True)
    found = collect(images(), [made], ["liver", "spleen"])
    assert found.unknown == (CodedEntry(*bone),)
    assert found.found == {}
    assert found.refused["spleen"].rule == "seg-empty"
    assert found.unusable is None


def test_other_frame_of_reference() -> None:
    found = collect(images("1.2.3"), [seg(GRID, drawn(1, 4))], ["liver"])
    assert found.found == {}
    assert found.unusable is not None
    assert found.unusable.rule == "seg-frame-of-reference"


def test_regions_and_structures_share_their_names() -> None:
    assert TABLE.identify(SegmentIdentity(1, "", type=CodedEntry(*LIVER))) == Region.LIVER
