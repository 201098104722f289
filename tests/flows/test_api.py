"""The Python API does what the README shows, also where an event loop runs, and says what is wrong by raising."""

import asyncio
import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import flows
from components.errors import QuorumError, StudyError
from components.study_file import load_study
from flows import api
from flows.results import ALL_SITES
from tests.command_line import Trained
from tests.end_to_end.bench import write_dicom
from tests.references.tiny_study import write_films, write_study

ROOT = Path(flows.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a training sets for Prefect in this process is taken back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_films(tmp_path)
    return write_study(tmp_path, study="api", rounds={"max": 1}, sites={"partition": "sizes:0.6,0.4"})


def test_the_readmes_lines_work(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own Python, over the tiny study and one film, in a folder where it is all laid out as there."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 5
    (tmp_path / "studies").mkdir()
    write_films(tmp_path / "studies")
    tiny = write_study(tmp_path / "studies", study="pneumonia", sites={"partition": "sizes:0.6,0.4"})
    tiny.rename(tmp_path / "studies" / "pneumonia.yaml")
    write_dicom(tmp_path / "film.dcm", np.arange(400, dtype=np.uint8).reshape(20, 20))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WARDROUND_HOME", str(trained.home))
    monkeypatch.setattr(api, "simulate", _in_process(rounds=1))
    found: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), found)
    outcome = found["outcome"]
    assert isinstance(outcome, api.TrainingOutcome)
    assert 0 <= outcome.tests[ALL_SITES]["global"]["auroc"].value <= 1


def _in_process(rounds: int) -> object:
    """The API's own `simulate`, of so many rounds, in this process: nothing but less work."""
    simulate = api.simulate

    def shorter(study: str, overrides: dict[str, object] | None = None) -> api.TrainingOutcome:
        return simulate(study, overrides={**(overrides or {}), "rounds.max": rounds}, dispatcher="in-process")

    return shorter


def test_simulate_twice_in_one_process_uses_its_own_server_both_times(study: Path, trained: Trained) -> None:
    first = api.simulate(study, home=trained.home, dispatcher="in-process")
    second = api.simulate(study, home=trained.home, dispatcher="in-process")
    assert first.training != second.training
    assert (first.result["version"] + 1, first.tests) == (second.result["version"], second.tests)


def test_simulate_works_where_an_event_loop_runs(study: Path, trained: Trained) -> None:
    async def notebook() -> api.TrainingOutcome:
        return api.simulate(study, home=trained.home, dispatcher="in-process")

    assert asyncio.run(notebook()).result["reason"] == "all rounds done"


def test_a_study_may_be_given_as_a_record(
    study: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = load_study(study, {"seed": 9})
    assert api.simulate(record, home=trained.home, dispatcher="in-process").study.seed == 9
    with pytest.raises(ValueError, match="overrides go with a study file"):
        api.simulate(record, overrides={"seed": 10}, home=trained.home)


def test_progress_is_shown_on_the_console_given(study: Path, trained: Trained) -> None:
    text = io.StringIO()
    api.simulate(study, home=trained.home, dispatcher="in-process", console=Console(file=text, width=80))
    assert re.fullmatch(r"round   1  auroc .* version +\d+  2 sites\n", text.getvalue())


def test_a_failed_training_raises_one_error_and_prefect_says_nothing_beside_it(
    tmp_path: Path, trained: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prefect was imported long before; its loggers get their levels back."""
    write_films(tmp_path)
    optimizer = {"name": "sgd", "learning_rate": 1e30, "momentum": 0.0}
    study = write_study(tmp_path, study="diverging", local={"optimizer": optimizer})
    prefect_logger = logging.getLogger("prefect")
    prefect_logger.setLevel(logging.INFO)
    with pytest.raises(QuorumError, match="stopped being finite"):
        api.simulate(study, home=trained.home, dispatcher="in-process")
    assert capfd.readouterr() == ("", "")
    assert prefect_logger.level == logging.INFO


def test_load_names_the_override_that_is_wrong(study: Path) -> None:
    with pytest.raises(StudyError, match=r"--rounds: rounds\.max: given 0"):
        api.load(study, {"rounds.max": 0})


def test_public_names_are_those_listed() -> None:
    public = {name for name in vars(api) if not name.startswith("_") and name in api.__all__}
    assert public == set(api.__all__)
    assert set(api.__all__) == {"FileScore", "Scored", "TrainingOutcome", "load", "predict", "schema", "simulate"}
