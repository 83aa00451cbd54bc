"""How long from the archive to a volume, against curl and against dicomweb-client?

Stores a synthetic series of 300 slices of 512 x 512 in a real Orthanc, then fetches it in
rounds: curl to /dev/null, our way (QIDO-RS, WADO-RS, headers, Hounsfield units, geometry),
and dicomweb-client's `retrieve_series` with `pixel_array`. The three take turns, in reversed
order every other round; what counts are medians and their ratios, for all share the machine.
The same is done with a series that lies in the archive in random order. Peak memory is that
of a fresh process which was idle before.

    python bench/pixels.py [--slices 300] [--rounds 9]

The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from requests import Session

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.volumes import retrieve_volumes
from fhir_ext.embedded.archive import OrthancServer
from fhir_ext.settings import ArchiveSettings, HttpAuth, LimitSettings

SIZE = 512
MIB = 1024 * 1024
LIMITS = LimitSettings()
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def slices(count: int, order: Sequence[int], study: str, series: str) -> list[Dataset]:
    """A cylinder with noise, 12 bits in 16, written from head to foot in the given order."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    inside = np.hypot(y, x * 0.8) < SIZE * 0.4
    noise = generator.normal(0, 20, (SIZE, SIZE))
    instances = []
    for index in order:
        image = np.where(inside, 1064 + 2 * np.roll(noise, 7 * index, 0), 24 + noise / 4)
        instance = Dataset()
        instance.SOPClassUID, instance.SOPInstanceUID = CTImageStorage, f"{series}.{index + 1}"
        instance.StudyInstanceUID, instance.SeriesInstanceUID = study, series
        instance.FrameOfReferenceUID = f"{study}.9"
        instance.PatientID, instance.PatientName = "BENCH", "Bench"
        instance.PatientBirthDate, instance.PatientSex = "19600101", "O"
        instance.StudyDate, instance.StudyTime, instance.StudyID = "20260101", "120000", "1"
        instance.AccessionNumber, instance.ReferringPhysicianName = "", ""
        instance.Modality, instance.Manufacturer = "CT", "bench"
        instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        instance.ConvolutionKernel, instance.KVP, instance.SliceThickness = "B30f", "120", "1"
        instance.SeriesNumber, instance.AcquisitionNumber = 1, 1
        instance.InstanceNumber = index + 1
        instance.ImagePositionPatient = [-179.2, -179.2, float(count - index)]
        instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        instance.PixelSpacing = [0.7, 0.7]
        instance.Rows = instance.Columns = SIZE
        instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
        instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 12, 11
        instance.PixelRepresentation = 0
        instance.RescaleSlope, instance.RescaleIntercept = "1", "-1024"
        instance.PixelData = image.clip(0, 4095).astype("<u2").tobytes()
        instances.append(instance)
    return instances


def fill(client: DicomWebClient, study: str, series: str, order: Sequence[int]) -> None:
    """Store in chunks, so that the whole series is never in memory here."""
    for start in range(0, len(order), 30):
        report = client.store(slices(len(order), order[start : start + 30], study, series))
        if report.failed:
            raise SystemExit("the archive refused slices")


def client_of(url: str, username: str, password: str) -> DicomWebClient:
    auth = HttpAuth(kind="basic", username=username, password=password)
    return DicomWebClient(
        ArchiveSettings(qido_url=url, wado_url=url, stow_url=url, auth=auth), LIMITS
    )


