"""What a person sees while a training runs: the round and the seconds left, a mark for each site, what is done.

A `Watcher` is told what happens; the base class keeps silent. `LiveWatcher` shows it with rich on a
terminal. There, and where there is no terminal, each round leaves one plain line when its version is registered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

MARKS = {"done": ("✓", "+", "green"), "waiting": ("…", ".", "dim"), "failed": ("✗", "x", "red")}
RECENT = 5  # rounds whose mean length says how long the others will take
_WIDEST, _TITLE = 100, 20  # columns that the live lines, and the title in them, take at the most


class Watcher:
    """Is told what happens in a training; does nothing with it."""

    def phase(self, text: str) -> None:
        """Say what is being done before the first round."""

    def note(self, text: str) -> None:
        """Say once what somebody should know of the whole of it."""

    def round_opened(self, number: int, roster: Sequence[str]) -> None:
        """Say that a round's orders are out."""

    def site_done(self, number: int, site: str, *, ok: bool) -> None:
        """Say that a site's update was received, or that it was not usable."""

    def waiting(self, text: str) -> None:
        """Say what a round waits for; nothing any more if the text is empty."""

    def round_closed(self, number: int, at_work: Sequence[str]) -> None:
        """Say that a round was aggregated, and who is still at work for a later one."""

    def round_decided(self, number: int, value: float | None, seconds: float) -> None:
        """Say that a round was aggregated and evaluated."""

    def version_registered(self, number: int, version: int) -> None:
        """Say that a round's version is in the registry."""

    def testing(self, best_round: int) -> None:
        """Say that the rounds are over and the best one is being tested."""

    def comparing(self, kinds: Sequence[str]) -> None:
        """Say that the models to compare with are being trained."""


@dataclass(frozen=True)
class DecidedRound:
    """A round that was aggregated and evaluated.

    Attributes:
        number: Of the round.
        value: Of the watched metric; None if it is not defined.
        seconds: How long it took.
        sites: How many took part.
        missing: Sites that were asked and did not take part.
        at_work: Sites that were still at work, for a later round.
    """

    number: int
    value: float | None
    seconds: float
    sites: int
    missing: tuple[str, ...] = ()
    at_work: tuple[str, ...] = ()

    def line(self, metric: str, version: int | None) -> str:
        """Return it as one plain line.

        >>> DecidedRound(3, 0.91234, 4.25, 2, ("west",)).line("auroc", 7)
        'round   3  auroc 0.9123    4.2 s  version   7  2 sites, without west'
        >>> DecidedRound(3, 0.91234, 4.25, 2, at_work=("west",)).line("auroc", 7)
        'round   3  auroc 0.9123    4.2 s  version   7  2 sites, west at work'
        """
        kept = f"version {version:>3}" if version is not None else "no version yet"
        took_part = f"{self.sites} site{'s' * (self.sites != 1)}"
        took_part += f", without {', '.join(self.missing)}" if self.missing else ""
        took_part += f", {', '.join(self.at_work)} at work" if self.at_work else ""
        return f"round {self.number:>3}  {metric} {_number(self.value)}  {self.seconds:5.1f} s  {kept}  {took_part}"


@dataclass(frozen=True)
class Shown:
    """What the live lines show.

    Attributes:
        title: Name of the training.
        rounds: Rounds at the most.
        metric: Name of the watched metric.
        phase: What is being done, in words.
        number: The round in work; 0 before the first.
        done: Number of the last round that was decided.
        value: Its metric.
        version: The last version registered; 0 before the first.
        sites: What each site of the round has done: a key of `MARKS`.
        seconds: Lengths of the rounds decided so far.
        opened: When the round in work began, on the monotonic clock; None when no round is in work.
    """

    title: str
    rounds: int
    metric: str
    phase: str = "starting"
    number: int = 0
    done: int = 0
    value: float | None = None
    version: int = 0
    sites: dict[str, str] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    opened: float | None = None


def seconds_left(shown: Shown, now: float) -> float | None:
    """Return the seconds left if all rounds are run; None where nothing is known yet, or no round is left.

    >>> shown = Shown("demo", rounds=10, metric="auroc", done=4, seconds=(9.0, 2.0, 2.0, 2.0, 2.0, 2.0), opened=100.0)
    >>> seconds_left(shown, now=101.0)
    11.0
    """
    if not shown.seconds or shown.opened is None:
        return None
    recent = shown.seconds[-RECENT:]
    each = sum(recent) / len(recent)
    spent = min(now - shown.opened, each)
    return max(0.0, (shown.rounds - shown.done) * each - spent)


