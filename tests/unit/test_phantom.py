"""The phantom: its truth is what was drawn, and its DICOM says where it lies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from fhir_ext.phantom import (
    KERNELS,
    ORIENTATIONS,
    KernelName,
    OrientationName,
    Phantom,
    PhantomPatient,
    PhantomSpec,
    build,
    orient,
    write_series,
    write_study,
)
from fhir_ext.results import Region

SPEC = PhantomSpec(shape=(50, 128, 128), spacing_mm=(5.0, 2.9, 2.9), emphysema_fraction=0.2)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return build(SPEC)


def test_the_same_spec_gives_the_same_voxels(phantom: Phantom) -> None:
    again = build(SPEC)
    assert np.array_equal(again.voxels, phantom.voxels)
    assert np.array_equal(again.render("soft"), phantom.render("soft"))
    other = build(PhantomSpec(SPEC.shape, SPEC.spacing_mm, 0.2, seed=2))
    assert not np.array_equal(other.voxels, phantom.voxels)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.6])
def test_emphysema_is_exactly_the_fraction_that_was_asked_for(fraction: float) -> None:
    drawn = build(PhantomSpec(SPEC.shape, SPEC.spacing_mm, fraction))
    for label in (1, 2):
        values = drawn.voxels[drawn.lungs == label]
        assert np.count_nonzero(values <= -950) == round(fraction * values.size)
        assert not ((values > -960) & (values < -940)).any()


def test_truth_counts_the_drawn_lungs(phantom: Phantom) -> None:
    ml = np.prod(SPEC.spacing_mm) / 1000
    for region, labels in (
        (Region.LUNGS, (1, 2)),
        (Region.LEFT_LUNG, (1,)),
        (Region.RIGHT_LUNG, (2,)),
    ):
        values = phantom.voxels[np.isin(phantom.lungs, labels)]
        truth = phantom.truth.region(region)
        assert truth.volume_ml == pytest.approx(values.size * ml)
        assert truth.mean_hu == pytest.approx(values.mean())
        assert truth.laa_950_percent == pytest.approx(100 * (values <= -950).mean())
        assert truth.perc15_hu == np.percentile(values, 15)
    assert 3500 < phantom.truth.lungs.volume_ml < 5000


def test_left_lung_lies_at_high_columns(phantom: Phantom) -> None:
    columns = [np.nonzero(phantom.lungs == label)[2].mean() for label in (1, 2)]
    assert columns[0] > SPEC.shape[2] / 2 > columns[1]


@pytest.mark.parametrize("kernel", ["soft", "sharp"])
def test_noise_is_what_the_kernel_states(phantom: Phantom, kernel: KernelName) -> None:
    noise = phantom.render(kernel).astype(float) - phantom.voxels
    # Only where clipping to -1024 HU cannot reach.
    noise = noise[phantom.voxels > -200]
    assert noise.mean() == pytest.approx(0, abs=0.5)
    assert noise.std() == pytest.approx(KERNELS[kernel].noise_sd_hu, rel=0.02)


def test_sharp_noise_raises_the_index_and_soft_noise_does_not(phantom: Phantom) -> None:
    truth = phantom.truth.lungs.laa_950_percent
    soft = phantom.count(phantom.render("soft")).lungs.laa_950_percent
    sharp = phantom.count(phantom.render("sharp")).lungs.laa_950_percent
    assert soft == pytest.approx(truth, abs=0.1)
    assert sharp > truth + 1


@pytest.mark.parametrize(
    "spec",
    [
        {"emphysema_fraction": -0.1},
        {"emphysema_fraction": 0.7},
        {"shape": (40, 256, 256)},
        {"spacing_mm": (2.5, 1.0, 1.0)},
    ],
)
def test_impossible_specs_are_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"emphysema_fraction|must cover"):
        PhantomSpec(**spec)  # type: ignore[arg-type]


def hu_of(instances: list[Dataset]) -> np.ndarray:
    """Stored values to HU, by hand (PS3.3 C.7.6.16.2.9)."""
    planes = [
        np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).astype(np.int16)
        for ds in instances
    ]
    first = instances[0]
    return np.stack(planes) * np.int16(first.RescaleSlope) + np.int16(first.RescaleIntercept)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_headers_put_every_voxel_back_where_it_was_drawn(
    phantom: Phantom, orientation: OrientationName
) -> None:
    instances = write_series(phantom, "soft", orientation=orientation)
    stack = hu_of(instances)
    first = instances[0]
    assert first.PatientPosition == orientation
    back = np.empty_like(stack)
    centre = (np.array(SPEC.shape) - 1) / 2
    for ds, plane in zip(instances, stack, strict=True):
        origin = np.array(ds.ImagePositionPatient, dtype=float)
        across = np.array(ds.ImageOrientationPatient[:3], dtype=float) * ds.PixelSpacing[1]
        down = np.array(ds.ImageOrientationPatient[3:], dtype=float) * ds.PixelSpacing[0]
        x = origin[0] + across[0] * np.arange(ds.Columns)
        y = origin[1] + down[1] * np.arange(ds.Rows)
        columns = np.rint(x / SPEC.spacing_mm[2] + centre[2]).astype(int)
        rows = np.rint(y / SPEC.spacing_mm[1] + centre[1]).astype(int)
        k = round(origin[2] / SPEC.spacing_mm[0] + centre[0])
        back[k][np.ix_(rows, columns)] = plane
    assert np.array_equal(back, phantom.render("soft"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_geometry_and_array_turn_together(phantom: Phantom, orientation: OrientationName) -> None:
    voxels, geometry = orient(phantom.voxels, SPEC.spacing_mm, orientation)
    assert voxels.flags.c_contiguous
    assert geometry.spacing_mm == pytest.approx(SPEC.spacing_mm)
    steps = [geometry.slice_step, geometry.row_step, geometry.column_step]
    last = np.array(geometry.origin) + np.array(SPEC.shape) @ steps - np.sum(steps, axis=0)
    assert np.allclose(last, -np.array(geometry.origin))


def test_two_kernels_share_study_patient_and_frame(phantom: Phantom) -> None:
    patient = PhantomPatient(patient_id="P7", issuer="HOSPITAL", name="Doe^Jane", sex="F")
    soft, sharp = write_study(phantom, patient)
    assert [len(soft), len(sharp)] == [SPEC.shape[0]] * 2
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "IssuerOfPatientID"):
        assert len({ds[keyword].value for ds in (*soft, *sharp)}) == 1
    assert soft[0].PatientName == "Doe^Jane"
    assert soft[0].SeriesInstanceUID != sharp[0].SeriesInstanceUID
    assert soft[0].SeriesNumber != sharp[0].SeriesNumber
    assert (soft[0].ConvolutionKernel, sharp[0].ConvolutionKernel) == ("B30f", "B70f")
    uids = [ds.SOPInstanceUID for ds in (*soft, *sharp)]
    assert len(set(uids)) == len(uids)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_uids_follow_from_phantom_and_patient(phantom: Phantom) -> None:
    def study(patient: PhantomPatient, drawn: Phantom = phantom) -> str:
        return str(write_series(drawn, patient=patient)[0].StudyInstanceUID)

    first = PhantomPatient(patient_id="P1")
    assert study(first) == study(PhantomPatient(patient_id="P1"))
    assert study(first) != study(PhantomPatient(patient_id="P2"))
    assert study(first) != study(first, build(PhantomSpec(SPEC.shape, SPEC.spacing_mm, 0.3)))


def test_instances_are_part_10_files_and_read_back(phantom: Phantom) -> None:
    ds = write_series(phantom)[0]
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    read = dcmread(buffer)
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.SOPClassUID == CTImageStorage
    assert read.PatientAge == "066Y"
    assert read.pixel_array.shape == SPEC.shape[1:]
    assert hu_of([read]).min() >= -1024


def test_table_lies_under_the_patient() -> None:
    prone = build(PhantomSpec(SPEC.shape, SPEC.spacing_mm, prone=True))
    supine = build(SPEC)
    middle = SPEC.shape[0] // 2, slice(None), SPEC.shape[2] // 2
    assert supine.voxels[middle][-20:].max() > -900 > prone.voxels[middle][-20:].max()
    assert prone.voxels[middle][:20].max() > -900 > supine.voxels[middle][:20].max()


def test_lungs_meet_only_when_asked() -> None:
    def meet(drawn: Phantom) -> bool:
        left, right = drawn.lungs[..., 1:] == 1, drawn.lungs[..., :-1] == 2
        return bool((left & right).any())

    assert meet(build(PhantomSpec(lungs_touch=True)))
    assert not meet(build())
