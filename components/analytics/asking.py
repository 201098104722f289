"""Putting questions to all sites, and sorting what they answer: told, withheld, or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from components.analytics.plan import AnalysisStudy
from components.analytics.records import AnalysisAnswer, Question
from components.analytics.soundness import unsound
from components.errors import DataError

Record = TypeVar("Record")


class AnswersError(DataError):
    """Sites have no answer, or another than was asked for: the analysis ends, or goes on without them.

    Args:
        reasons: By site, why.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("\n".join(f"{site}: {reason}" for site, reason in reasons.items()))
        self.reasons = dict(reasons)


class Ask(Protocol):
    """Puts one question to all sites."""

    def __call__(self, question: Question, step: str) -> Mapping[str, AnalysisAnswer]:
        """Return each site's answer; `step` says what the question is for."""
        ...


class Asking:
    """Puts questions, and sorts the answers."""

    def __init__(self, study: AnalysisStudy, ask: Ask) -> None:
        self.study, self._ask = study, ask
        self.sites: list[str] = []
        self.left_out: dict[str, dict[str, str]] = {}

    def all(
        self, question: Question, step: str, kind: type[Record], *, lenient: bool = False, method: str = ""
    ) -> dict[str, Record]:
        """Return the findings of those who answer; note who withholds, raise if anybody cannot answer.

        Args:
            question: What is asked.
            step: What it is for.
            kind: What the answer must be.
            lenient: Also note, and not raise, where a site's data have no answer.
            method: Under what name those who withhold are noted; the step by default.
        """
        answers = dict(sorted(self._ask(question, step).items()))
        self.sites = self.sites or list(answers)
        tolerated = ("withheld", "refused") if lenient else ("withheld",)
        wrong = {site: item.reason for site, item in answers.items() if item.status not in ("done", *tolerated)}
        for site, item in answers.items():
            if item.status == "done" and not isinstance(item.finding, kind):
                wrong[site] = f"it answered something else than {step}"
            elif item.finding is not None and (what := unsound(item.finding, question, self.study.analysis)):
                wrong[site] = what
        if wrong:
            raise AnswersError(wrong)
        for site, item in answers.items():
            if item.status != "done":
                self.left_out.setdefault(method or step, {})[site] = item.reason
        return {site: item.finding for site, item in answers.items() if isinstance(item.finding, kind)}
