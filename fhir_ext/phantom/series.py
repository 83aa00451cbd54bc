"""Write a phantom as classic CT Image Storage series (PS3.3 A.3)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from fhir_ext.dicom.volume import Geometry
from fhir_ext.phantom.anatomy import KERNELS, KernelName, Phantom
from fhir_ext.phantom.orientation import OrientationName, orient

_NAMESPACE = uuid.UUID("5f1c7a52-8d0e-5b7a-9a41-3c6d2f90b7e1")
#: Stored value 0 is -1024 HU, so that 12 unsigned bits hold -1024 to 3071 HU.
RESCALE_INTERCEPT = -1024
#: The gates of density services go by the manufacturer's kernel names.
MANUFACTURER = "SIEMENS"


@dataclass(frozen=True, slots=True)
class PhantomPatient:
    """Who and when the written study claims to show.

    Attributes:
        patient_id: PatientID (0010,0020).
        issuer: IssuerOfPatientID (0010,0021).
        name: PatientName (0010,0010).
        sex: PatientSex (0010,0040).
        birth_date, study_date: DICOM DA; study_time: DICOM TM.
        accession_number: AccessionNumber (0008,0050), may be empty.
    """

    patient_id: str = "PHANTOM-1"
    issuer: str = "FHIR-EXT-DEMO"
    name: str = "Phantom^Chest"
    sex: str = "O"
    birth_date: str = "19600101"
    study_date: str = "20260105"
    study_time: str = "101500"
    accession_number: str = ""

    def age_years(self) -> int:
        """Whole years between birth and study."""
        born, seen = self.birth_date, self.study_date
        return int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])


def write_study(
    phantom: Phantom,
    patient: PhantomPatient | None = None,
    kernels: Sequence[KernelName] = ("soft", "sharp"),
    orientation: OrientationName | None = None,
) -> list[list[Dataset]]:
    """One study with one series per kernel, all from the same anatomy.

    Returns:
        One list of instances per kernel, in the order of `kernels`; see `write_series`.
    """
    return [
        write_series(phantom, kernel, patient, orientation, series_number=number)
        for number, kernel in enumerate(kernels, start=2)
    ]


def write_series(
    phantom: Phantom,
    kernel: KernelName = "soft",
    patient: PhantomPatient | None = None,
    orientation: OrientationName | None = None,
    *,
    series_number: int = 2,
) -> list[Dataset]:
    """One series: an instance per slice, ready for `dcmwrite` or STOW-RS.

    The same phantom, patient, kernel and orientation give the same bytes and UIDs;
    every UID derives from them. All series of one phantom and patient share study and
    frame of reference.

    Args:
        phantom: what is shown.
        kernel: `soft` or `sharp`.
        patient: who; a default demo patient without it.
        orientation: patient position; by default head first, prone when the phantom is.
        series_number: SeriesNumber (0020,0011).

    Returns:
        Datasets with file meta information, Explicit VR Little Endian, in slice order.
    """
    patient = patient or PhantomPatient()
    orientation = orientation or ("HFP" if phantom.spec.prone else "HFS")
    study_key = f"{asdict(phantom.spec)}|{patient}"
    series_key = f"{study_key}|{kernel}|{orientation}"
    frame_uid = _uid("frame-of-reference", study_key)
    voxels, geometry = orient(
        phantom.render(kernel), phantom.spec.spacing_mm, orientation, frame_uid
    )
    base = Dataset()
    _patient_and_study(base, patient, _uid("study", study_key))
    _series(base, kernel, orientation, series_number, _uid("series", series_key))
    _equipment_and_acquisition(base, phantom, kernel, geometry)
    return [
        _instance(base, voxels[k], k, geometry, _uid("instance", f"{series_key}|{k}"))
        for k in range(voxels.shape[0])
    ]


def _patient_and_study(ds: Dataset, patient: PhantomPatient, study_uid: str) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = patient.name
    ds.PatientID = patient.patient_id
    ds.IssuerOfPatientID = patient.issuer
    ds.PatientBirthDate = patient.birth_date
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{patient.age_years():03d}Y"
    ds.StudyInstanceUID = study_uid
    ds.StudyID = "1"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = patient.study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = patient.study_time
    ds.AccessionNumber = patient.accession_number
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Chest CT phantom"


def _series(
    ds: Dataset, kernel: KernelName, orientation: OrientationName, number: int, series_uid: str
) -> None:
    ds.Modality = "CT"
    ds.SeriesInstanceUID = series_uid
    ds.SeriesNumber = number
    ds.SeriesDescription = f"Chest {KERNELS[kernel].convolution_kernel}"
    ds.BodyPartExamined = "CHEST"
    ds.PatientPosition = orientation


def _equipment_and_acquisition(
    ds: Dataset, phantom: Phantom, kernel: KernelName, geometry: Geometry
) -> None:
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = "fhir-ext synthetic chest phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.FrameOfReferenceUID = geometry.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.ImageComments = "Synthetic phantom of known truth, no patient"
    ds.QualityControlImage = "YES"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.ScanOptions = "HELIX"
    ds.KVP = 120
    ds.SliceThickness = _decimal(phantom.spec.spacing_mm[0])
    ds.SpacingBetweenSlices = _decimal(phantom.spec.spacing_mm[0])
    ds.ConvolutionKernel = KERNELS[kernel].convolution_kernel
    ds.FilterType = "NONE"
    ds.GantryDetectorTilt = 0
    ds.RescaleIntercept = RESCALE_INTERCEPT
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"
    ds.WindowCenter = -600
    ds.WindowWidth = 1500


def _instance(
    base: Dataset, plane: npt.NDArray[np.int16], k: int, geometry: Geometry, uid: str
) -> Dataset:
    ds = Dataset()
    ds.file_meta = _file_meta(uid)
    ds.update(base)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = uid
    ds.InstanceNumber = k + 1
    position = np.add(geometry.origin, np.multiply(k, geometry.slice_step))
    ds.ImagePositionPatient = [_decimal(value) for value in position]
    rows, columns = np.array(geometry.row_step), np.array(geometry.column_step)
    cosines = [*columns / np.linalg.norm(columns), *rows / np.linalg.norm(rows)]
    ds.ImageOrientationPatient = [_decimal(value) for value in cosines]
    ds.SliceLocation = _decimal(position[2])
    _, row_spacing, column_spacing = geometry.spacing_mm
    ds.PixelSpacing = [_decimal(row_spacing), _decimal(column_spacing)]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = plane.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.PixelData = (plane - np.int16(RESCALE_INTERCEPT)).astype("<u2").tobytes()
    return ds


def _file_meta(uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _uid(kind: str, key: str) -> str:
    """A UID derived from a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{kind}|{key}').int}"


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (VR DS, PS3.5 6.2)."""
    text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
