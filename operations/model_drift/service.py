"""Comparisons of a model version with its own past and of a shadow with what it may replace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time

from fhir_ext.errors import NotFoundError
from fhir_ext.settings import MonitoringSettings
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.sample_tables import ModelSample
from fhir_ext.store.samples import WRITING, SampledVersion, SampleStore
from operations.model_drift.compare import Seen, compare
from operations.model_drift.report import DriftReport, ShadowReport, Span
from operations.model_drift.shadow import compare_pairs

EVERY_ROLE = (*WRITING, "shadow")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DriftService:
    """Reads samples and reviews, and compares.

    Attributes:
        samples, repository: of one installation.
        settings: spans and thresholds.
    """

    samples: SampleStore
    repository: Repository
    settings: MonitoringSettings

    def window(self, end: datetime | None = None) -> Span:
        """What is compared: the whole days before the day of `end` (UTC), today without it."""
        midnight = datetime.combine((end or now()).astimezone(UTC).date(), time(), UTC)
        return Span(midnight - self.settings.window, midnight)

    def at_work(self, window: Span) -> Sequence[SampledVersion]:
        """Versions that wrote into records since the window began."""
        return self.samples.versions(window.begin)

    def named(self, service: str, version: str | None, window: Span) -> Sequence[SampledVersion]:
        """Versions of a service by name: one in any role, or all that wrote in the window.

        Raises:
            NotFoundError: nothing of the kind was sampled.
        """
        if version is None:
            found = self.samples.versions(window.begin, service=service)
        else:
            every = self.samples.versions(_BEGINNING, EVERY_ROLE, service)
            found = [item for item in every if item.version == version]
        if not found:
            raise NotFoundError("no result of such a version has been sampled")
        return found

    def reference(self, version: SampledVersion, window: Span) -> Span:
        """The first days of the version, as far as the window leaves them.

        Not the days right before the window: these would follow a slow drift.
        """
        begin = min(self.samples.first(version) or window.begin, window.begin)
        return Span(begin, min(begin + self.settings.reference, window.begin))

    def report(
        self, version: SampledVersion, window: Span, reference: Span | None = None
    ) -> DriftReport:
        """Compare a window of a version with a reference, its first days without one."""
        spans = reference or self.reference(version, window), window
        reviews = [
            row
            for row in self.repository.reviews(version.service)
            if (row.model_version, row.settings_hash) == (version.version, version.settings_hash)
        ]
        before, present = (
            Seen(
                self.samples.between(version, span.begin, span.end),
                [row for row in reviews if span.begin <= row.decided_at < span.end],
            )
            for span in spans
        )
        return compare(version, spans, before, present, self.settings)

    def compare_shadow(
        self, service: str, shadow: str, since: datetime | None = None
    ) -> ShadowReport:
        """Compare a shadow with what wrote on the same images, as both saw them last.

        The version that wrote is the one with the most pairs; a canary is compared too.

        Raises:
            NotFoundError: nothing of the shadow, or nothing beside it.
        """
        begin = since or _BEGINNING
        shadows = self._latest(service, ("shadow",), begin, {shadow})
        if not shadows:
            raise NotFoundError("no result of such a shadow has been sampled")
        beside = self.samples.versions(begin, service=service)
        found: dict[str, list[tuple[ModelSample, ModelSample]]] = {}
        for name in sorted({item.version for item in beside} - {shadow}):
            written = self._latest(service, WRITING, begin, {name})
            pairs = [(written[p], shadows[p]) for p in sorted(written.keys() & shadows.keys())]
            if pairs:
                found[name] = pairs
        if not found:
            raise NotFoundError("no images were seen by both")
        first = max(found, key=lambda name: len(found[name]))
        return compare_pairs(service, first, shadow, found[first])

    def _latest(
        self, service: str, roles: Iterable[str], begin: datetime, versions: set[str]
    ) -> dict[str, ModelSample]:
        """The last sample of each set of images, in these roles."""
        roles = tuple(roles)
        rows = [
            row
            for version in self.samples.versions(begin, roles, service)
            if version.version in versions
            for row in self.samples.in_roles(version, roles, begin)
        ]
        return {row.pair: row for row in sorted(rows, key=lambda row: row.at)}
