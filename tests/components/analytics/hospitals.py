"""Sites that answer in this process, and tables to give them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from components.analytics.analysis import Results, analyse
from components.analytics.answering import answer
from components.analytics.desk import SiteDesk, SiteTable
from components.analytics.plan import Analysis, AnalysisStudy, Disclosure
from components.analytics.records import AnalysisAnswer, AnalysisRequest, Question
from components.analytics.table import open_cohort
from components.errors import RefusedError

COVARIATES = [
    {"name": "age", "range": [18.0, 100.0], "unit": "years"},
    {"name": "stage", "kind": "category", "levels": ["I", "II", "III"]},
]


def analysis(**changes: Any) -> Analysis:
    """Days 0 to 200, a placebo and a drug, age and stage; disclosure control off."""
    given = {
        "time": {"column": "time", "unit": "days", "end": 200.0},
        "event": {"column": "died"},
        "arm": {"column": "arm", "levels": ["placebo", "drug"]},
        "covariates": COVARIATES,
        "disclosure": {"smallest_cell": 1},
    }
    return Analysis.model_validate({**given, **changes})


def study(sites: Sequence[str], **changes: Any) -> AnalysisStudy:
    """A study over folders named as their sites."""
    return AnalysisStudy.model_validate({
        "study": "trial",
        "sites": [{"name": site, "path": site} for site in sites],
        "analysis": analysis(**changes).model_dump(mode="json"),
    })  # fmt: skip


def patients(seed: int, count: int = 120, *, ties: int = 1, causes: int = 1) -> pd.DataFrame:
    """Random patients whose hazard depends on arm, age and stage; times are multiples of `ties`."""
    rng = np.random.default_rng(seed)
    arm, age = rng.integers(0, 2, count), rng.integers(30, 90, count)
    stage = rng.integers(0, 3, count)
    hazard = np.exp(-0.5 * arm + 0.02 * (age - 60) + 0.3 * stage) / 60
    died, leaves = rng.exponential(1 / hazard), rng.uniform(5, 199, count)
    observed = np.minimum(np.minimum(died, leaves), 199)
    return pd.DataFrame({
        "time": np.maximum(ties, np.ceil(observed / ties).astype(int) * ties).clip(max=200),
        "died": (died <= leaves) * rng.integers(1, causes + 1, count),
        "arm": np.array(["placebo", "drug"])[arm],
        "age": age,
        "stage": np.array(["I", "II", "III"])[stage],
    })  # fmt: skip


def split(frame: pd.DataFrame, places: Sequence[int]) -> dict[str, pd.DataFrame]:
    """Divide rows over sites by a number for each row."""
    keys = np.asarray(places)
    return {f"site-{place}": frame[keys == place] for place in sorted(set(keys.tolist()))}


def columns(frame: pd.DataFrame) -> dict[str, list[str | None]]:
    """A frame as `read_table` would return it."""
    return {name: [None if pd.isna(value) else str(value) for value in frame[name]] for name in frame.columns}


def analysed(frames: Mapping[str, pd.DataFrame], whole: AnalysisStudy) -> Results:
    """Analyse frames in this process; every question and every answer crosses as JSON."""
    plan = whole.analysis
    cohorts = {site: open_cohort(columns(frame), plan) for site, frame in frames.items()}

    def ask(question: Question, step: str) -> dict[str, AnalysisAnswer]:
        answers = {}
        for site, cohort in cohorts.items():
            request = AnalysisRequest(
                study=whole.study, study_digest=whole.digest, site=site, question=question
            ).model_dump_json()
            received = AnalysisRequest.model_validate_json(request)
            given: dict[str, Any] = {"site": site, "request_digest": "0" * 64, "status": "done"}
            try:
                given["finding"] = answer(received.question, cohort, plan, plan.disclosure)
            except RefusedError as error:
                status = "withheld" if type(error).__name__ == "WithheldError" else "refused"
                given |= {"status": status, "reason": str(error)}
            answers[site] = AnalysisAnswer.model_validate_json(AnalysisAnswer.model_validate(given).model_dump_json())
        return answers

    return analyse(whole, ask)


def desk(
    folder: Path, frame: pd.DataFrame, whole: AnalysisStudy, site: str = "north", own: Disclosure | None = None
) -> SiteDesk:
    """A site with a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "patients.csv", index=False)
    return SiteDesk(whole, SiteTable(site, folder / "patients.csv", folder / "state"), own)


def asked(at: SiteDesk, whole: AnalysisStudy, question: Question, site: str = "north") -> AnalysisAnswer:
    """Put one question to a desk, as JSON."""
    request = AnalysisRequest(study=whole.study, study_digest=whole.digest, site=site, question=question)
    return AnalysisAnswer.model_validate_json(at.answer_text(request.model_dump_json()))


def write_hospitals(folder: Path, **broken: Any) -> Path:
    """Three hospitals with a table each, and a study over them."""
    sites = []
    for seed, site in enumerate(("east", "north", "west")):
        (folder / site).mkdir(parents=True)
        frame = patients(seed, 150)
        if site in broken:
            frame = broken[site](frame)
        frame.to_csv(folder / site / "patients.csv", index=False)
        sites.append({"name": site, "path": site})
    plan = analysis(disclosure={"smallest_cell": 5}, horizon=150.0).model_dump(mode="json", exclude_none=True)
    file = folder / "trial.yaml"
    file.write_text(yaml.safe_dump({"study": f"trial-{folder.name}"[:60], "sites": sites, "analysis": plan}))
    return file
