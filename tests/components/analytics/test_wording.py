import io

import pytest
from rich.console import Console

from components.analytics.tables import Table, csv_text
from components.analytics.wording import numeric_columns, shown_rows
from flows.analysis_cli import print_table

COX = Table(
    "cox", "Cox regression",
    ["covariate", "coefficient", "error", "robust error", "hazard ratio", "95 % from", "to", "p",
     "p of proportionality"],
    [["menostat: Post", 0.2197, 0.1844, 0.1945, 1.2457, 0.8678, 1.7882, 0.2336, 0.8912],
     ["tsize", 0.007953, 0.003988, 0.004046, 1.008, 1.00014, 1.016, 2.9e-11, 0.5531]],
    kinds=("", *["log"] * 3, *["ratio"] * 3, "p", "p"),
)  # fmt: skip


def printed(table: Table, width: int = 80) -> list[str]:
    text = io.StringIO()
    print_table(Console(file=text, width=width), table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_an_interval_that_leaves_out_one_does_not_read_as_if_it_did_not() -> None:
    assert shown_rows(COX)[1][4:] == ["1.0080", "1.0001", "1.0160", "<0.001", "0.553"]


def test_the_file_has_every_digit() -> None:
    assert csv_text(COX).splitlines()[2] == "tsize,0.007953,0.003988,0.004046,1.008,1.00014,1.016,2.9e-11,0.5531"


def test_no_heading_and_no_number_is_cut_in_80_columns() -> None:
    lines = printed(COX)
    assert max(map(len, lines)) <= 80
    assert not any("\u2026" in line for line in lines)
    assert lines[-1].split() == shown_rows(COX)[1]
    words = {word for line in lines for word in line.split()}
    assert {"hazard", "ratio", "robust", "prop.", "hazards"} <= words


def test_a_wide_terminal_has_headings_of_one_line() -> None:
    assert len(printed(COX, 140)) == 4


def test_a_long_word_of_a_cell_is_not_cut() -> None:
    rows = [["horTh: yes", "random effects (DerSimonian-Laird)", *[0.123456789] * 6]]
    table = Table("meta", "Effects", ["arm", "site", *["hazard ratio"] * 6], rows)
    assert any("(DerSimonian-Laird)" in line for line in printed(table))


def test_what_was_not_reached_is_said_and_stays_empty_in_the_file() -> None:
    table = Table("survival", "Survival", ["arm", "median", "to"], [["drug", 2165.0, None]], nothing="not reached")
    assert shown_rows(table) == [["drug", "2165", "not reached"]]
    assert csv_text(table).endswith("drug,2165.0,\n")


@pytest.mark.parametrize("cell", ["kept back", None, 4.5])
def test_a_column_with_a_number_stands_to_the_right(cell: str | float | None) -> None:
    assert numeric_columns(Table("t", "T", ["site", "patients"], [["east", 5], ["west", cell]])) == [False, True]


def test_days_of_hundreds_are_whole_and_years_are_not() -> None:
    days = Table("rmst", "Mean", ["mean", "error"], [[1253.4, 30.14]], kinds=("time", "time"))
    years = Table("rmst", "Mean", ["mean", "error"], [[12.34, 0.3014]], kinds=("time", "time"))
    assert shown_rows(days) == [["1253", "30"]]
    assert shown_rows(years) == [["12.34", "0.3014"]]
