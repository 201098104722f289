"""A study becomes a strategy, a roster and a quorum; what cannot go together is refused."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.assemble import assemble, build_strategy, check_study, number_of_sites, quorum_of, select_roster
from components.errors import StudyError
from components.strategies import STRATEGIES, FedAdam, FedProx, Strategy
from components.study import StrategyName, Study

NAMES = [f"site-{number:03d}" for number in range(100)]


def study_with(**changes: Any) -> Study:
    base: dict[str, Any] = {
        "study": "chest",
        "task": {"classes": ["normal", "opacity"]},
        "data": {"source": "npz", "path": "pneumoniamnist", "spatial_size": [28, 28]},
        "sites": {"count": 100},
    }
    return Study.model_validate(base | changes)


def test_the_study_can_name_every_strategy_of_the_table_and_no_other() -> None:
    assert set(STRATEGIES) == set(get_args(StrategyName))


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - {"HistogramBoosting"}))  # it needs a network of trees
def test_every_strategy_assembles_with_its_defaults(name: str) -> None:
    assembly = assemble(study_with(strategy={"name": name}))
    assert isinstance(assembly.strategy, Strategy)
    assert assembly.strategy == STRATEGIES[name]()


def test_hyperparameters_reach_the_strategy_and_whole_numbers_become_numbers() -> None:
    assert assemble(study_with(strategy={"name": "FedProx", "proximal_weight": 1})).strategy == FedProx(1.0)
    strategy = build_strategy("FedAdam", {"server_learning_rate": 1, "second_moment_decay": 0.5})
    assert strategy == FedAdam(server_learning_rate=1.0, second_moment_decay=0.5)


@pytest.mark.parametrize(
    ("hyperparameters", "field", "message"),
    [
        ({"proximal": 1}, "strategy.proximal", "did you mean proximal_weight?; allowed: proximal_weight, weighting"),
        ({"proximal_weight": "1"}, "strategy.proximal_weight", "given '1'; must be a number"),
        ({"proximal_weight": True}, "strategy.proximal_weight", "given true; must be a number"),
        ({"proximal_weight": None}, "strategy.proximal_weight", "given nothing; must be a number"),
        ({"proximal_weight": -1}, "strategy.proximal_weight", "proximal_weight must be 0 or more, given -1.0"),
        ({"weighting": "size"}, "strategy.weighting", "given 'size'; must be one of samples, uniform"),
    ],
)
def test_wrong_hyperparameters_name_field_and_what_is_allowed(
    hyperparameters: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(StudyError) as caught:
        assemble(study_with(strategy={"name": "FedProx"} | hyperparameters))
    assert caught.value.field == field
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"rounds": {"selection": {"count": 101}}}, "rounds.selection.count", "at most the number of sites, 100"),
        ({"rounds": {"quorum": 101}}, "rounds.quorum", "at most 100, the sites asked in a round"),
        ({"rounds": {"quorum": 8, "selection": {"fraction": 0.07}}}, "rounds.quorum", "at most 7, the sites"),
        ({"rounds": {"quorum": 3, "selection": {"count": 2}}}, "rounds.quorum", "1.0 with its decimal point is all"),
        ({"rounds": {"buffer": 3}}, "rounds.buffer", "given 3; must be left out with rounds.mode: sync"),
        ({"rounds": {"max_staleness": 0}}, "rounds.max_staleness", "given 0; must be left out with rounds.mode: sync"),
        ({"rounds": {"mode": "async", "quorum": 1}}, "rounds.quorum", "rounds.buffer says how many updates a round"),
        ({"rounds": {"mode": "async", "required": ["a"]}}, "rounds.required", "waits for a site by name is a sync one"),
        ({"rounds": {"mode": "async", "late": "discount"}}, "rounds.late", "counts in whichever round it arrives"),
        ({"rounds": {"mode": "async", "selection": {"count": 3}}}, "rounds.selection", "given {'count': 3}; must be"),
        ({"rounds": {"mode": "async", "buffer": 101}}, "rounds.buffer", "given 101; must be at most the number of"),
        ({"rounds": {"mode": "async"}, "strategy": {"name": "FedBN"}}, "strategy.name", "given FedBN; must be one of"),
        (
            {"rounds": {"mode": "async"}, "strategy": {"name": "FedPer"}},
            "strategy.name",
            "given FedPer; must be one of",
        ),
        (
            {"strategy": {"name": "FedPer"}, "evaluate": {"external": "leave_one_site_out"}},
            "evaluate.external",
            "who is left out has no output layer of its own",
        ),
        (
            {"rounds": {"mode": "async"}, "evaluate": {"champion": "full_roster"}},
            "evaluate.champion",
            "must be any with rounds.mode: async",
        ),
        ({"local": {"epochs": 1, "precision": "16-mixed", "device": "cpu"}}, "local.precision", "32 or bf16-mixed"),
        ({"sites": {"partition": "column:age"}}, "sites.partition", "an npz has no columns"),
        (
            {"data": {"source": "npz", "path": "x", "spatial_size": [8, 8], "columns": {"label": "y"}}},
            "data.columns",
            "an npz has no columns",
        ),
        (
            {"data": {"source": "table", "path": "x", "spatial_size": [8, 8], "columns": {"label": ""}}},
            "data.columns.label",
            "must be the name of a column",
        ),
        (
            {"data": {"source": "table", "path": "x", "spatial_size": [8, 8], "columns": {"file": "a", "label": "a"}}},
            "data.columns",
            "columns must differ from each other, given a, a",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], field: str, message: str) -> None:
    study = study_with(**changes)
    with pytest.raises(StudyError) as caught:
        check_study(study)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_what_goes_together_is_not_refused() -> None:
    table = {"source": "table", "path": "x", "spatial_size": [8, 8]}
    check_study(study_with(rounds={"quorum": 7, "selection": {"fraction": 0.07}}))
    check_study(study_with(data=table, sites={"partition": "column:scanner"}, rounds={"quorum": 50}))
    check_study(study_with(data=table | {"columns": {"file": "a", "patient": "a", "label": "b"}}))
    check_study(study_with(rounds={"mode": "async", "buffer": 100, "max_staleness": 0, "max_change": 1.0}))


@pytest.mark.parametrize(
    ("sites", "number"),
    [
        ({"count": 4}, 4),
        ({"partition": "sizes:0.6,0.25,0.15"}, 3),
        ({"partition": "column:scanner"}, None),
    ],
)
def test_number_of_sites(sites: dict[str, Any], number: int | None) -> None:
    assert number_of_sites(study_with(sites=sites)) == number


@pytest.mark.parametrize(
    ("selection", "size"),
    [({}, 100), ({"fraction": 0.07}, 7), ({"fraction": 0.071}, 8), ({"fraction": 0.001}, 1), ({"count": 5}, 5)],
)
def test_a_roster_has_the_size_selected_and_is_in_the_order_of_names(selection: dict[str, Any], size: int) -> None:
    roster = select_roster(study_with(rounds={"selection": selection}), NAMES, 1)
    assert len(roster) == len(set(roster)) == size
    assert roster == sorted(roster)
    assert set(roster) <= set(NAMES)


@given(order=st.permutations(NAMES[:20]), round_number=st.integers(1, 1000))
def test_a_roster_is_a_function_of_seed_and_round_only(order: list[str], round_number: int) -> None:
    study = study_with(rounds={"selection": {"count": 5}})
    assert select_roster(study, order, round_number) == select_roster(study, NAMES[:20], round_number)


def test_a_known_roster_stays_what_it_is() -> None:
    # A resumed training must ask the same sites, also after an upgrade: these names must never change.
    study = study_with(rounds={"selection": {"count": 3}})
    rosters = [select_roster(study, ["a", "b", "c", "d", "e", "f"], number) for number in (1, 2, 3)]
    assert rosters == [["b", "e", "f"], ["b", "d", "f"], ["b", "c", "d"]]


def test_rosters_differ_by_round_and_seed_and_ask_every_site_about_equally_often() -> None:
    study = study_with(rounds={"selection": {"count": 10}})
    rosters = [select_roster(study, NAMES[:20], number) for number in range(1, 201)]
    assert len({tuple(roster) for roster in rosters}) > 190
    assert rosters[0] != select_roster(study_with(seed=2, rounds={"selection": {"count": 10}}), NAMES[:20], 1)
    # 200 draws with probability 1/2: 100 expected, standard deviation 7; 5 of them on either side.
    asked = [sum(site in roster for roster in rosters) for site in NAMES[:20]]
    assert 65 < min(asked) <= max(asked) < 135


def test_a_roster_of_more_sites_than_there_are_is_refused() -> None:
    study = study_with(rounds={"selection": {"count": 10}})
    with pytest.raises(StudyError, match=r"rounds\.selection\.count: given 10; must be at most the number of sites, 3"):
        select_roster(study, NAMES[:3], 1)


@pytest.mark.parametrize(
    ("selection", "asked"), [({"count": 3}, 2), ({"fraction": 0.5}, 2), ({}, 2), ({"count": 1}, 1)]
)
def test_a_round_asks_as_many_as_the_study_has_if_so_many_are_ready(selection: dict[str, float], asked: int) -> None:
    study = study_with(rounds={"selection": selection})
    assert len(select_roster(study, NAMES[:2], 1, total=4)) == asked


@pytest.mark.parametrize(
    ("quorum", "roster_size", "needed"),
    [(1, 10, 1), (1.0, 10, 10), (10, 10, 10), (0.5, 3, 2), (0.07, 100, 7), (0.001, 5, 1), (2 / 3, 3, 2)],
)
def test_quorum_counts_sites_or_a_part_rounded_up(quorum: float, roster_size: int, needed: int) -> None:
    assert quorum_of(study_with(rounds={"quorum": quorum}), roster_size) == needed


def test_an_asynchronous_round_needs_as_many_updates_as_its_buffer() -> None:
    assert quorum_of(study_with(rounds={"mode": "async", "buffer": 7}), 50) == 7
    with pytest.raises(StudyError, match=r"rounds\.buffer: given 7; must be at most the number of sites, 3"):
        quorum_of(study_with(rounds={"mode": "async", "buffer": 7}), 3)


def test_a_quorum_above_the_roster_is_refused() -> None:
    with pytest.raises(StudyError, match=r"rounds\.quorum: given 4; must be at most the number of sites, 3"):
        quorum_of(study_with(rounds={"quorum": 4}), 3)
