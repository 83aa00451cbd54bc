"""Where the organs of the phantom lie, as functions of patient coordinates in mm.

Coordinates are DICOM's LPS frame (PS3.3 C.7.6.2.1.1): x to the patient's left,
y to the back, z to the head; the origin is the centre of the chest. Every function
takes one axial plane at height z, with x of shape (1, columns) and y of shape
(rows, 1), and returns a boolean array (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Coordinates = npt.NDArray[np.float32]
Plane = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

#: Nominal attenuation in HU of what is drawn with one value.
AIR_HU = -1000
FAT_HU = -100
MUSCLE_HU = 50
MEDIASTINUM_HU = 20
BLOOD_HU = 45
WALL_HU = 10
CORTICAL_HU = 700
TRABECULAR_HU = 160
DISC_HU = 80
CANAL_HU = 15
STOMACH_HU = 30
TABLE_SHELL_HU = -150
TABLE_FOAM_HU = -930

LUNG_BASE_MM = -110.0
LUNG_APEX_MM = 112.0
CARINA_MM = 40.0


def ellipse(
    x: Coordinates, y: Coordinates, centre: tuple[float, float], radii: tuple[float, float]
) -> Plane:
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1.0


def ellipsoid(x: Coordinates, y: Coordinates, z: float, centre: Point, radii: Point) -> Plane:
    rest = 1.0 - ((z - centre[2]) / radii[2]) ** 2
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= rest


@dataclass(frozen=True, slots=True)
class Tube:
    """A straight tube with round ends from `start` to `end`; all in mm."""

    start: Point
    end: Point
    radius: float

    def plane(self, x: Coordinates, y: Coordinates, z: float, grow: float = 0.0) -> Plane:
        """The cut at height z of the tube with its radius grown by `grow` mm."""
        reach = self.radius + grow
        low, high = sorted((self.start[2], self.end[2]))
        if not low - reach <= z <= high + reach:
            return np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
        axis = np.subtract(self.end, self.start)
        along = x - np.float32(self.start[0])
        across = y - np.float32(self.start[1])
        up = np.float32(z - self.start[2])
        share = (along * axis[0] + across * axis[1] + up * axis[2]) / float(axis @ axis)
        share = np.clip(share, 0.0, 1.0)
        distance = (
            (along - share * axis[0]) ** 2
            + (across - share * axis[1]) ** 2
            + (up - share * axis[2]) ** 2
        )
        return np.asarray(distance <= reach * reach)


TRACHEA = Tube((0.0, 8.0, 400.0), (0.0, 8.0, CARINA_MM), 9.0)
MAIN_BRONCHI = (
    Tube((0.0, 8.0, CARINA_MM), (-42.0, 12.0, 8.0), 7.0),
    Tube((0.0, 8.0, CARINA_MM), (46.0, 14.0, 2.0), 6.0),
)
AIRWAYS = (TRACHEA, *MAIN_BRONCHI)
AIRWAY_WALL_MM = 2.0
HEART: tuple[Point, Point] = ((18.0, -22.0, -48.0), (52.0, 46.0, 56.0))
AORTA = Tube((24.0, 46.0, -400.0), (24.0, 46.0, 70.0), 12.0)
STOMACH_GAS: tuple[Point, Point] = ((62.0, -18.0, -128.0), (32.0, 26.0, 12.0))


def body(x: Coordinates, y: Coordinates) -> Plane:
    return ellipse(x, y, (0.0, 0.0), (170.0, 117.0))


def muscle(x: Coordinates, y: Coordinates) -> Plane:
    return ellipse(x, y, (0.0, 0.0), (156.0, 103.0))


def mediastinum(x: Coordinates, y: Coordinates, z: float, *, lungs_touch: bool) -> Plane:
    """The slab between the lungs.

    With `lungs_touch` it narrows towards the front above the heart and ends in an
    anterior junction about 12 mm deep, where no tissue parts the lungs.
    """
    half = np.where(y > 20.0, 34.0, 26.0)
    if lungs_touch and z > -5.0:
        half = np.minimum(half, np.maximum(0.0, 0.8 * (y + 74.0)))
    return np.asarray(np.abs(x) < half)


def lung(x: Coordinates, y: Coordinates, z: float, *, lungs_touch: bool) -> Plane:
    """Both lungs with their vessels, without heart, airways and mediastinum."""
    if not LUNG_BASE_MM <= z <= LUNG_APEX_MM:
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
    taper = 1.0
    if z > 20.0:
        taper = float(np.sqrt(max(0.0, 1.0 - ((z - 20.0) / (LUNG_APEX_MM - 20.0)) ** 2)))
    side = np.where(x > 0, 1.0, -1.0)
    centre = side * 30.0 * (1.0 - taper)
    cavity = ((x - centre) / (138.0 * max(taper, 0.02))) ** 2 + (
        y / (86.0 * max(taper, 0.02))
    ) ** 2 <= 1.0
    dome = -52.0 - (((np.abs(x) - 72.0) / 62.0) ** 2 + ((y + 8.0) / 78.0) ** 2) * 52.0
    found = cavity & (z > dome)
    found &= ~mediastinum(x, y, z, lungs_touch=lungs_touch)
    found &= ~ellipsoid(x, y, z, *HEART)
    for tube in AIRWAYS:
        found &= ~tube.plane(x, y, z, AIRWAY_WALL_MM)
    return np.asarray(found)


def vessels() -> tuple[Tube, ...]:
    """Pulmonary vessels of both lungs, 5 to 3 mm wide, from the hila outwards."""
    tubes: list[Tube] = []
    for side, depth in ((-1.0, 8.0), (1.0, 2.0)):
        hilum = (side * 40.0, 10.0, depth)
        for turn in range(7):
            angle = np.pi * (turn / 6.0 - 0.5)
            reach = (
                side * (70.0 + 35.0 * float(np.cos(angle))),
                18.0 + 30.0 * float(np.sin(2.2 * angle)),
                depth + 75.0 * float(np.sin(angle)),
            )
            tubes.append(Tube(hilum, reach, 2.5))
            for twist in (-24.0, 24.0):
                tip = (reach[0] + side * 14.0, reach[1] + twist, reach[2] + 0.6 * twist)
                tubes.append(Tube(reach, tip, 1.5))
    return tuple(tubes)


def paint_background(
    hu: npt.NDArray[np.int16], x: Coordinates, y: Coordinates, z: float, *, table_side: float
) -> None:
    """Paint everything except lungs, vessels and airways into one plane of HU.

    Args:
        hu: (rows, columns), overwritten.
        x, y, z: patient coordinates in mm.
        table_side: 1.0 when the table is behind the patient, -1.0 when in front (prone).
    """
    hu[...] = AIR_HU
    flat = np.asarray(y * table_side)
    shell = (np.abs(x) < 200.0) & (flat > 119.0) & (flat < 135.0)
    foam = (np.abs(x) < 196.0) & (flat > 122.0) & (flat < 132.0)
    hu[shell] = TABLE_SHELL_HU
    hu[foam] = TABLE_FOAM_HU
    hu[body(x, y)] = FAT_HU
    hu[muscle(x, y)] = MUSCLE_HU
    hu[ellipse(x, y, (0.0, 0.0), (144.0, 92.0))] = MEDIASTINUM_HU
    hu[ellipsoid(x, y, z, *HEART)] = BLOOD_HU
    hu[AORTA.plane(x, y, z)] = BLOOD_HU
    _paint_spine(hu, x, y, z)
    centre, radii = STOMACH_GAS
    wall = (radii[0] + 5.0, radii[1] + 5.0, radii[2] + 5.0)
    hu[ellipsoid(x, y, z, centre, wall)] = STOMACH_HU
    hu[ellipsoid(x, y, z, centre, radii)] = AIR_HU


def _paint_spine(hu: npt.NDArray[np.int16], x: Coordinates, y: Coordinates, z: float) -> None:
    """Vertebrae of 25 mm pitch: cortical shell, trabecular core, discs, canal, arch."""
    height = (z + 500.0) % 25.0
    arch = ellipse(x, y, (0.0, 88.0), (16.0, 12.0))
    if height < 4.0:
        hu[ellipse(x, y, (0.0, 60.0), (18.0, 15.0))] = DISC_HU
    else:
        hu[arch] = CORTICAL_HU
        hu[ellipse(x, y, (0.0, 60.0), (18.0, 15.0))] = CORTICAL_HU
        if 5.5 < height < 23.5:
            hu[ellipse(x, y, (0.0, 60.0), (16.0, 13.0))] = TRABECULAR_HU
    hu[ellipse(x, y, (0.0, 86.0), (9.0, 8.0))] = CANAL_HU
