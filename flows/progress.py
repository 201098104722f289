"""What a person sees while a training runs: one live line for the round, one for each site.

A `Watcher` is told what happens; the base class keeps silent. `LiveWatcher` shows it with rich on a
terminal, and as one plain line for each round where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

MARKS = {"waiting": ("…", "dim"), "done": ("✓", "green"), "failed": ("✗", "red")}


class Watcher:
    """Is told what happens in a training; does nothing with it."""

    def phase(self, text: str) -> None:
        """Say what is being done before the first round."""

    def round_opened(self, number: int, roster: Sequence[str]) -> None:
        """Say that a round's orders are out."""

    def site_done(self, number: int, site: str, *, ok: bool) -> None:
        """Say that a site's update was received, or that it was not usable."""

    def round_decided(self, number: int, value: float | None, seconds: float) -> None:
        """Say that a round was aggregated and evaluated."""

    def version_registered(self, number: int, version: int) -> None:
        """Say that a round's version is in the registry."""

    def testing(self, best_round: int) -> None:
        """Say that the rounds are over and the best one is being tested."""

    def comparing(self, kinds: Sequence[str]) -> None:
        """Say that the models to compare with are being trained."""


class LiveWatcher(Watcher):
    """Shows a training on the console.

    Args:
        console: Where to.
        title: Name of the training.
        rounds: Rounds at the most, for the bar and the seconds left.
        metric: Name of the watched metric.
    """

    def __init__(self, console: Console, *, title: str, rounds: int, metric: str) -> None:
        self._console, self._title, self._rounds, self._metric = console, title, rounds, metric
        self._number = 0
        self._sites: dict[str, str] = {}
        self._values: list[float | None] = []
        self._seconds: list[float] = []
        self._opened = time.monotonic()
        self._phase = "starting"
        self._live = (
            Live(self._view(), console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
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

    def phase(self, text: str) -> None:
        """See `Watcher`."""
        self._phase = text
        self._show()

    def round_opened(self, number: int, roster: Sequence[str]) -> None:
        """See `Watcher`."""
        self._number, self._opened, self._phase = number, time.monotonic(), "training"
        self._sites = dict.fromkeys(roster, "waiting")
        self._show()

    def site_done(self, number: int, site: str, *, ok: bool) -> None:
        """See `Watcher`."""
        if number == self._number:
            self._sites[site] = "done" if ok else "failed"
            self._show()

    def round_decided(self, number: int, value: float | None, seconds: float) -> None:
        """See `Watcher`."""
        self._values.append(value)
        self._seconds.append(seconds)
        missing = [site for site, state in self._sites.items() if state == "failed"]
        line = f"round {number:>3}  {self._metric} {_number(value)}  {seconds:5.1f} s"
        line += f"  {len(self._sites) - len(missing)} sites"
        self._console.print(line + (f"  [red]without {', '.join(missing)}[/red]" if missing else ""), highlight=False)
        self._show()

    def testing(self, best_round: int) -> None:
        """See `Watcher`."""
        self.phase(f"testing round {best_round} at every site")

    def comparing(self, kinds: Sequence[str]) -> None:
        """See `Watcher`."""
        self.phase(f"training what to compare with ({', '.join(kinds)})")

    def _show(self) -> None:
        if self._live:
            self._live.update(self._view())

    def _view(self) -> Group:
        table = Table.grid(padding=(0, 2))
        done = len(self._values)
        known = [value for value in self._values if value is not None]
        left = f"{self._left():.0f} s left at the most" if self._seconds else ""
        table.add_row(
            Text(self._title, style="bold"),
            Text(f"round {self._number} of at most {self._rounds}" if self._number else ""),
            ProgressBar(total=self._rounds, completed=done, width=24),
            Text(f"{self._metric} {_number(known[-1] if known else None)}"),
            Text(left, style="dim"),
        )
        sites = Text("  ")
        for site, state in sorted(self._sites.items()):
            mark, style = MARKS[state]
            sites.append(f"{mark} {site}   ", style=style)
        return Group(table, sites, Text(f"  {self._phase}", style="dim"))

    def _left(self) -> float:
        """Return the seconds left if all rounds are run, from the mean of the last five."""
        recent = self._seconds[-5:]
        return max(0.0, (self._rounds - len(self._values)) * sum(recent) / len(recent))


def _number(value: float | None) -> str:
    return "  -   " if value is None else f"{value:.4f}"
