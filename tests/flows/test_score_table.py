"""What `wardround predict` prints: short names, no more rows than a screen has, and what a recommendation is worth."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.prediction import FileScore, Scored
from flows.score_table import print_scores

TRIAL = ("mean survival no", "mean survival yes", "benefit", "benefit low", "benefit high")


def printed(scored: Scored, width: int = 120) -> str:
    """Return what is printed."""
    text = io.StringIO()
    print_scores(Console(file=text, width=width), scored, None)
    return text.getvalue()


def of(*files: str) -> Scored:
    """Return scores of files."""
    return Scored("models:/films/1", "", [FileScore(Path(file), {"ill": 0.5}, "ill") for file in files])


def test_names_stand_alone_where_they_differ() -> None:
    assert "/ward/" not in printed(of("/ward/a.dcm", "/ward/b.dcm"))
    assert "/east/a.dcm" in printed(of("/east/a.dcm", "/west/a.dcm"))


def test_no_more_rows_than_a_screen_has(tmp_path: Path) -> None:
    scored = of(*(f"patients.csv:{number}" for number in range(1, 304)))
    text = printed(scored)
    assert ("patients.csv:40 " in text, "patients.csv:41 " in text) == (True, False)
    assert text.endswith("... and 263 more: --output FILE writes all\n")
    print_scores(Console(file=io.StringIO()), scored, tmp_path / "scores.csv")
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 304
    assert "more" not in printed(of("a.dcm"))


@pytest.mark.parametrize("width", [80, 160])
def test_a_recommendation_says_its_unit_and_whether_it_is_sure(width: int, tmp_path: Path) -> None:
    rows = {"p.csv:1": (900.0, 861.0, -39.0, -658.0, 579.0, "no"), "p.csv:2": (700.0, 900.0, 200.0, 20.0, 380.0, "yes")}
    files = [FileScore(Path(name), dict(zip(TRIAL, row, strict=False)), str(row[-1])) for name, row in rows.items()]
    scored = Scored("models:/hormones/3", "", files, "horTh", "yes over no, in days of the first 1500")
    told = printed(scored, width)
    assert all(len(line) <= width for line in told.splitlines())
    (unsure,) = [line for line in told.splitlines() if "p.csv:1" in line]
    (sure,) = [line for line in told.splitlines() if "p.csv:2" in line]
    assert "-39.0 [-658.0 to 579.0] │ no (interval includes 0)" in unsure
    assert "200.0 [20.0 to 380.0] │ yes  " in sure
    assert ("recommended horTh" in told, "861.0" in told) == (True, width == 160)
    assert "benefit of yes over no, in days of the first 1500 [95 % interval]" in told or width == 80
    print_scores(Console(file=io.StringIO()), scored, tmp_path / "scores.csv")
    header, first, _ = csv.reader((tmp_path / "scores.csv").read_text().splitlines())
    assert header == ["file", *(f"score_{name}" for name in TRIAL), "decision", "model"]
    assert first == ["p.csv:1", "900.0", "861.0", "-39.0", "-658.0", "579.0", "no", "models:/hormones/3"]