class Ways:
    """The three ways to fetch one series."""

    def __init__(self, archive: OrthancServer, client: DicomWebClient) -> None:
        self._archive, self._client = archive, client
        session = Session()
        session.auth = (archive.username, archive.password)
        session.trust_env = False
        self._reference = DICOMwebClient(archive.dicomweb_url, session=session)

    def curl(self, study: str, series: str) -> None:
        url = f"{self._archive.dicomweb_url}/studies/{study}/series/{series}"
        # The password goes through standard input and not into the process list.
        options = ["-sf", "--noproxy", "*", "-K", "-", "-H", f"Accept: {ACCEPT}"]
        login = f'user = "{self._archive.username}:{self._archive.password}"'
        subprocess.run(
            ["curl", *options, "-o", "/dev/null", url], input=login, text=True, check=True
        )

    def ours(self, study: str, series: str) -> npt.NDArray[np.int16]:
        (volume,) = retrieve_volumes(self._client, study, series, LIMITS).volumes
        return volume.voxels

    def reference(self, study: str, series: str) -> npt.NDArray[np.int16]:
        instances = self._reference.retrieve_series(study, series)
        instances.sort(key=lambda instance: instance.ImagePositionPatient[2])
        return np.stack([instance.pixel_array for instance in instances])


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(ways: Ways, study: str, series: str, rounds: int) -> dict[str, float]:
    """Median seconds of each way."""
    calls: dict[str, Callable[[], object]] = {
        "curl": lambda: ways.curl(study, series),
        "ours": lambda: ways.ours(study, series),
        "dicomweb_client": lambda: ways.reference(study, series),
    }
    if not (ways.ours(study, series) == ways.reference(study, series).astype(int) - 1024).all():
        raise SystemExit("the volumes differ")
    calls["curl"]()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in sorted(calls, reverse=bool(number % 2)):
            taken[name].append(seconds(calls[name]))
    for name, values in taken.items():
        print(
            f"  {name:16} median {statistics.median(values):.3f} s, "
            f"{min(values):.3f} to {max(values):.3f}"
        )
    return {name: statistics.median(values) for name, values in taken.items()}


def resident(field: str) -> float:
    """MiB of VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit("no memory figures on this system")


def memory(url: str, username: str, study: str, series: str, warm_up: str) -> None:
    """Runs in a fresh process: peak above idle of one fetch, as JSON. Password on stdin."""
    client = client_of(url, username, sys.stdin.read())
    retrieve_volumes(client, study, warm_up, LIMITS)
    time.sleep(0.2)
    idle = resident("VmRSS")
    # Starts the high-water mark anew.
    Path("/proc/self/clear_refs").write_text("5")
    (volume,) = retrieve_volumes(client, study, series, LIMITS).volumes
    print(json.dumps({"peak": resident("VmHWM") - idle, "volume": volume.voxels.nbytes / MIB}))


def peak_memory(archive: OrthancServer, study: str, series: str, warm_up: str) -> dict[str, float]:
    done = subprocess.run(
        [
            sys.executable, __file__, "--memory",
            archive.dicomweb_url, archive.username, study, series, warm_up,
        ],
        input=archive.password,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(count: int, rounds: int, archive: OrthancServer) -> dict[str, float]:
    client = client_of(archive.dicomweb_url, archive.username, archive.password)
    study = "2.25.300512512"
    ordered, shuffled, small = (f"{study}.{number}" for number in (1, 2, 3))
    order = list(range(count))
    print(f"storing two series of {count} slices of {SIZE} x {SIZE}")
    fill(client, study, ordered, order)
    fill(client, study, small, order[:3])
    random.Random(1).shuffle(order)
    fill(client, study, shuffled, order)
    ways = Ways(archive, client)
    print(f"series in order, {rounds} rounds")
    plain = measure(ways, study, ordered, rounds)
    print(f"series in random order, {rounds} rounds")
    mixed = measure(ways, study, shuffled, rounds)
    print("peak memory of a fresh process")
    peaks = [peak_memory(archive, study, series, small) for series in (ordered, shuffled)]
    return {
        "ratio_to_curl": plain["ours"] / plain["curl"],
        "ratio_to_dicomweb_client": plain["ours"] / plain["dicomweb_client"],
        "ratio_to_curl_random_order": mixed["ours"] / mixed["curl"],
        "curl_s": plain["curl"],
        "ours_s": plain["ours"],
        "dicomweb_client_s": plain["dicomweb_client"],
        "peak_mib_above_idle": max(peak["peak"] for peak in peaks),
        "volume_mib": peaks[0]["volume"],
        "slices": count,
    }


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        memory(*sys.argv[2:7])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-pixels-") as folder:
        archive = OrthancServer.ensure(Path(folder) / "archive", print)
        archive.start(Path(folder) / "archive.log")
        try:
            archive.wait_ready()
            result = run(arguments.slices, arguments.rounds, archive)
        finally:
            archive.stop()
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
