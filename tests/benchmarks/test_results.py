"""Results on paper: tables, files, one page."""

import json
from pathlib import Path

import pytest

from benchmarks import accuracy, clinical, speed
from benchmarks.results import Part, keep, write_page
from benchmarks.speed import ONE, PLAIN, PLAIN_LAST, TWO, Run
from benchmarks.tables import markdown_table
from components.evaluation.intervals import Estimate


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["a", "b"], [["x"]])


def test_parts_are_kept_and_collected_on_one_page_in_order(tmp_path: Path) -> None:
    keep(Part("second", "Second", "two", {"n": 2}), tmp_path)
    keep(Part("first", "First", "one", {"n": 1}), tmp_path)
    write_page(["first", "missing", "second"], tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.index("## First") < page.index("## Second")
    assert json.loads((tmp_path / "first.json").read_text())["n"] == 1


def run(variant: str, round_s: float) -> Run:
    return Run(variant, round_s, 1.0, first_step_s=7.0, job_s=21.0, peak_bytes=10**9, other_peak_bytes=1, load=0.5)


def test_ratios_compare_neighbours_and_say_what_does_not_hold() -> None:
    times = {PLAIN: 1.0, PLAIN_LAST: 0.8, ONE: 1.1, TWO: 0.9}
    runs = [run(variant, slower * time) for slower in (1.0, 2.0) for variant, time in times.items()]
    assert speed.ratios(runs, ONE) == pytest.approx([1.1, 1.1])
    lines = speed.report(runs, difference=0.0).text.splitlines()
    held = {line.split("|")[1].strip(): line.split("|")[5].strip() for line in lines if "<=" in line}
    assert held["seconds per round, one process / plain"] == "yes"
    assert held["seconds per round, two processes / plain"] == "no"
    assert held["command to first local step, two processes (s)"] == "yes"
    assert held["whole job, two processes (s)"] == "no"


def outcome(seed: int, federated: float) -> accuracy.Outcome:
    values = {"global": federated, "pooled": 0.95, "local:site-1": 0.93, "local:site-2": 0.90}
    return accuracy.Outcome(seed, {model: Estimate(value, value, value, 100) for model, value in values.items()})


@pytest.mark.parametrize(
    ("federated", "near", "ahead"), [(0.945, "yes", "yes"), (0.935, "no", "yes"), (0.925, "no", "no")]
)
def test_accuracy_says_whether_the_claim_holds(federated: float, near: str, ahead: str) -> None:
    text = accuracy.report([outcome(1, federated - 0.002), outcome(2, federated + 0.002)]).text
    claims = [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| federated -")]
    assert claims == [near, ahead]


def test_clinical_models_are_told_with_their_spread_over_seeds_and_an_interval() -> None:
    def found(seed: int, value: float) -> clinical.Outcome:
        metric = {"auroc": Estimate(value, value - 0.1, value + 0.1, 100)}
        return clinical.Outcome(seed, {"global": metric, "pooled": {"auroc": Estimate(0.9, 0.8, 0.95, 100)}})

    table = clinical.table_of({"trees": [found(1, 0.8), found(2, 0.7)]}, ["auroc"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows[0] == ["trees, federated", "0.750 (0.700 to 0.800)", "0.800 [0.700 to 0.900]"]
    assert rows[1][:2] == ["trees, pooled", "0.900 (0.900 to 0.900)"]
