"""The study's records refuse what cannot be, and are the same wherever they are read."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from components.study import Study, VirtualSites

GOOD: dict[str, Any] = {
    "study": "chest",
    "task": {"classes": ["normal", "opacity"]},
    "data": {"source": "npz", "path": "pneumoniamnist", "spatial_size": [28, 28]},
    "sites": {"count": 3},
}


@pytest.mark.parametrize(("quorum", "kind"), [(1, int), (1.0, float), (0.5, float), (7, int)])
def test_quorum_keeps_whether_it_counts_sites_or_a_part_of_them(quorum: float, kind: type) -> None:
    study = Study.model_validate(GOOD | {"rounds": {"quorum": quorum}})
    again = Study.model_validate_json(study.model_dump_json())
    assert type(study.rounds.quorum) is type(again.rounds.quorum) is kind
    assert study.rounds.quorum == again.rounds.quorum == quorum


def test_one_site_and_all_sites_are_different_studies() -> None:
    one, every = (Study.model_validate(GOOD | {"rounds": {"quorum": quorum}}) for quorum in (1, 1.0))
    assert one.digest != every.digest


@pytest.mark.parametrize("quorum", [True, "1", 0, 0.0, 1.1, -1, None])
def test_quorum_refuses_what_is_neither(quorum: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(GOOD | {"rounds": {"quorum": quorum}})
    assert len(caught.value.errors()) == 1


@pytest.mark.parametrize("precision", [32, "32"])
def test_precision_may_be_said_without_quotes(precision: object) -> None:
    study = Study.model_validate(GOOD | {"local": {"epochs": 1, "precision": precision}})
    assert study.local.precision == "32"


@pytest.mark.parametrize("precision", [32.0, 16, True, None])
def test_precision_refuses_other_numbers(precision: object) -> None:
    with pytest.raises(ValidationError):
        Study.model_validate(GOOD | {"local": {"epochs": 1, "precision": precision}})


def test_sites_are_taken_as_records_too() -> None:
    virtual = VirtualSites(count=3)
    assert Study.model_validate(GOOD | {"sites": virtual}).sites == virtual
    assert Study.model_validate(GOOD | {"sites": virtual}).digest == Study.model_validate(GOOD).digest


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_must_be_finite(value: float) -> None:
    for change in ({"rounds": {"deadline_s": value}}, {"local": {"epochs": 1, "optimizer": {"learning_rate": value}}}):
        with pytest.raises(ValidationError):
            Study.model_validate(GOOD | change)


@pytest.mark.parametrize(
    ("partition", "problem"),
    [
        ("sizes:0.5,0.6", "add up to 1"),
        ("sizes:1,0", "above 0"),
        ("sizes:.5,.5", "count is 3, but sizes names 2"),
        ("dirichlet:0", "concentration above 0"),
        ("dirichlet:1.2.3", "pattern"),
        ("sizes:", "pattern"),
        ("random", "pattern"),
    ],
)
def test_partitions_that_cannot_be_are_refused(partition: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        VirtualSites(count=3, partition=partition)


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.3"])
def test_a_partition_without_its_own_number_needs_a_count(partition: str) -> None:
    with pytest.raises(ValidationError, match="needs 'count'"):
        VirtualSites(partition=partition)


def test_equal_studies_have_equal_digests_and_others_others() -> None:
    study = Study.model_validate(GOOD)
    assert Study.model_validate_json(study.model_dump_json()).digest == study.digest
    assert Study.model_validate(GOOD | {"seed": 2}).digest != study.digest
