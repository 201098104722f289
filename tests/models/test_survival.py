"""The survival model: shapes, the baseline, a level that does not wander, what a site may tell of small numbers."""

import pytest
import torch

from models.base import OptimizerSettings
from models.serving import ServedSurvival, export_program
from models.survival import SurvivalModel, SurvivalObjective, joined_cells
from models.tabular import TableArchitecture

EDGES = [1.0, 2.0, 3.0, 4.0]


def model(name: str = "MLP", loss: str = "cox", **arguments: object) -> SurvivalModel:
    """A model of three columns, one of them a category."""
    return SurvivalModel(
        TableArchitecture(name, [0, 3, 0], [False, False, True], arguments),
        objective=SurvivalObjective(EDGES, [1, 3], loss),  # type: ignore[arg-type]
        optimizer=OptimizerSettings(), seed=3,
    )  # fmt: skip


def rows(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows with gaps, and labels."""
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(count, 3, generator=draw)
    table[:, 1], table[::7, 2] = torch.randint(3, (count,), generator=draw).float(), torch.nan
    times, events = torch.rand(count, generator=draw) * 5, (torch.rand(count, generator=draw) < 0.6).float()
    return table, torch.stack([times, events], dim=1)


@pytest.mark.parametrize("name", ["MLP", "Linear"])
@pytest.mark.parametrize("loss", ["cox", "hazards"])
def test_what_is_served_is_what_the_model_says(name: str, loss: str) -> None:
    module, (table, labels) = model(name, loss).eval(), rows()
    module.measure_baseline(table, labels, 1)
    said = module.predictions(module(table))
    assert said.shape == (40, 3)
    assert ((said[:, 1:] >= 0) & (said[:, 1:] <= 1)).all()
    assert (said[:, 2] <= said[:, 1]).all()
    chances = module.survival(table)
    assert (chances.diff(dim=1) <= 0).all()
    torch.testing.assert_close(chances[:, [1, 3]], said[:, 1:])
    program = export_program(ServedSurvival(module.inputs, module.network, module.baseline), (3,))
    torch.testing.assert_close(program.module()(table), said)


def test_the_expected_events_of_all_patients_are_those_that_were_seen() -> None:
    module, (table, labels) = model().eval(), rows(200)
    module.measure_baseline(table, labels, 1)
    hazard = module.baseline.events / module.baseline.exposure
    spent = ((labels[:, :1] - torch.tensor([0.0, 1, 2, 3])) / 1.0).clamp(0, 1)
    expected = (module(table).exp() * (spent * hazard).sum(1, keepdim=True)).sum()
    seen = ((labels[:, 0] <= 4) & (labels[:, 1] > 0)).sum()
    assert expected.item() == pytest.approx(seen.item(), rel=1e-4)


def test_the_level_of_scores_is_that_of_the_mean_patient_whatever_the_last_bias() -> None:
    module, (table, _) = model(), rows()
    module.eval()
    before = module(table)
    with torch.no_grad():
        next(layer for layer in reversed(list(module.network.modules())) if hasattr(layer, "bias")).bias += 7.0
    torch.testing.assert_close(module(table), before)
    module.train()
    assert (module(table) - before).abs().mean() > 5  # nothing is taken off while it trains


def test_nothing_is_told_of_few_patients() -> None:
    events, exposure = torch.tensor([3.0, 1, 4, 2, 0, 1]), torch.tensor([50.0, 40, 30, 20, 6, 2])
    at_risk = torch.tensor([55, 45, 35, 25, 10, 3])
    told, exposed = joined_cells(events, exposure, at_risk, 5)
    assert told[:5].sum() == 10
    assert (told[5], exposed[5]) == (0, 0)
    runs = torch.unique_consecutive(told[:5], return_counts=True)
    assert all(value * count >= 5 - 1e-6 for value, count in zip(*runs, strict=True))
    assert torch.equal(joined_cells(events, exposure, at_risk, 1)[0], events)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"widths": [0]}, "widths"), ({"depth": 3}, "no argument 'depth'")],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model("MLP", **arguments)


def test_a_network_for_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="LogisticRegression is no network for this task"):
        model("LogisticRegression")
    with pytest.raises(ValueError, match="horizons must be places of the 4 cells"):
        SurvivalObjective(EDGES, [4])
