"""What gates look at: one acquisition, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from fhir_ext.dicom.mammography import Mammogram
from fhir_ext.dicom.projection import ProjectionImage
from fhir_ext.dicom.radiograph import Radiograph
from fhir_ext.dicom.volume import Acquisition, CTVolume

#: What there is to look at. `header` and `raster` (rows and columns) every subject has.
Facet = Literal["header", "raster", "stack", "segments", "image", "mammogram", "radiograph"]

#: What the subjects of each `inputs.images` have.
FACETS: Final[Mapping[str, frozenset[Facet]]] = {
    "volume": frozenset({"header", "raster", "stack"}),
    "segmented-volume": frozenset({"header", "raster", "stack", "segments"}),
    "mammograms": frozenset({"header", "raster", "image", "mammogram"}),
    "radiographs": frozenset({"header", "raster", "image", "radiograph"}),
    "segmented-radiographs": frozenset({"header", "raster", "image", "radiograph"}),
}
#: In words, for messages.
FACET_NAMES: Final[Mapping[Facet, str]] = {
    "header": "the header",
    "raster": "rows and columns",
    "stack": "a stack of slices",
    "segments": "segments of a stack",
    "image": "a projection image",
    "mammogram": "a mammogram",
    "radiograph": "a radiograph",
}

#: Mean HU of the blood in structures (by name); None where none of them can be measured.
BLOOD_POOL: Final = "blood-pool"
Quantity = Callable[[tuple[str, ...]], float | None]


@dataclass(frozen=True, slots=True)
class Subject:
    """One acquisition. The manifest was checked: a gate finds what it needs.

    Attributes:
        header: header values.
        stack: geometry, shape and issues, when there is a stack of slices.
        image: facts of a projection image, when it is one.
        quantities: what must be measured before it can be looked at, by name; called only
            when a gate asks.
    """

    header: Acquisition
    stack: CTVolume | None = None
    image: ProjectionImage | None = None
    quantities: Mapping[str, Quantity] = field(default_factory=dict)

    @classmethod
    def of_volume(
        cls, volume: CTVolume, quantities: Mapping[str, Quantity] | None = None
    ) -> Subject:
        return cls(volume.acquisition, stack=volume, quantities=quantities or {})

    @classmethod
    def of_image(cls, image: ProjectionImage) -> Subject:
        return cls(image.details, image=image)

    @property
    def volume(self) -> CTVolume:
        """The stack.

        Raises:
            LookupError: there is none; a bug, for the manifest says what is shown.
        """
        if self.stack is None:
            raise LookupError("a gate looks at a stack of slices, and there is none")
        return self.stack

    @property
    def projection(self) -> ProjectionImage:
        """The image; see `volume`."""
        if self.image is None:
            raise LookupError("a gate looks at a projection image, and there is none")
        return self.image

    @property
    def mammogram(self) -> Mammogram:
        """The mammogram; see `volume`."""
        if not isinstance(self.image, Mammogram):
            raise LookupError("a gate looks at a mammogram, and there is none")
        return self.image

    @property
    def radiograph(self) -> Radiograph:
        """The radiograph; see `volume`."""
        if not isinstance(self.image, Radiograph):
            raise LookupError("a gate looks at a radiograph, and there is none")
        return self.image

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        if self.stack is not None:
            rows, columns = self.stack.voxels.shape[1:]
            return rows, columns
        stored = self.projection.format
        return stored.rows, stored.columns
