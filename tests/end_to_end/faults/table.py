"""What the fault tests measured: a line of JSON for each trial, and the table in the docs that is made of them.

::

    python -m tests.end_to_end.faults.table RECORDS      prints the table
"""

from __future__ import annotations

import json
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


def record(trial: Trial) -> None:
    """Append a trial to the file that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial)) + "\n")


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


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}"


if __name__ == "__main__":
    print(table([Trial(**json.loads(line)) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]))
