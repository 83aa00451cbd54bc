"""The one shape in which pixels travel: a contiguous CT volume with its geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

#: What padding voxels darker than air or brighter than tissue become, in HU (PixelPaddingValue,
#: PS3.3 C.7.5.1.1.2).
PADDING_HU = -1024

#: Every code of `RejectedInstance`, with its meaning (CodeSystem `refusal-reason`).
REJECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "localizer": "The image is a localizer.",
        "truncated": "The instance ends before its pixels do.",
        "not-dicom": "The part is not a readable DICOM instance.",
        "not-an-image": "The instance has no pixel data.",
        "missing-geometry": "Position, orientation or pixel spacing is absent or unusable.",
        "too-large": "The instance is over a limit of the settings.",
        "unsupported-transfer-syntax": "The transfer syntax cannot be decoded.",
        "photometric-interpretation": "The pixels are not grey values.",
        "unsupported-pixels": "The pixels are not integers of up to 16 bits.",
        "not-hounsfield": "The header does not say how pixels become Hounsfield units.",
        "corrupt-pixels": "The pixel data do not decode to what the header says.",
        "duplicate": "The same slice came more than once.",
        "duplicate-slices": "Another slice with other pixels lies at the same place.",
        "wrong-study": "The instance belongs to another study or series than was asked for.",
    }
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a volume lies in the patient coordinate system (PS3.3 C.7.6.2.1.1).

    All vectors are in the LPS frame of DICOM, x to the patient's left, y to the
    back, z to the head, in mm.

    Attributes:
        origin: (x, y, z) of the centre of voxel [0, 0, 0].
        column_step: (x, y, z) from voxel [k, r, c] to [k, r, c + 1].
        row_step: (x, y, z) from voxel [k, r, c] to [k, r + 1, c].
        slice_step: (x, y, z) from voxel [k, r, c] to [k + 1, r, c], mean over the stack.
        frame_of_reference_uid: FrameOfReferenceUID, empty when absent.
    """

    origin: tuple[float, float, float]
    column_step: tuple[float, float, float]
    row_step: tuple[float, float, float]
    slice_step: tuple[float, float, float]
    frame_of_reference_uid: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (slice, row, column) in mm: the array's axis order."""
        z, y, x = (
            float(np.linalg.norm(np.asarray(step)))
            for step in (self.slice_step, self.row_step, self.column_step)
        )
        return z, y, x

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in mL, from the triple product of the steps."""
        steps = np.array([self.slice_step, self.row_step, self.column_step])
        return float(abs(np.linalg.det(steps))) / 1000.0


@dataclass(frozen=True, slots=True)
class GeometryIssue:
    """Something odd in a stack that a gate may refuse.

    Attributes:
        code: `gap`, `irregular-spacing`, `duplicate-slices`, `single-slice` or `gantry-tilt`
            (CodeSystem `refusal-reason`).
        detail: numbers only; no UIDs.
    """

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Header values that gates look at; None or empty where the header is silent.

    Attributes:
        modality: Modality (0008,0060).
        manufacturer: Manufacturer (0008,0070).
        convolution_kernel: ConvolutionKernel (0018,1210), values joined by `\\`.
        slice_thickness_mm: SliceThickness (0018,0050).
        kvp: KVP (0018,0060) in kV.
        contrast_agent: ContrastBolusAgent (0018,0010); None when absent or empty.
        body_part_examined: BodyPartExamined (0018,0015).
        patient_age_years: from PatientAge (0010,1010), else from birth and study date.
        image_type: ImageType (0008,0008) values.
        burned_in_annotation: BurnedInAnnotation (0028,0301).
        ecg_gated: whether Cardiac Synchronization Technique (0018,9037) or Nominal Percentage
            of Cardiac Phase (0020,9241) says so; None where both are silent.
        photometric_interpretation: PhotometricInterpretation (0028,0004).
        patient_position: PatientPosition (0018,5100), such as `HFS`.
        scanner_model: ManufacturerModelName (0008,1090).
        patient_sex: PatientSex (0010,0040).
    """

    modality: str
    manufacturer: str | None = None
    convolution_kernel: str | None = None
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    contrast_agent: str | None = None
    body_part_examined: str | None = None
    patient_age_years: float | None = None
    image_type: tuple[str, ...] = ()
    burned_in_annotation: str | None = None
    ecg_gated: bool | None = None
    photometric_interpretation: str | None = None
    patient_position: str | None = None
    scanner_model: str | None = None
    patient_sex: str | None = None


@dataclass(frozen=True, slots=True)
class CTVolume:
    """One regular stack of CT slices.

    Attributes:
        voxels: int16 array (slices, rows, columns), C-contiguous, Hounsfield units
            after rescale (PS3.3 C.7.6.16.2.9), slices in the direction of
            `geometry.slice_step`, which is the side that the cross product of row and
            column direction points to. Values beyond int16 are clipped; padding darker
            than air or brighter than tissue is PADDING_HU.
        geometry: where it lies.
        acquisition: header values for the gates.
        study_instance_uid, series_instance_uid: where it came from.
        sop_instance_uids: one per slice in slice order; for an enhanced multi-frame
            object the same UID repeated.
        issues: oddities of the stack.
        evidence: the distinct source instances as datasets without pixel data, with
            the patient, study, series and SOP common attributes that an SR or SEG
            needs to refer to them.
    """

    voxels: npt.NDArray[np.int16]
    geometry: Geometry
    acquisition: Acquisition
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    issues: tuple[GeometryIssue, ...] = ()
    evidence: tuple[Dataset, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class RejectedInstance:
    """An instance or part that is in no volume, and why.

    Attributes:
        sop_instance_uid: empty when it could not be read.
        code: a key of REJECTIONS.
    """

    sop_instance_uid: str
    code: str


@dataclass(frozen=True, slots=True)
class SeriesVolumes:
    """Everything a series held: usable stacks, largest first, and the rest with reasons."""

    volumes: tuple[CTVolume, ...]
    rejected: tuple[RejectedInstance, ...]
