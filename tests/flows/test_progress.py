import io
import re

import pytest
from rich.console import Console

from flows.progress import DecidedRound, LiveWatcher, Shown, duration, live_lines, seconds_left

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def shown(**changes: object) -> Shown:
    told = {
        "title": "demo", "rounds": 20, "metric": "auroc", "phase": "training", "number": 5, "done": 4, "value": 0.9,
        "version": 3, "sites": {"east": "done", "north": "waiting", "west": "failed"}, "seconds": (2.0,) * 4,
        "opened": 100.0,
    }  # fmt: skip
    return Shown(**{**told, **changes})  # type: ignore[arg-type]


def lines_of(what: Shown, width: int = 80, now: float = 101.0, **options: bool) -> list[str]:
    """The live lines as a terminal of a width shows them."""
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=True, color_system=None).print(
        live_lines(what, width=width, now=now, **options)
    )
    return text.getvalue().splitlines()


def screen(text: str) -> list[str]:
    """What a terminal shows in the end: a cursor that goes up, and lines that are erased and written again."""
    lines, row = [""], 0
    for code, end, plain in re.findall(r"\x1b\[([?0-9]*)([A-Za-z])|([^\x1b]+)", text):
        if end == "A":
            row -= int(code or 1)
        elif end == "K":
            lines[row] = ""
        for character in plain:
            if character == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif character != "\r":
                lines[row] += character
    return [line.rstrip() for line in lines if line.strip()]


def watch(console: Console) -> LiveWatcher:
    return LiveWatcher(console, title="demo", rounds=3, metric="auroc")


def two_rounds(watcher: LiveWatcher) -> None:
    """What a training of two rounds tells; the first version is registered while the second round runs."""
    watcher.phase("starting the Prefect server and the sites")
    watcher.round_opened(1, ["east", "west"])
    watcher.site_done(1, "east", ok=True)
    watcher.site_done(1, "west", ok=False)
    watcher.round_decided(1, 0.75, 2.0)
    watcher.round_opened(2, ["east", "west"])
    watcher.version_registered(1, 7)
    watcher.site_done(2, "east", ok=True)
    watcher.site_done(2, "west", ok=True)
    watcher.round_decided(2, None, 2.5)
    watcher.version_registered(2, 8)
    watcher.testing(1)


def test_live_lines_show_round_sites_seconds_metric_and_version() -> None:
    first, sites, phase = lines_of(shown())
    assert re.fullmatch(r"demo  round 5 of 20  [━╸ ]+ 31 s left at most *", first)
    assert sites.split() == ["✓", "east", "…", "north", "✗", "west"]
    assert phase.strip() == "training; round 4: auroc 0.9000; version 3 is registered"


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("sites", [0, 3, 64])
def test_no_live_line_wraps(width: int, sites: int) -> None:
    names = {f"hospital-{number}": ("done", "waiting", "failed")[number % 3] for number in range(sites)}
    long = shown(title="a-study-with-a-very-long-name-indeed", rounds=1000, sites=names, metric="balanced_accuracy")
    found = lines_of(long, width)
    assert len(found) == (3 if sites else 2)
    assert all(len(line) <= width for line in found)


def test_sites_that_do_not_fit_are_counted_and_those_that_failed_are_named() -> None:
    sites = {f"hospital-{number:02}": "failed" if number == 40 else "done" for number in range(64)}
    assert lines_of(shown(sites=sites))[1].strip() == "✓ 63 done  ✗ 1 failed  of 64 sites: without hospital-40"


def test_marks_are_ascii_where_the_terminal_is() -> None:
    assert lines_of(shown(), plain=True)[1].split() == ["+", "east", ".", "north", "x", "west"]


def test_before_the_first_round_nothing_is_promised() -> None:
    start = Shown("demo", rounds=20, metric="auroc", phase="starting the sites")
    first, phase = lines_of(start)
    assert "left" not in first
    assert phase.strip() == "starting the sites"


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({}, 100.0, 32.0),
        ({}, 101.5, 30.5),
        ({}, 150.0, 30.0),  # a round that takes longer than the others does not eat the others' time
        ({"seconds": (90.0, 2.0, 2.0, 2.0, 2.0, 2.0)}, 100.0, 32.0),  # the first round's start-up is forgotten
        ({"seconds": ()}, 100.0, None),
        ({"opened": None}, 100.0, None),
        ({"done": 20}, 100.0, 0.0),
    ],
)
def test_seconds_left_by_hand(changes: dict[str, object], now: float, expected: float | None) -> None:
    assert seconds_left(shown(**changes), now) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (90000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_pipe_gets_one_plain_line_a_round_and_no_control_characters() -> None:
    text = io.StringIO()
    with watch(Console(file=text, width=80)) as watcher:
        two_rounds(watcher)
    assert text.getvalue().splitlines() == [
        "round   1  auroc 0.7500    2.0 s  version   7  1 site, without west",
        "round   2  auroc   -       2.5 s  version   8  2 sites",
    ]
    assert not CONTROL.search(text.getvalue())


def test_a_terminal_keeps_the_same_lines_when_the_live_ones_are_gone() -> None:
    text = io.StringIO()
    with watch(Console(file=text, width=80, height=24, force_terminal=True, color_system=None)) as watcher:
        two_rounds(watcher)
    assert screen(text.getvalue()) == [
        "round   1  auroc 0.7500    2.0 s  version   7  1 site, without west",
        "round   2  auroc   -       2.5 s  version   8  2 sites",
    ]


def test_a_round_whose_version_was_not_registered_is_told_at_the_end() -> None:
    text = io.StringIO()
    with watch(Console(file=text, width=80)) as watcher:
        watcher.round_opened(1, ["east"])
        watcher.round_decided(1, 0.5, 1.0)
        assert text.getvalue() == ""
    assert text.getvalue() == "round   1  auroc 0.5000    1.0 s  no version yet  1 site\n"


def test_an_answer_of_an_earlier_round_changes_no_mark() -> None:
    text = io.StringIO()
    watcher = watch(Console(file=text, width=80))
    watcher.round_opened(1, ["east"])
    watcher.round_opened(2, ["east"])
    watcher.site_done(1, "east", ok=False)
    watcher.round_decided(2, 0.5, 1.0)
    watcher.version_registered(2, 2)
    assert "without" not in text.getvalue()


def test_hostile_names_are_not_read_as_markup() -> None:
    line = DecidedRound(1, 0.5, 1.0, 1, ("[red]west[/red]",))
    assert "[red]west[/red]" in line.line("auroc", 1)
    assert any("[bold]demo" in found for found in lines_of(shown(title="[bold]demo")))
