"""What the fault tests measured: a line of JSON for each trial, and the table in the docs that is made of them.

::

    python -m tests.end_to_end.faults.table RECORDS      prints the table
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "WARDROUND_FAULT_RECORDS"


@dataclass(frozen=True)
class Trial:
    """One fault, survived.

    Attributes:
        fault: What was done.
        stage: When, in a round.
        detection_s: Seconds until the system had noticed: what was killed ran again, or what waited said for whom.
        recovery_s: Seconds from the fault until the training had gone a step on.
    """

    fault: str
    stage: str
    detection_s: float
    recovery_s: float


@dataclass(frozen=True)
class Week:
    """A training that was disturbed all the time.

    Attributes:
        hospitals: How many took part.
        rounds: Rounds of the study.
        committed: Rounds that became a version, all as undisturbed.
        faults: What was done, and how often.
        seconds: How long it took.
        slope_mb: By how much all processes together grew in a hundred rounds, in MB.
    """

    hospitals: int
    rounds: int
    committed: int
    faults: dict[str, int]
    seconds: float
    slope_mb: float


def record(trial: Trial | Week) -> None:
    """Append a trial to the file that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial)) + "\n")


def read_trials(path: Path) -> list[Trial]:
    """Return the trials of a file; a week is none."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Trial(**line) for line in lines if "fault" in line]


def table(trials: Sequence[Trial]) -> str:
    """Return the table, in Markdown.

    >>> print(table([Trial("kill -9 of a", "training", 0.5, 2.0), Trial("kill -9 of a", "training", 1.5, 3.0)]))
    | fault | stage | trials | noticed after (s): median, worst | a step on after (s): median, worst | lost |
    |---|---|--:|--:|--:|--:|
    | kill -9 of a | training | 2 | 1.0, 1.5 | 2.5, 3.0 | 0 |
    """
    rows = defaultdict(list)
    for trial in trials:
        rows[trial.fault, trial.stage].append(trial)
    lines = [
        "| fault | stage | trials | noticed after (s): median, worst | a step on after (s): median, worst | lost |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (fault, stage), found in sorted(rows.items()):
        noticed = [trial.detection_s for trial in found]
        gone_on = [trial.recovery_s for trial in found]
        lines.append(f"| {fault} | {stage} | {len(found)} | {_spread(noticed)} | {_spread(gone_on)} | 0 |")
    return "\n".join(lines)


def summary(trials: Sequence[Trial]) -> str:
    """Say what all trials come to: medians, 95th percentiles, the worst, and how many may lose something at the most.

    >>> print(summary([Trial("kill -9 of a", "training", 0.5, 2.0), Trial("kill -9 of a", "training", 1.5, 3.0)]))
    | 2 trials | median (s) | 95th percentile (s) | worst (s) |
    |---|--:|--:|--:|
    | noticed after | 1.0 | 1.5 | 1.5 |
    | a step on after | 2.5 | 3.0 | 3.0 |
    <BLANKLINE>
    None lost anything: the share of such faults that do is below 100 % (95 % confidence, rule of three).
    """
    lines = [f"| {len(trials)} trials | median (s) | 95th percentile (s) | worst (s) |", "|---|--:|--:|--:|"]
    for heading, name in (("noticed after", "detection_s"), ("a step on after", "recovery_s")):
        found = sorted(getattr(trial, name) for trial in trials)
        high = found[math.ceil(0.95 * len(found)) - 1]
        lines.append(f"| {heading} | {statistics.median(found):.1f} | {high:.1f} | {found[-1]:.1f} |")
    most = min(300 / len(trials), 100)
    bound = f"the share of such faults that do is below {most:.3g} % (95 % confidence, rule of three)."
    return "\n".join([*lines, "", f"None lost anything: {bound}"])


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}"


if __name__ == "__main__":
    found = read_trials(Path(sys.argv[1]))
    print(table(found), summary(found), sep="\n\n")
