"""What the process of a hospital does that answers the questions of analyses; it imports neither torch nor Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.analytics.desk import SiteDesk, SiteTable
from components.analytics.plan import AnalysisStudy
from components.analytics.records import AnalysisAnswer
from components.dispatch import DeskQuestion, DeskSetting
from components.redaction import redact


class DeskHost:
    """Answers for one site, about one analysis at a time: all share what the site remembers, and its lock.

    Args:
        setting: Who the site is, and where it remembers what it told.
    """

    def __init__(self, setting: DeskSetting) -> None:
        self._setting = setting
        self._desk: SiteDesk | None = None
        self._about: DeskQuestion | None = None

    def call(self, name: str, payload: Mapping[str, Any]) -> str:
        """Make one call that arrived as JSON; return its result as JSON."""
        if name != "ask":
            raise ValueError(f"unknown call {name!r}")
        return self.ask(DeskQuestion.model_validate_json(payload["question"])).model_dump_json()

    def ask(self, question: DeskQuestion) -> AnalysisAnswer:
        """Answer a question; its reason, if it has one, is fit to leave."""
        answer = AnalysisAnswer.model_validate_json(self._desk_for(question).answer_text(question.request))
        if not answer.reason:
            return answer
        return answer.model_copy(update={"reason": redact(answer.reason, keep=known_words(question.study))})

    def close(self) -> None:
        """Let go of what the site remembers."""
        if self._desk is not None:
            self._desk.close()
        self._desk = None

    def _desk_for(self, question: DeskQuestion) -> SiteDesk:
        """Return the desk of an analysis; another's closes, or one from before policy or place of the table changed."""
        about = question.model_copy(update={"request": ""})
        if self._desk is None or about != self._about:
            self.close()
            place = SiteTable(self._setting.site, Path(question.file), Path(self._setting.state))
            self._desk, self._about = SiteDesk(question.study, place, question.policy), about
        return self._desk


def known_words(study: AnalysisStudy) -> set[str]:
    """Return what the coordinator knows anyway, since it wrote it: names of columns and their levels."""
    analysis = study.analysis
    words = {study.study, analysis.table.name, analysis.time.column, analysis.event.column, *analysis.event.causes}
    words |= {analysis.arm.column, *analysis.arm.levels}
    for covariate in analysis.covariates:
        words |= {covariate.name, covariate.unit, *(covariate.levels or [])}
    return words
