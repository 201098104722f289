import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from components.evaluation import figures
from components.evaluation.histograms import add_sums, sums_from_scores
from components.evaluation.intervals import Estimate
from components.rounds import ScoreSums

RED = "d55e00"


def binary(seed: int, items: int = 60, prevalence: float = 0.5) -> ScoreSums:
    rng = np.random.default_rng(seed)
    labels = (rng.random(items) < prevalence).astype(int)
    scores = 1 / (1 + np.exp(-rng.normal(size=items) - 2 * labels + 1))
    return sums_from_scores(scores, labels, kind="binary", classes=["a", "b"], bins=100, threshold=0.5)


def multiclass(seed: int) -> ScoreSums:
    rng = np.random.default_rng(seed)
    scores, labels = rng.dirichlet([1, 1, 1], 60), rng.integers(0, 3, 60)
    return sums_from_scores(scores, labels, kind="multiclass", classes=["a", "b", "c"], bins=37, threshold=0.5)


def around(value: float) -> Estimate:
    return Estimate(value, value - 0.05, min(1.0, value + 0.05), 100)


def opened(png: bytes) -> Image.Image:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert min(picture.size) >= 200
    assert max(picture.size) <= 3000
    return picture


def holds(png: bytes, colour: str) -> bool:
    pixels = np.asarray(opened(png)).reshape(-1, 3)
    return bool((pixels == np.frombuffer(bytes.fromhex(colour), dtype=np.uint8)).all(axis=1).any())


@pytest.mark.parametrize(("make", "sites"), [(binary, 3), (multiclass, 2), (binary, 20)])
def test_curves_are_drawn_for_few_and_many_sites(make: Any, sites: int) -> None:
    by_site = {f"site-{index:02d}": make(index) for index in range(sites)}
    opened(figures.roc_figure(by_site, add_sums(list(by_site.values()))))
    opened(figures.calibration_figure(by_site, add_sums(list(by_site.values()))))


@pytest.mark.parametrize("draw", [figures.roc_figure, figures.calibration_figure])
def test_equal_values_give_equal_bytes_and_other_values_another_picture(draw: Any) -> None:
    sums, other = binary(1), binary(2)
    picture = draw({"north": sums}, sums)
    assert picture == draw({"north": sums}, sums)
    assert picture != draw({"north": other}, other)


@pytest.mark.parametrize("draw", [figures.roc_figure, figures.calibration_figure])
def test_one_class_only_no_items_and_hostile_names_are_drawn(draw: Any) -> None:
    by_site = {"only$negative$": binary(1, prevalence=0.0), "empty": binary(1, items=0), "$\\frac{1}{$": binary(2)}
    opened(draw(by_site, add_sums(list(by_site.values()))))
    opened(draw({}, binary(1, items=0)))


def test_only_defined_sites_have_a_line_in_the_roc_figure() -> None:
    first, second, whole = "0072b2", RED, binary(1)
    assert holds(figures.roc_figure({"north": whole, "south": whole}, whole), first)
    single = figures.roc_figure({"north": whole}, whole)
    assert not holds(single, second)


def test_convergence_marks_the_best_round() -> None:
    pooled = {number: around(0.7 + 0.02 * number) for number in range(1, 6)}
    sites = {"north": {1: 0.7, 2: 0.75, 5: 0.9}, "south": {}}
    star = "e69f00"
    assert holds(figures.convergence_figure("auroc", pooled, sites, best_round=5), star)
    assert not holds(figures.convergence_figure("auroc", pooled, sites, best_round=None), star)
    opened(figures.convergence_figure("loss", {}, {}, best_round=None))


def test_participation_shows_a_failure_only_where_there_was_one() -> None:
    key = figures.participation_figure({"north": {1: "took part"}, "south": {1: "took part"}})
    failed = figures.participation_figure({"north": {1: "took part"}, "south": {1: "failed"}})
    counts = [np.sum((np.asarray(opened(png)) == [0xD5, 0x5E, 0x00]).all(axis=2)) for png in (key, failed)]
    assert counts[1] > 5 * counts[0]


def test_participation_of_many_sites_and_rounds_stays_readable_in_size() -> None:
    rows: Any = {f"site-{index}": dict.fromkeys(range(1, 81), "took part") for index in range(60)}
    opened(figures.participation_figure(rows))
    opened(figures.participation_figure({}))


def test_comparison_is_drawn_where_a_site_lacks_a_model() -> None:
    comparison = {"north": {"local": around(0.8), "global": around(0.9)}, "south": {"global": around(0.95)}}
    opened(figures.comparison_figure("auroc", comparison))
    opened(figures.comparison_figure("auroc", {}))


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], bytes]) -> Axes:
    """Return the axes of a picture, laid out."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "png", lambda figure: found.append(figure) or b"")
    draw()
    found[0].draw_without_rendering()
    return found[0].axes[0]


def test_the_legend_of_convergence_covers_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled, sites = {1: around(0.8), 2: around(0.9)}, {f"site-{index}": {1: 0.1, 2: 0.95} for index in range(6)}
    axes = drawn(monkeypatch, lambda: figures.convergence_figure("auroc", pooled, sites, best_round=2))
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_models_have_the_names_that_the_terminal_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"north": {"local": around(0.8), "global": around(0.9), "pooled": around(0.91)}}
    axes = drawn(monkeypatch, lambda: figures.comparison_figure("auroc", found))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["local only", "federated", "pooled data"]


def test_drawing_needs_no_pyplot_and_importing_needs_no_matplotlib() -> None:
    code = (
        "import sys; from components.evaluation import figures; assert 'matplotlib' not in sys.modules\n"
        "figures.participation_figure({'north': {1: 'took part'}}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
