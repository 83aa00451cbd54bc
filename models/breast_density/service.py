"""Breast density: gates, choice of the views, histograms, category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from pydantic import ValidationError

from fhir_ext.dicom.mammography import Mammogram, grey_values
from fhir_ext.dicom.volume import Acquisition, CTVolume
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Classification, Refusal, SeriesSource
from models.breast_density.postprocess import classification, withheld
from models.breast_density.preprocess import Features, crop, features, to_eight_bits
from models.breast_density.views import Selection, ViewSettings, select_views
from models.gates import evaluate
from models.manifest import Manifest, ManifestError
from models.manifest.runtimes import NetworkRuntime
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput

#: Rules that look at the header of an image; the others need a stack of slices.
_HEADER_RULES: Final = frozenset({"image-type", "burned-in-annotation", "patient-age"})
#: Images that a rule of this kind refuses are set aside; others refuse the study.
_SET_ASIDE: Final = "image-type"


@dataclass(frozen=True, slots=True)
class _Header:
    """As much of a volume as the header rules look at."""

    acquisition: Acquisition


class BreastDensity:
    """The service. Holds no state between studies; `run` may be called from several threads.

    Args:
        manifest: its manifest.
        folder: where it and the weights are.
        host: runs the network.

    Raises:
        ManifestError: a setting is missing, unknown or of the wrong type, or a gate needs slices.
    """

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        if not isinstance(manifest.runtime, NetworkRuntime):
            raise ManifestError(f"manifest of {manifest.id}: runtime: must be a network")
        self._manifest, self._folder, self._host = manifest, folder, host
        self._views = _settings_of(manifest)

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the mammograms only."""
        images = given.mammograms
        selected = self.select(images)
        if isinstance(selected, Refusal):
            sources = _sources(images)
            return ServiceOutput(
                classifications=(withheld(selected),), main=sources[0], further=sources[1:]
            )
        sources = _sources(selected.views)
        found = self._classified(selected, given.study, given.urgent)
        return ServiceOutput(classifications=(found,), main=sources[0], further=sources[1:])

    def classify(self, images: Sequence[Mammogram]) -> Classification:
        """Classify one study.

        Args:
            images: all 2D mammograms of one study, in any order; pixels are decoded for four.

        Returns:
            Probabilities of `a` to `d` and the most probable one, or why there is none.

        Raises:
            ModelFailure: the weights are missing or are not those that the manifest names.
        """
        selected = self.select(images)
        return withheld(selected) if isinstance(selected, Refusal) else self._classified(selected)

    def _classified(
        self, selected: Selection, study: str = "", urgent: bool = False
    ) -> Classification:
        shares = []
        for image in selected.views:
            found = _features(image)
            if isinstance(found, Refusal):
                return withheld(found)
            shares.append(found)
        batch = {"shares": np.concatenate(shares)[None]}
        answer = self._host.run(self._manifest, self._folder, batch, study=study, urgent=urgent)
        return classification(tuple(answer["probabilities"][0].tolist()))

    def select(self, images: Sequence[Mammogram]) -> Selection | Refusal:
        """The four views that `run` looks at, without decoding any pixels."""
        kept, set_aside = [], []
        for image in images:
            refused = self._refused(image, only=_SET_ASIDE)
            if refused is None:
                kept.append(image)
            else:
                set_aside.append(refused)
        if not kept:
            nothing = Refusal("modality", "no 2D mammogram", ", ".join(self._allowed))
            return set_aside[0] if set_aside else nothing
        selected = select_views(kept, self._views)
        if isinstance(selected, Refusal):
            return selected
        for image in selected.views:
            if refused := self._refused(image):
                return refused
        counts = dict(selected.set_aside)
        if set_aside:
            counts[_SET_ASIDE] = len(set_aside)
        return Selection(selected.views, counts)

    @property
    def _allowed(self) -> tuple[str, ...]:
        return self._manifest.inputs.modality

    def _refused(self, image: Mammogram, only: str | None = None) -> Refusal | None:
        gates = (gate for gate in self._manifest.gates if only is None or gate.rule == only)
        # The constructor let only rules pass that look at nothing but `acquisition`.
        header = cast(CTVolume, _Header(image.details))
        return next(iter(evaluate(gates, header)), None)


def create(manifest: Manifest, folder: Path, host: Host) -> BreastDensity:
    """What `models.registry` calls."""
    return BreastDensity(manifest, folder, host)


def _sources(images: Sequence[Mammogram]) -> tuple[SeriesSource, ...]:
    """The instances by series, in the order in which the series come first."""
    series: dict[str, list[str]] = {}
    for image in images:
        series.setdefault(image.series_instance_uid, []).append(image.sop_instance_uid)
    return tuple(SeriesSource(uid, tuple(sorted(uids))) for uid, uids in series.items())


def _features(image: Mammogram) -> Features | Refusal:
    """The histogram of one view; pixels that cannot be read are a refusal."""
    try:
        values = grey_values(image)
    except RefusedInput as refused:
        return Refusal(refused.code, "a view that cannot be decoded", "readable pixels")
    part = crop(values, image.anterior)
    if isinstance(part, Refusal):
        return part
    return features(to_eight_bits(part, image.format.bits_stored))


def _settings_of(manifest: Manifest) -> ViewSettings:
    unfit = {gate.rule for gate in manifest.gates} - _HEADER_RULES
    if unfit:
        raise ManifestError(f"manifest of {manifest.id}: no rule of a mammogram: {min(unfit)}")
    try:
        return ViewSettings.model_validate(dict(manifest.settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"manifest of {manifest.id}: {field}: {first['msg']}") from error
