"""Whatever form an answer has, it is pooled or named as wrong; nothing of it ends an analysis half-way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.analytics.analysis import analyse
from components.analytics.answering import answer
from components.analytics.asking import AnswersError
from components.analytics.plan import Disclosure
from components.analytics.records import (
    AnalysisAnswer,
    AskEffect,
    AskExits,
    AskLogrank,
    AskResiduals,
    AskRiskSums,
    AskScore,
    AskSummary,
    Finding,
    Question,
)
from components.analytics.soundness import unsound
from components.analytics.table import open_cohort
from tests.components.analytics.hospitals import columns, patients, study

WHOLE = study(["east", "north"], disclosure={"smallest_cell": 1})
TERMS = {"covariates": ["arm", "age", "stage"], "coefficients": [0.1, 0.0, 0.0, 0.2]}
QUESTIONS: list[Question] = [
    AskSummary(), AskExits(), AskLogrank(), AskScore(**TERMS), AskRiskSums(**TERMS), AskResiduals(**TERMS), AskEffect(),
]  # fmt: skip
COHORT = open_cohort(columns(patients(1)), WHOLE.analysis)


def found(question: Question) -> Finding:
    return answer(question, COHORT, WHOLE.analysis, Disclosure(smallest_cell=1))


def spoiled(value: Any) -> list[Any]:
    """Return copies of a finding in each of which one list is longer, or shorter, or one number is none."""
    if isinstance(value, dict):
        return [{**value, key: other} for key, part in value.items() for other in spoiled(part)]
    if isinstance(value, list):
        within = [[*value[:-1], other] for other in spoiled(value[-1])] if value else []
        return [value[:-1], [*value, value[-1]], *within] if value else []
    return [float("nan")] if isinstance(value, float) else []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question.kind))
def test_what_a_site_finds_is_sound_and_no_list_of_it_can_be_of_another_length(question: Question) -> None:
    finding = found(question)
    assert unsound(finding, question, WHOLE.analysis) == ""
    others = spoiled(finding.model_dump(mode="json"))
    assert others
    for other in others:
        assert unsound(type(finding).model_validate(other), question, WHOLE.analysis) != ""


def test_cells_out_of_order_or_beyond_the_grid_and_errors_of_nothing_are_unsound() -> None:
    exits = found(AskExits()).model_dump(mode="json")
    for cells in (lambda row: row[::-1], lambda row: [*row[:-1], WHOLE.analysis.time.cells + 1]):
        other = {**exits, "arms": [{**arm, "cells": cells(arm["cells"])} for arm in exits["arms"]]}
        assert "has not the form" in unsound(type(found(AskExits())).model_validate(other), AskExits(), WHOLE.analysis)
    effect = found(AskEffect())
    nothing = effect.model_copy(update={"standard_errors": [0.0]})
    assert "has not the form" in unsound(nothing, AskEffect(), WHOLE.analysis)


def test_the_other_answer_of_a_regression_is_unsound() -> None:
    fewer = AskScore(covariates=["arm"], coefficients=[0.1])
    assert unsound(found(AskScore(**TERMS)), fewer, WHOLE.analysis) != ""


def test_an_analysis_names_the_site_whose_answer_cannot_be_used() -> None:
    def ask(question: Question, step: str) -> dict[str, AnalysisAnswer]:
        given = {"request_digest": "0" * 64, "status": "done"}
        answers = {site: AnalysisAnswer(site=site, finding=found(question), **given) for site in ("east", "north")}
        if isinstance(question, AskScore):
            finding = answers["north"].finding
            assert finding is not None
            spoilt = finding.model_copy(update={"gradient": [float(np.inf)] * 4})
            answers["north"] = answers["north"].model_copy(update={"finding": spoilt})
        return answers

    with pytest.raises(AnswersError) as caught:
        analyse(WHOLE, ask)
    assert caught.value.reasons == {"north": "it told numbers that are not finite"}


def test_counts_below_nothing_are_no_answer_at_all() -> None:
    exits = found(AskExits()).model_dump(mode="json")
    exits["arms"][0]["censored"][0] = -1
    with pytest.raises(ValidationError):
        type(found(AskExits())).model_validate(exits)