def live_lines(shown: Shown, *, width: int, now: float, plain: bool = False) -> Group:
    """Draw the live lines.

    Args:
        shown: What they show.
        width: Columns of the terminal; no line is longer.
        now: On the monotonic clock.
        plain: Whether the marks are ASCII.
    """
    width = min(width, _WIDEST)
    left = seconds_left(shown, now)
    row = Table.grid(padding=(0, 2, 0, 0))
    for position in range(4):
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=_TITLE if position == 0 else None)
    row.add_row(
        Text(shown.title, style="bold"),
        Text(f"round {shown.number} of {shown.rounds}" if shown.number else "before the first round"),
        ProgressBar(total=shown.rounds, completed=shown.done, width=max(8, min(32, width - 68))),
        Text(f"{duration(left)} left at most" if left is not None else "", style="dim"),
    )
    facts = [shown.phase]
    facts += [f"round {shown.done}: {shown.metric} {_number(shown.value)}"] if shown.done else []
    facts += [f"version {shown.version} is registered"] if shown.version else []
    phase = Text(f"  {'; '.join(facts)}", style="dim", no_wrap=True, overflow="ellipsis")
    marks = [_site_marks(shown.sites, width, plain=plain)] if shown.sites else []
    return Group(row, *marks, phase)


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units.

    >>> duration(41.4), duration(200), duration(7 * 3600 + 90), duration(3 * 86400)
    ('41 s', '3 min 20 s', '7 h 1 min', '3 d 0 h')
    """
    whole = round(seconds)
    for size, name, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {smaller}"
    return f"{whole} s"


def _site_marks(sites: dict[str, str], width: int, *, plain: bool) -> Text:
    """Return a mark for each site; where they do not fit into a line, how many have each mark."""
    text = Text("  ", no_wrap=True, overflow="ellipsis")
    if sum(cell_len(site) + 4 for site in sites) <= width:
        for site, state in sorted(sites.items()):
            mark, ascii_mark, style = MARKS[state]
            text.append(f"{ascii_mark if plain else mark} {site}  ", style=style)
        return text
    states = list(sites.values())
    for state, (mark, ascii_mark, style) in MARKS.items():
        if state in states:
            text.append(f"{ascii_mark if plain else mark} {states.count(state)} {state}  ", style=style)
    failed = sorted(site for site, state in sites.items() if state == "failed")
    return text.append(f"of {len(sites)} sites" + (f": without {', '.join(failed)}" if failed else ""))


class LiveWatcher(Watcher):
    """Shows a training on the console.

    Args:
        console: Where to.
        title: Name of the training.
        rounds: Rounds at the most, for the bar and the seconds left.
        metric: Name of the watched metric.
    """

    def __init__(self, console: Console, *, title: str, rounds: int, metric: str) -> None:
        self._console = console
        self._shown = Shown(title, rounds, metric)
        self._sites: dict[int, dict[str, str]] = {}  # of the rounds that are not decided: as of `Shown`
        self._at_work: dict[int, tuple[str, ...]] = {}
        self._unregistered: dict[int, DecidedRound] = {}
        self._turn = threading.Lock()
        self._live = (
            Live(get_renderable=self._draw, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> LiveWatcher:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        for number in sorted(self._unregistered):
            self._print(self._unregistered.pop(number), None)

    def phase(self, text: str) -> None:
        """See `Watcher`."""
        self._change(phase=text, opened=None)

    def note(self, text: str) -> None:
        """See `Watcher`; it leaves a line."""
        self._console.print(Text(text), highlight=False, soft_wrap=True)

    def round_opened(self, number: int, roster: Sequence[str]) -> None:
        """See `Watcher`."""
        sites = self._sites[number] = dict.fromkeys(roster, "waiting")
        self._change(phase="training", number=number, sites=sites, opened=time.monotonic())

    def site_done(self, number: int, site: str, *, ok: bool) -> None:
        """See `Watcher`."""
        sites = self._sites[number] = {**self._sites.get(number, {}), site: "done" if ok else "failed"}
        if number == self._shown.number:
            self._change(sites=sites)
            if "waiting" not in self._shown.sites.values():
                self._change(phase="aggregating, and evaluating at every site")

    def waiting(self, text: str) -> None:
        """See `Watcher`; what is waited for leaves a line, for those who look later."""
        if text:
            self._console.print(Text(text, style="yellow"), highlight=False, soft_wrap=True)
        self._change(phase=text or "training")

    def round_closed(self, number: int, at_work: Sequence[str]) -> None:
        """See `Watcher`."""
        self._at_work[number] = tuple(at_work)

    def round_decided(self, number: int, value: float | None, seconds: float) -> None:
        """See `Watcher`."""
        sites, at_work = self._sites.pop(number, {}), self._at_work.pop(number, ())
        missing = tuple(sorted(site for site, state in sites.items() if state == "failed" and site not in at_work))
        took_part = len(sites) - len(missing) - len(at_work)
        self._unregistered[number] = DecidedRound(number, value, seconds, took_part, missing, at_work)
        opened = None if number == self._shown.number else self._shown.opened
        self._change(done=number, value=value, seconds=(*self._shown.seconds, seconds), opened=opened)

    def version_registered(self, number: int, version: int) -> None:
        """See `Watcher`."""
        self._change(version=version)
        decided = self._unregistered.pop(number, None)
        if decided is not None:
            self._print(decided, version)

    def testing(self, best_round: int) -> None:
        """See `Watcher`."""
        self.phase(f"testing round {best_round} at every site")

    def comparing(self, kinds: Sequence[str]) -> None:
        """See `Watcher`."""
        self.phase(f"training what to compare with ({', '.join(kinds)})")

    def _change(self, **changes: object) -> None:
        with self._turn:
            self._shown = replace(self._shown, **changes)  # type: ignore[arg-type]

    def _draw(self) -> Group:
        plain = not self._console.encoding.lower().startswith("utf")
        return live_lines(self._shown, width=self._console.width, now=time.monotonic(), plain=plain)

    def _print(self, decided: DecidedRound, version: int | None) -> None:
        """Leave a round's line on the console."""
        style = "red" if decided.missing or version is None else ""
        line = Text(decided.line(self._shown.metric, version), style=style)
        self._console.print(line, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "  -   " if value is None else f"{value:.4f}"
