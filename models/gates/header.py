"""Rules about the header, whatever the images are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fhir_ext.results import Refusal
from models.gates.base import (
    NOT_STATED,
    AllowGate,
    Bounded,
    GateBase,
    Unknown,
    Word,
    Words,
    shown,
)
from models.gates.expressions import LONGEST_VALUE, checked_expression, matched_part
from models.gates.subject import Subject

#: Expression over Manufacturer to expressions over the kernel.
Kernels = Annotated[Mapping[Word, Words], Field(min_length=1)]


class ModalityGate(AllowGate):
    """Modality (0008,0060) is one of `allow`."""

    rule: Literal["modality"]

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.header.modality)


class ImageTypeGate(GateBase):
    """ImageType (0008,0008) has no value of `forbid`, and all of `require`."""

    rule: Literal["image-type"]
    forbid: tuple[Word, ...] = ()
    require: tuple[Word, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> ImageTypeGate:
        if not self.forbid and not self.require:
            raise ValueError("needs forbid, require or both")
        if both := set(self.forbid) & set(self.require):
            raise ValueError(f"{min(both)} is required and forbidden: everything is refused")
        return self

    def check(self, subject: Subject) -> Refusal | None:
        values = subject.header.image_type
        for value in values:
            if value in self.forbid:
                return Refusal(self.rule, shown(value), "none of " + ", ".join(self.forbid))
        if set(self.require) <= set(values):
            return None
        return Refusal(self.rule, shown(", ".join(values)), " and ".join(self.require))


class KernelGate(GateBase):
    r"""ConvolutionKernel (0018,1210) is on a list of its manufacturer.

    Both lists map a regular expression over Manufacturer (case ignored, searched) to regular
    expressions over the kernel (case ignored, matched as a whole; values of a kernel of
    several values are joined by `\`, and each is denied by itself too). A kernel that is
    denied is refused even where it is allowed. With `allow`, a manufacturer without a list is
    refused, and what `unknown` says holds where no kernel is stated.
    """

    rule: Literal["kernel"]
    allow: Kernels | None = None
    deny: Kernels | None = None
    unknown: Unknown = "refuse"

    @field_validator("allow", "deny")
    @classmethod
    def _expressions(cls, lists: Kernels | None) -> Kernels | None:
        for expression in _expressions(lists):
            checked_expression(expression)
        return lists

    @model_validator(mode="after")
    def _something(self) -> KernelGate:
        if self.allow is None and self.deny is None:
            raise ValueError("needs allow, deny or both")
        if self.allow is not None and self.deny is not None and _all_denied(self.allow, self.deny):
            raise ValueError("every kernel of allow is denied: everything is refused")
        return self

    def check(self, subject: Subject) -> Refusal | None:
        kernel = (subject.header.convolution_kernel or "").strip()
        vendor = matched_part((subject.header.manufacturer or "").strip())
        if len(kernel) > LONGEST_VALUE:
            return Refusal(self.rule, shown(kernel), "a name of a kernel")
        if not kernel and self.unknown == "accept":
            return None
        needed = "a smooth kernel on the list of its manufacturer"
        values = {kernel, *(value.strip() for value in kernel.split("\\"))}
        if kernel and any(_listed(self.deny, vendor, value) for value in values):
            return Refusal(self.rule, shown(kernel), f"{needed}, none that is denied")
        if self.allow is None and kernel:
            return None
        if _listed(self.allow, vendor, kernel):
            return None
        seen = shown(kernel) if vendor or not kernel else f"{shown(kernel)}, no manufacturer"
        return Refusal(self.rule, seen, needed)


class SliceThicknessGate(GateBase, Bounded):
    """SliceThickness (0018,0050) in mm."""

    rule: Literal["slice-thickness"]

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.header.slice_thickness_mm, "mm")


class KvpGate(GateBase, Bounded):
    """KVP (0018,0060) in kV."""

    rule: Literal["kvp"]

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.header.kvp, "kV")


class PatientAgeGate(GateBase, Bounded):
    """Age in years at the study. The age itself is not repeated in the refusal."""

    rule: Literal["patient-age"]

    def check(self, subject: Subject) -> Refusal | None:
        age = subject.header.patient_age_years
        if self.holds(age):
            return None
        seen = NOT_STATED if age is None else "outside the range"
        return Refusal(self.rule, seen, self.needed("years"))


class PatientPositionGate(AllowGate):
    """PatientPosition (0018,5100), such as HFS, is one of `allow`."""

    rule: Literal["patient-position"]
    unknown: Unknown = "refuse"

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.header.patient_position, self.unknown)


class ContrastGate(GateBase):
    """ContrastBolusAgent (0018,0010) is absent or empty; with `wanted: present`, it is not."""

    rule: Literal["contrast-agent"]
    wanted: Literal["absent", "present"] = "absent"

    def check(self, subject: Subject) -> Refusal | None:
        given = bool((subject.header.contrast_agent or "").strip())
        if given is (self.wanted == "present"):
            return None
        if given:
            return Refusal(self.rule, "a contrast agent is named", "no contrast agent")
        return Refusal(self.rule, "no contrast agent is named", "a contrast agent")


class BurnedInAnnotationGate(GateBase):
    """BurnedInAnnotation (0028,0301) is not YES; silence is accepted unless told otherwise."""

    rule: Literal["burned-in-annotation"]
    unknown: Unknown = "accept"

    def check(self, subject: Subject) -> Refusal | None:
        stated = subject.header.burned_in_annotation
        if stated == "NO" or (not stated and self.unknown == "accept"):
            return None
        return Refusal(self.rule, shown(stated), "NO")


class PhotometricGate(AllowGate):
    """PhotometricInterpretation (0028,0004) is one of `allow`."""

    rule: Literal["photometric-interpretation"]

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.header.photometric_interpretation)


def _expressions(lists: Kernels | None) -> Iterator[str]:
    for maker, kernels in (lists or {}).items():
        yield maker
        yield from kernels


def _listed(lists: Kernels | None, vendor: str, kernel: str) -> bool:
    return any(
        re.search(maker, vendor, re.IGNORECASE)
        and any(re.fullmatch(listed, kernel, re.IGNORECASE) for listed in kernels)
        for maker, kernels in (lists or {}).items()
    )


def _all_denied(allow: Kernels, deny: Kernels) -> bool:
    """Whether each entry of `allow` is denied, as far as that can be read off the expressions."""
    return all(
        any(_covers(other, kernel) for other in deny.get(maker, ()))
        for maker, kernels in allow.items()
        for kernel in kernels
    )


def _covers(denied: str, allowed: str) -> bool:
    if denied in (allowed, ".*", ".+"):
        return True
    literal = re.escape(allowed) == allowed
    return literal and re.fullmatch(denied, allowed, re.IGNORECASE) is not None
