"""What the demo puts into the archive: phantoms of known truth, or a folder of DICOM files."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import UnprocessableError
from fhir_ext.phantom import KernelName, PhantomPatient, PhantomSpec, Truth, build, write_study
from fhir_ext.store.repository import now

Say = Callable[[str], None]

#: Largest file (bytes, unpacked) that is taken out of a zip file.
LARGEST_MEMBER = 500_000_000


@dataclass(frozen=True, slots=True)
class DemoCase:
    """One study that was stored.

    Attributes:
        label: how the demo calls it; no patient data.
        study_instance_uid: of the study.
        series: series UID to kernel or description, for the report.
        truth: what a phantom really shows; None for real images.
        stored_at: when the last instance was in the archive.
    """

    label: str
    study_instance_uid: str
    series: dict[str, str]
    truth: Truth | None
    stored_at: datetime = field(default_factory=now)


#: (FHIR id, patient ID, given, family, sex, birth date, share of emphysema or None for no CT)
_PATIENTS = (
    ("demo-1", "DEMO-0001", "Ada", "Winter", "F", "19580312", 0.12),
    ("demo-2", "DEMO-0002", "Ben", "Sommer", "M", "19640920", 0.01),
    ("demo-3", "DEMO-0003", "Cleo", "Herbst", "F", "19710705", None),
)


def phantoms(fhir: FhirClient, archive: DicomWebClient, system: str, say: Say) -> list[DemoCase]:
    """Register invented patients and store one phantom study for two of them."""
    cases: list[DemoCase] = []
    for fhir_id, number, given, family, sex, born, share in _PATIENTS:
        patient = PhantomPatient(number, "FHIR-EXT-DEMO", f"{family}^{given}", sex, born)
        register(fhir, patient, system, fhir_id)
        if share is None:
            continue
        spec = PhantomSpec(emphysema_fraction=share, seed=len(cases) + 1)
        cases.append(store_phantom(archive, patient, spec, ("soft", "sharp"), say))
    return cases


def register(fhir: FhirClient, patient: PhantomPatient, system: str, fhir_id: str) -> None:
    """Put an invented patient into the FHIR server, so that its studies can be linked.

    Args:
        system: identifier system of the patient's issuer.
    """
    family, _, given = patient.name.partition("^")
    born = patient.birth_date
    fhir.put(
        {
            "resourceType": "Patient",
            "id": fhir_id,
            "identifier": [{"system": system, "value": patient.patient_id}],
            "name": [{"family": family, "given": [given]}],
            "gender": {"F": "female", "M": "male"}[patient.sex],
            "birthDate": f"{born[:4]}-{born[4:6]}-{born[6:]}",
        }
    )


def store_phantom(
    archive: DicomWebClient,
    patient: PhantomPatient,
    spec: PhantomSpec,
    kernels: tuple[KernelName, ...],
    say: Say,
) -> DemoCase:
    """Draw a chest CT phantom and store it, a series for each kernel.

    Raises:
        UnprocessableError: the archive refuses it.
    """
    share = spec.emphysema_fraction
    names = " and ".join(kernels)
    say(f"drawing a chest CT phantom with {share:.0%} emphysema ({names} kernel)")
    phantom = build(spec)
    series = write_study(phantom, patient, kernels)
    instances = [instance for one in series for instance in one]
    begin = time.monotonic()
    report = archive.store(instances)
    if report.failed:
        raise UnprocessableError("the archive refused phantom instances", code="stow-refused")
    say(f"stored {len(instances)} instances by STOW-RS in {time.monotonic() - begin:.1f} s")
    return DemoCase(
        label=f"phantom, {share:.0%} emphysema",
        study_instance_uid=str(instances[0].StudyInstanceUID),
        series={
            str(one[0].SeriesInstanceUID): f"{kernel} kernel"
            for kernel, one in zip(kernels, series, strict=True)
        },
        truth=phantom.truth,
    )


def from_folder(folder: Path, archive: DicomWebClient, say: Say) -> list[DemoCase]:
    """Store every DICOM instance below a folder, those inside zip files too.

    Raises:
        UnprocessableError: there is none, or the archive refuses one.
    """
    found: dict[str, list[pydicom.Dataset]] = {}
    skipped = 0
    for content in _files(folder):
        try:
            instance = pydicom.dcmread(content)
            found.setdefault(str(instance.StudyInstanceUID), []).append(instance)
        except (InvalidDicomError, AttributeError):
            skipped += 1
    if not found:
        raise UnprocessableError("the folder holds no DICOM instance", code="no-dicom")
    if skipped:
        say(f"{skipped} files are not DICOM instances and were left out")
    cases = []
    for number, (uid, instances) in enumerate(found.items(), start=1):
        say(f"storing study {number} of {len(found)}: {len(instances)} instances")
        report = archive.store(instances)
        if report.failed:
            raise UnprocessableError("the archive refused instances", code="stow-refused")
        series = {
            str(item.SeriesInstanceUID): f"kernel {_kernel(item)}"
            for item in instances
            if str(item.get("Modality", "")) not in ("SR", "SEG", "PR", "KO")
        }
        cases.append(DemoCase(f"study {number}", uid, series, truth=None))
    return cases


def _files(folder: Path) -> Iterator[Path | BytesIO]:
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        if not zipfile.is_zipfile(path):
            yield path
            continue
        with zipfile.ZipFile(path) as packed:
            for member in sorted(packed.infolist(), key=lambda item: item.filename):
                if not member.is_dir() and member.file_size <= LARGEST_MEMBER:
                    yield BytesIO(packed.read(member))


def _kernel(instance: pydicom.Dataset) -> str:
    value = instance.get("ConvolutionKernel", None)
    if value is None or value == "":
        return "unknown"
    return value if isinstance(value, str) else "\\".join(value)
