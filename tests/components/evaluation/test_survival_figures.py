"""Survival curves and forest plots: what is given is what is drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from components.evaluation.survival_figures import (
    ForestRow,
    StepCurve,
    _row_text,
    forest_figure,
    marked_times,
    steps_figure,
)


def curve(end: float, last: float) -> StepCurve:
    times, values = np.linspace(0, end, 20), np.linspace(1, last, 20)
    return StepCurve(times, values, values - 0.05, np.minimum(1, values + 0.05))


def opened(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert min(picture.size) >= 150
    assert max(picture.size) <= 3000
    return picture


def drawn(last: float, at_risk: int = 30) -> bytes:
    curves = {"arm: no": curve(1000, 0.2), "arm: $\\frac{1}{$": curve(800, last)}
    risk = {name: [at_risk] * 6 for name in curves}
    return steps_figure(curves, risk, title="Survival", across="time (days)", up="alive")


def test_curves_and_numbers_at_risk_change_the_picture_and_nothing_else_does() -> None:
    opened(drawn(0.4))
    assert drawn(0.4) == drawn(0.4)
    assert drawn(0.4) != drawn(0.5)
    assert drawn(0.4) != drawn(0.4, at_risk=31)


def test_a_forest_plot_grows_with_its_rows_and_shows_every_estimate() -> None:
    rows = [ForestRow(f"site-{number}", 0.7, 0.5, 0.9, 0.2) for number in range(8)]
    few, many = (
        opened(forest_figure(given, title="Effect", across="hazard ratio"))
        for given in (rows[:2], [*rows, ForestRow("all", 0.7, 0.6, 0.8)])
    )
    assert many.size[1] > few.size[1]
    dark = np.array([27, 39, 51])
    diamond = (np.abs(np.asarray(many).astype(int) - dark).sum(axis=2) < 12).sum()
    assert diamond > (np.abs(np.asarray(few).astype(int) - dark).sum(axis=2) < 12).sum()


@pytest.mark.parametrize(("end", "last"), [(2659.0, 2500.0), (1.0, 1.0), (7.0, 6.0), (1022.0, 1000.0)])
def test_numbers_at_risk_stand_at_round_times(end: float, last: float) -> None:
    marks = marked_times(end)
    assert marks[0] == 0
    assert marks[-1] == last
    assert 3 <= len(marks) <= 8


def test_a_tiny_effect_is_told_from_none() -> None:
    assert _row_text(ForestRow("estrec", 1.00031, 0.99942, 1.00121, 0.3), 1.0) == "1.0003 [0.9994 to 1.0012]"
    assert _row_text(ForestRow("horTh", 0.7022, 0.5446, 0.9055, 0.3), 1.0) == "0.70 [0.54 to 0.91]"
