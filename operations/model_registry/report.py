"""What a run of a version's cases found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation of one case.

    Attributes:
        output: name of the output, with its region where it has one.
        passed: whether it holds.
        expected, seen: in words.
    """

    output: str
    passed: bool
    expected: str
    seen: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case.

    Attributes:
        name: in the manifest.
        seconds: wall time, with loading where it was the first.
        checks: its expectations, in their order.
        failure: (code, sentence) when it could not be run.
    """

    name: str
    seconds: float
    checks: tuple[Check, ...] = ()
    failure: tuple[str, str] | None = None

    @property
    def passed(self) -> bool:
        return self.failure is None and all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class EngineResult:
    """Whether the quick engine gives what the reference gives.

    Attributes:
        holds: it does.
        batches: how many were compared.
        detail: the largest difference, or why nothing was compared.
    """

    holds: bool
    batches: int
    detail: str


@dataclass(frozen=True, slots=True)
class CasesReport:
    """All cases of a version.

    Attributes:
        cases: in the manifest's order, at least one.
        engine: None where there is one engine only.
    """

    cases: tuple[CaseResult, ...]
    engine: EngineResult | None = None

    @property
    def passed(self) -> bool:
        agrees = self.engine is None or self.engine.holds
        return agrees and bool(self.cases) and all(case.passed for case in self.cases)

    def as_json(self) -> Json:
        cases = [{**asdict(case), "passed": case.passed} for case in self.cases]
        return {
            "passed": self.passed,
            "cases": cases,
            "engine": asdict(self.engine) if self.engine else None,
        }
