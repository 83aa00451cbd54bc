"""How many bytes the images of one job take, before and after they are fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.runtime.budget import Hold, PixelBudget
from models.service import ModelInput
from operations.analyze.plan import SeriesJob

#: Bytes of an instance that nobody has seen yet: 512 x 512 or, of a mammogram or radiograph,
#: 4096 x 3328 pixels of 16 bits.
SLICE, PROJECTION = 512 * 512 * 2, 4096 * 3328 * 2


def expected_bytes(job: SeriesJob) -> int:
    """A guess from the numbers of instances."""
    if job.whole_study:
        series = (job.instance_count, *(item.instance_count for item in job.further))
        return PROJECTION * sum(series)
    # One SEG holds as many frames as it likes; that of a whole stack has one bit a pixel.
    return SLICE * job.instance_count


def image_bytes(given: ModelInput | None) -> int:
    """What the images that are shown to the models hold in memory."""
    if given is None:
        return 0
    volume = 0 if given.volume is None else given.volume.voxels.nbytes
    segments = sum(item.frames.pixels.nbytes for item in given.segmentations)
    segments += sum(item.frames.pixels.nbytes for item in given.image_segmentations)
    images = (*given.mammograms, *given.radiographs)
    return volume + segments + sum(item.pixels.nbytes for item in images)


@contextmanager
def room_for(budget: PixelBudget | None, job: SeriesJob, urgent: bool) -> Iterator[Hold | None]:
    """Wait until the worker may hold the images of a job; without a budget, at once."""
    if budget is None:
        yield None
        return
    with budget.hold(expected_bytes(job), urgent=urgent) as hold:
        yield hold
