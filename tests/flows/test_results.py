import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from components.evaluation.intervals import Estimate
from components.study_file import load_study
from flows.results import ALL_SITES, Results, print_results, results_table, unlearned
from tests.command_line import Trained
from tests.references.tiny_study import tiny_study

STUDIES = Path(__file__).parents[2] / "studies"


def estimates(value: float) -> dict[str, Estimate]:
    return {"auroc": Estimate(value, value - 0.0512, value + 0.0312, 40)}


def results(*names: str) -> Results:
    models = {"local": estimates(0.7), "global": estimates(0.91234), "pooled": estimates(0.92)}
    found = {name: dict(models) for name in names}
    local = {f"local:{name}": estimates(0.6 + 0.1 * number) for number, name in enumerate(names)}
    return {**found, ALL_SITES: {"global": estimates(0.9), "pooled": estimates(0.95), **local}}


def printed(what: Results, width: int = 80) -> list[str]:
    text = io.StringIO()
    print_results(Console(file=text, width=width), tiny_study(), what)
    return text.getvalue().splitlines()


def test_a_row_has_each_model_with_its_interval_and_the_test_items() -> None:
    (row,) = [line for line in printed(results("east", "west"), width=95) if line.startswith("east")]
    cells = ["east", "0.700 [0.649 to 0.731]", "0.912 [0.861 to 0.944]", "0.920 [0.869 to 0.951]", "40"]
    assert re.split(r" {2,}", row) == cells


@pytest.mark.parametrize("longest", [4, 12, 40])
def test_the_table_fits_into_80_columns_whatever_the_names(longest: int) -> None:
    lines = printed(results("e" * longest, "west"))
    assert all(len(line) <= 80 for line in lines)
    assert sum("[0.861 to 0.944]" in line for line in lines) == 2
    assert all(line.count("[") == line.count("]") for line in lines)


def test_all_sites_stand_last_and_have_no_local_model() -> None:
    last = [line for line in printed(results("east", "west"), width=100) if line.startswith(ALL_SITES)]
    assert re.split(r" {2,}", last[0]) == [ALL_SITES, "-", "0.900 [0.849 to 0.931]", "0.950 [0.899 to 0.981]", "40"]


def test_local_models_are_averaged_on_the_items_of_all() -> None:
    assert printed(results("east", "west"))[-1].endswith("test items of all hospitals: 0.650 on average.")


def test_models_that_were_not_trained_have_no_column() -> None:
    only_global = {name: {"global": row["global"]} for name, row in results("east").items()}
    table = results_table(only_global, "auroc")
    assert [column.header for column in table.columns] == ["hospital", "federated", "items"]


def test_a_metric_that_a_site_does_not_have_is_a_dash() -> None:
    found = results("east", "west")
    found["west"]["global"] = {}
    (row,) = [line for line in printed(found, width=100) if line.startswith("west")]
    assert re.split(r" {2,}", row.strip()) == ["west", "0.700 [0.649 to 0.731]", "-", "0.920 [0.869 to 0.951]"]


def test_a_local_model_that_learned_nothing_is_told_of_where_newtons_method_starts_from_none() -> None:
    study = load_study(STUDIES / "breast.yaml")
    found: Results = {
        "europe": {"local": {"concordance": Estimate(0.5, 0.37, 0.63, 51)}},
        "south": {"local": {"concordance": Estimate(0.7, 0.54, 0.82, 45)}},
        ALL_SITES: {"global": {"concordance": Estimate(0.5, 0.4, 0.6, 96)}},
    }
    (said,) = unlearned(study, found)
    assert said.startswith("europe: a local-only model of 0.500")
    assert unlearned(tiny_study(), results("east")) == []


def test_nothing_is_printed_of_a_training_that_was_not_tested() -> None:
    assert printed({}) == []


def test_a_training_has_test_metrics_of_every_site_and_of_all_items_together(trained: Trained) -> None:
    tests = trained.outcome.tests
    sites = ["site-1", "site-2", "site-3"]
    assert sorted(tests) == [ALL_SITES, *sites]
    supports = [tests[site]["global"]["auroc"].support for site in sites]
    assert sum(supports) == tests[ALL_SITES]["global"]["auroc"].support == 48
    right = sum(tests[site]["global"]["accuracy"].value * tests[site]["global"]["accuracy"].support for site in sites)
    assert tests[ALL_SITES]["global"]["accuracy"].value == pytest.approx(right / 48)
