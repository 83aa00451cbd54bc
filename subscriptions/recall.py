"""Recalls as durable work: the chores, and the loop that finds what came late.

    recall           a part of the pieces of work of one version, then the next part
    reject-recalled  one piece of work: notes beside its SR and SEG in the archive

The loop looks at recalls of the last day: one that stopped in the middle (the queue was lost)
is taken up again, and results that a study in flight wrote after the recall are withdrawn too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import NotFoundError, UnprocessableError, UpstreamError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources import codes
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import dicom_uid, recall_dicom_uid, recall_provenance_id
from fhir_ext.resources.imaging_study import study_instance_uid_of
from fhir_ext.resources.reading import component_of
from fhir_ext.resources.recall import (
    Counts,
    Group,
    Recall,
    inference_key_of,
    is_settled,
    is_withdrawn,
    recall_of,
)
from fhir_ext.resources.result_reading import sr_instance_uid_of
from operations.analyze.store_dicom import store_object
from operations.model_registry.recall import (
    ChoreQueue,
    Part,
    Recaller,
    enqueue_part,
    enqueue_recall,
    groups_of,
    part_of,
    read_group,
)

log = get_logger(__name__)

Json = dict[str, Any]

#: Name of the chore that brings the archive in line.
REJECT_RECALLED: Final = "reject-recalled"

#: Pieces of work of one part: a few seconds of work, which is what a death costs.
PART: Final = 50

#: How long results of a recalled version are looked for. A study in flight that is taken up
#: later than that is stopped by the Device's status.
WATCHED: Final = timedelta(hours=24)

#: After this a recall is gone through once more, for what rests on withdrawn numbers and was
#: on its way when they were withdrawn: scores, and measurements in a SEG.
SECOND_LOOK: Final = timedelta(hours=1)

#: What stands in the note beside a withdrawn object.
DESCRIPTION: Final = "The model was recalled; the reason is in the FHIR server."

#: Series that a piece of work may have written (`fhir_ext.resources.ids.dicom_uid`); SR first.
_SERIES: Final = ("sr-series", "seg-series")


@dataclass(frozen=True, slots=True)
class RecallVersion:
    """Handler of the chore `recall`: payload of `Part`. Idempotent."""

    recaller: Recaller
    queue: ChoreQueue

    def __call__(self, payload: Json) -> None:
        """Work off one part, say how far the recall is, and enqueue the next one.

        Raises:
            UpstreamError: HAPI is down.
        """
        part = self._known(part_of(payload))
        recall = part.recall
        if part.number == 0:
            self.recaller.mark(recall)
            self.recaller.report_progress(recall, part.counts, finished=False)
        following, finished = self._work(part)
        self.recaller.report_progress(recall, following.counts, finished=finished)
        done = following.counts.groups
        event(log, "recall-part", service=recall.service, version=recall.version, count=done)
        if not finished:
            enqueue_part(self.queue, following)

    def _known(self, part: Part) -> Part:
        """The part with the reason of the first recall: asked for again, it is the same one."""
        found = self.recaller.fhir.find("Task", part.recall.task_id)
        known = _recall_in(found) if found else None
        return replace(part, recall=known) if known else part

    def _work(self, part: Part) -> tuple[Part, bool]:
        """The part that follows, and whether it is empty."""
        counts, since, seen = part.counts, part.since, part.seen
        done = 0
        for page in groups_of(self.recaller.fhir, part.recall.device_id, part.since):
            for group in page:
                stamp = str(group.provenance["meta"]["lastUpdated"])
                if stamp == part.since and group.provenance["id"] in part.seen:
                    continue
                counts += self._settle(part, group)
                known = seen if stamp == since else ()
                since, seen = stamp, (*known, group.provenance["id"])
                done += 1
            if done >= PART:
                return replace(
                    part, number=part.number + 1, since=since, seen=seen, counts=counts
                ), False
        return replace(part, counts=counts), True

    def _settle(self, part: Part, group: Group) -> Counts:
        settled, counts = self.recaller.settle(part.recall, group)
        named = (*settled.unsigned, *settled.recalled)
        if any(sr_instance_uid_of(item) for item in named):
            provenance_id = group.provenance["id"]
            self.queue.enqueue_chore(
                REJECT_RECALLED, provenance_id, {"provenance_id": provenance_id}
            )
        return counts


@dataclass(frozen=True, slots=True)
class RejectRecalled:
    """Handler of the chore `reject-recalled`: payload `{"provenance_id": …}`. Idempotent."""

    fhir: FhirClient
    archive: DicomWebClient

    def __call__(self, payload: Json) -> None:
        """Put a note of rejection beside the objects of one withdrawn piece of work.

        Raises:
            UpstreamError: a server is down, or the SR is not in the archive yet.
            ParkedWork: the archive refuses a note.
            UnprocessableError: the piece of work cannot be read back.
        """
        provenance_id = str(payload["provenance_id"])
        group = read_group(self.fhir, self.fhir.read("Provenance", provenance_id))
        panel = next(
            (item for item in group.resources if is_withdrawn(item) and sr_instance_uid_of(item)),
            None,
        )
        if panel is None:
            return
        moment = self.fhir.read("Provenance", recall_provenance_id(provenance_id))["recorded"]
        key = inference_key_of(panel)
        if key is None:
            raise UnprocessableError("the result has no inference key", code="resource-not-found")
        found = self._objects(self._study(panel), key)
        if found is None:
            return
        if not _expected(panel, key) <= {str(item.SOPInstanceUID) for item in found}:
            # They are stored beside the FHIR transaction and may come after it.
            raise UpstreamError("the SR is not in the archive", code="stow-failed")
        store_object(self.archive, _note(found, provenance_id, datetime.fromisoformat(moment)))
        event(log, "recall-rejected", count=len(found))

    def _study(self, panel: Json) -> str:
        for source in panel.get("derivedFrom", []):
            kind, _, resource_id = str(source.get("reference", "")).partition("/")
            if kind == "ImagingStudy":
                study = self.fhir.read(kind, resource_id.partition("/")[0])
                if uid := study_instance_uid_of(study):
                    return uid
        raise UnprocessableError("the result names no study", code="resource-not-found")

    def _objects(self, study: str, key: str) -> list[Dataset] | None:
        """Headers of the objects that the piece of work stored; None without the study."""
        try:
            listed = {info.series_instance_uid for info in self.archive.list_series(study)}
        except NotFoundError:
            return None
        if not listed:
            return None
        return [
            self.archive.instance_metadata(study, series, item.sop_instance_uid)
            for series in (dicom_uid(key, kind) for kind in _SERIES)
            if series in listed
            for item in self.archive.list_instances(study, series)
        ]


def watch_recalls(fhir: FhirClient, queue: ChoreQueue) -> int:
    """Take up recalls that stand still, and those to which results were added.

    Returns:
        How many were enqueued (again).

    Raises:
        UpstreamError: HAPI is down.
    """
    since = (datetime.now(UTC) - WATCHED).isoformat()
    asked = {"code": f"{codes.TASK_TYPE.url}|model-recall"}
    tasks = {
        task["id"]: task
        for params in ({"status": "in-progress"}, {"authored-on": f"ge{since}"})
        for task in fhir.search("Task", {**asked, **params})
    }
    count = 0
    for task in tasks.values():
        recall = _recall_in(task)
        if recall is None:
            continue
        if task["status"] == "in-progress":
            # A known key changes nothing: only what the queue has lost starts anew.
            enqueue_recall(queue, recall)
            count += 1
        elif late := _late(fhir, recall.device_id, recall.started):
            enqueue_recall(queue, recall, f"late-{late}")
            event(log, "recall-late", service=recall.service, version=recall.version)
            count += 1
        elif datetime.now(UTC) - recall.started > SECOND_LOOK:
            enqueue_recall(queue, recall, "second-look")
            count += 1
    return count


def _recall_in(task: Json) -> Recall | None:
    """The recall of a Task, when it is one of ours.

    Others may write Tasks with our codes; the gateway lets nobody write our identifiers.
    """
    try:
        recall = recall_of(task)
    except (KeyError, IndexError, ValueError):
        return None
    return recall if task["id"] == recall.task_id else None


def _late(fhir: FhirClient, device_id: str, started: datetime) -> str | None:
    """What the recall has not dealt with: the Device, or a Provenance since then."""
    device = fhir.find("Device", device_id)
    if device is None or not is_recalled(device):
        # Written over by a program that knows of no recalls, or lost with a backup.
        return f"device-{device['meta']['versionId'] if device else 'lost'}"
    since = started.astimezone(UTC).isoformat()
    for page in groups_of(fhir, device_id, since):
        for group in page:
            review = fhir.find("Task", group.review_id) if group.signed else None
            if not is_settled(group, review):
                return str(group.provenance["id"])
    return None


def _expected(panel: Json, key: str) -> set[str]:
    """SOP Instance UIDs of the objects that a panel names and that are ours."""
    segmentation = dicom_uid(key, "seg")
    component = component_of(panel, codes.REFERENCED_SEGMENT.code)
    named = {str(sr_instance_uid_of(panel))}
    # One that it was measured in belongs to whoever drew it.
    return named | ({segmentation} & {str(component.get("valueString"))})


def _note(objects: list[Dataset], provenance_id: str, moment: datetime) -> Dataset:
    from fhir_ext.dicom.rejection import build_rejection

    return build_rejection(
        objects,
        objects[0],
        recall_dicom_uid(provenance_id, "rejection-series"),
        recall_dicom_uid(provenance_id, "rejection"),
        moment,
        description=DESCRIPTION,
    )
