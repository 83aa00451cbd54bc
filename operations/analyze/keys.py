"""What identifies one piece of work, by the archive's listing of what it looks at."""

from __future__ import annotations

from collections.abc import Iterable

from fhir_ext.resources.ids import inference_key
from models.manifest import Manifest
from operations.analyze.plan import SeriesJob


def work_key(
    study_instance_uid: str,
    job: SeriesJob,
    manifest: Manifest,
    main_uids: Iterable[str],
    further_uids: Iterable[str],
) -> str:
    """Inference key of one version on one job's images.

    Computed before the images are fetched, to see what stands already, and again when they
    were: both must agree.

    Args:
        main_uids: SOP Instance UIDs of the job's series.
        further_uids: of what is read beside it; they do not count for a version that is shown
            the stack alone.
    """
    alone = manifest.inputs.images == "volume"
    seen = main_uids if alone else (*main_uids, *further_uids)
    return inference_key(study_instance_uid, job.series_instance_uid, seen, manifest.identity())
