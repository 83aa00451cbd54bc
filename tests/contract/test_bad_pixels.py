"""Bad pixels, one row each: a coded refusal comes out, never an exception.

The archive here is hostile on purpose; what a real one lets through is in
tests/e2e/test_bad_input.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pydicom
import pytest
from hostile import encoded, hostile_archive, multipart

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.phantom import PhantomSpec, build, write_series
from fhir_ext.settings import ArchiveSettings, LimitSettings
from models.registry import Registry
from operations.analyze.infer import Analyzer
from operations.analyze.plan import SeriesJob, VersionRef

Series = list[pydicom.Dataset]


@pytest.fixture(scope="module")
def series() -> Series:
    phantom = build(PhantomSpec(shape=(50, 170, 232), spacing_mm=(5.0, 1.5, 1.5)))
    return write_series(phantom, "soft")


def _each(change: Callable[[pydicom.Dataset], None]) -> Callable[[Series], bytes]:
    def body(series: Series) -> bytes:
        changed = copy.deepcopy(series)
        for instance in changed:
            change(instance)
        return multipart([encoded(instance) for instance in changed])

    return body


def _truncated(series: Series) -> bytes:
    return multipart([encoded(instance)[:-20_000] for instance in series])


def _one_truncated(series: Series) -> bytes:
    parts = [encoded(instance) for instance in series]
    parts[20] = parts[20][:-20_000]
    return multipart(parts)


def _not_dicom(series: Series) -> bytes:
    return multipart([b"<html>no such thing</html>"] * len(series))


def _frames_bomb(instance: pydicom.Dataset) -> None:
    instance.NumberOfFrames = 1_000_000


def _absurd_size(instance: pydicom.Dataset) -> None:
    instance.Rows, instance.Columns = 65535, 65535


def _no_geometry(instance: pydicom.Dataset) -> None:
    del instance.ImagePositionPatient
    del instance.ImageOrientationPatient


def _colour(instance: pydicom.Dataset) -> None:
    instance.PhotometricInterpretation = "RGB"
    instance.SamplesPerPixel = 3


def _magnetic(instance: pydicom.Dataset) -> None:
    instance.Modality = "MR"


def _other_study(instance: pydicom.Dataset) -> None:
    instance.StudyInstanceUID = "1.2.3.4.5"


LUNG_DENSITY = VersionRef("lung-density", Registry().manifest("lung-density").version)

CASES = {
    "every instance truncated": (_truncated, {"truncated"}),
    "one instance truncated leaves a gap": (_one_truncated, {"gap"}),
    "bytes that are no DICOM": (_not_dicom, {"not-dicom"}),
    "zip bomb of frames": (_each(_frames_bomb), {"too-large", "truncated", "corrupt-pixels"}),
    "absurd Rows x Columns": (_each(_absurd_size), {"too-large"}),
    "missing geometry": (_each(_no_geometry), {"missing-geometry"}),
    "colour": (_each(_colour), {"not-an-image", "photometric-interpretation"}),
    "wrong modality": (_each(_magnetic), {"modality"}),
    "zero slices": (lambda series: multipart([]), {"no-slices"}),
    "instances of another study": (_each(_other_study), {"wrong-study"}),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_pixels_are_a_coded_refusal(series: Series, name: str) -> None:
    make_body, expected = CASES[name]
    study, uid = str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)
    listed = [] if name == "zero slices" else [str(item.SOPInstanceUID) for item in series]
    with hostile_archive(study, uid, listed, make_body(series)) as root:
        settings = ArchiveSettings(qido_url=root, wado_url=root, stow_url=root)
        client = DicomWebClient(settings, LimitSettings())
        analyzer = Analyzer(client, Registry(), LimitSettings())
        outcome = analyzer.analyze(study, SeriesJob(uid, len(listed), (LUNG_DENSITY,)))
    (result,) = outcome.results
    assert result.status == "refused"
    assert all(item.value is None for item in result.measurements)
    rules = {item.refusal.rule for item in result.measurements if item.refusal}
    assert rules & expected, rules


def test_the_same_series_unharmed_gives_numbers(series: Series) -> None:
    """The table above proves nothing if everything is refused."""
    study, uid = str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)
    listed = [str(item.SOPInstanceUID) for item in series]
    body = multipart([encoded(instance) for instance in series])
    with hostile_archive(study, uid, listed, body) as root:
        settings = ArchiveSettings(qido_url=root, wado_url=root, stow_url=root)
        analyzer = Analyzer(DicomWebClient(settings, LimitSettings()), Registry(), LimitSettings())
        outcome = analyzer.analyze(study, SeriesJob(uid, len(listed), (LUNG_DENSITY,)))
    assert outcome.results[0].status == "done"
