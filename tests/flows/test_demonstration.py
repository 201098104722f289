"""The demo, smaller: fewer patients and one round. All of it is run by `make demo`."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from components.data import phantoms
from flows import api
from tests.command_line import Run, Trained


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty patients a hospital and one round; nothing else is changed."""
    simulate = api.simulate

    def one_round(study: Any, *, overrides: dict[str, Any], **options: Any) -> api.TrainingOutcome:
        return simulate(study, overrides={**overrides, "rounds.max": 1}, **options)

    monkeypatch.setattr(phantoms, "HOSPITALS", tuple(replace(item, patients=20) for item in phantoms.HOSPITALS))
    monkeypatch.setattr(api, "simulate", one_round)


@pytest.mark.usefixtures("smaller")
def test_the_demo_runs_twice_and_the_commands_it_suggests_work(trained: Trained, wardround: Run) -> None:
    command = ["demo", "--home", str(trained.home), "--dispatcher", "in-process"]
    first = wardround(*command, COLUMNS="80")
    assert (first.code, first.err) == (0, "")
    assert "synthetic" in first.out
    written = {path: path.stat().st_mtime_ns for path in (trained.home / "demo-hospitals").rglob("*")}
    for hospital in ("east", "north", "west", "all sites"):
        row, ends = re.findall(rf"^({hospital} .*)\n(.*)$", first.out, re.MULTILINE)[0]  # too narrow for both in a line
        models = 2 if hospital == "all sites" else 3
        assert len(re.findall(r"\d\.\d{3}", row)) == models
        assert len(re.findall(r"\[\d\.\d{3} to \d\.\d{3}\]", ends)) == models
    suggested = re.findall(r"^  wardround (.*)$", first.out, re.MULTILINE)
    assert [words.split()[0] for words in suggested] == ["ui", "predict", "simulate"]
    predicted = wardround(*shlex.split(suggested[1]))
    assert (predicted.code, predicted.err) == (0, "")
    assert wardround("check", shlex.split(suggested[2])[1]).code == 0

    second = wardround(*command)
    assert (second.code, second.err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (trained.home / "demo-hospitals").rglob("*")} == written
    assert "version   2" in second.out
