"""Ten thousand columns at real hospitals on loopback: killed while it screens, asks and trains, the same weights."""

from collections.abc import Iterator

import pytest

from components.journal import read
from tests.end_to_end.both_ways import wardround
from tests.end_to_end.loopback import Loopback
from tests.references.open_folder import open_folder
from tests.references.tiny_genes import STUDY, write_hospitals, write_study
from tests.references.tiny_table import SITES

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
GENES, ROUNDS = 10_000, 3


@pytest.fixture
def ward() -> Iterator[Loopback]:
    with open_folder() as folder:
        write_hospitals(folder, GENES, missing=0.02)
        study = write_study(
            folder, GENES, wide={"pattern": "gene_*", "keep": 500, "components": 4}, rounds={"max": ROUNDS}
        )
        ward = Loopback(study, STUDY, folder / "home")
        wardround("simulate", str(study), home=folder / "simulated")
        ward.run("up", str(study))
        try:
            yield ward
        finally:
            ward.run("down")


def asked(ward: Loopback, site: str) -> list[str]:
    """Return the trainings under which a hospital told products, each as often as it did."""
    plans = [entry.data["plan"] for entry in ward.at(site, "plan_accepted")]
    return [plan["training"] for plan in plans if plan["instructions"].get("components")]


def kill_once(ward: Loopback, reached: str) -> None:
    """Train until something is so, and kill the coordinator then."""
    moments = {
        "screens": lambda: ward.at("east", "preparation_delivered"),
        "asks": lambda: len(asked(ward, "east")) >= 3,
        "trains": lambda: ward.events("round_planned"),
    }
    with ward.running("train", str(ward.study)) as train:
        ward.until(moments[reached], every_s=0.01)
        train.kill()
        train.wait()


def test_killed_at_any_stage_it_comes_to_the_weights_of_the_simulation(ward: Loopback) -> None:
    kill_once(ward, "screens")
    assert not ward.events("training_started")
    kill_once(ward, "asks")
    assert not ward.events("training_started")
    kill_once(ward, "trains")
    (begun,) = ward.events("training_started")
    told = {site: asked(ward, site) for site in SITES}
    said = ward.run("train", str(ward.study)).stdout
    assert "auroc" in said
    assert len(ward.events("training_started")) == len(ward.events("training_resumed")) == 1
    assert {site: asked(ward, site) for site in SITES} == told  # who takes a training up asks for no products
    for site in SITES:
        assert len(set(told[site])) == 2  # the one that was killed while it asked, and the one that went on
    simulated = [
        entry
        for entry in read(ward.home.parent / "simulated" / "trainings" / STUDY / "journal.jsonl")
        if entry.event in ("training_started", "aggregated")
    ]
    assert begun.data["initial"] == simulated[0].data["initial"]
    assert begun.data["components"] == simulated[0].data["components"]
    here = [entry.data["state"]["weights"] for entry in ward.events("aggregated")]
    assert here == [entry.data["state"]["weights"] for entry in simulated[1:]]
    assert len(here) == ROUNDS
