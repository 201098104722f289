"""``python -m benchmarks [PART ...]``: measure, print tables, keep the numbers.

Everything is run as a user runs it, by the command, in a fresh home; the numbers that count are ratios within one
run. Other work on the machine spoils them, so the load average stands beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    accuracy,
    clinical,
    coordinator_memory,
    delivery,
    federated_rounds,
    many_hospitals,
    scaling,
    speed,
)
from benchmarks.results import DOCS, Part, keep, machine, section, write_page
from flows.embedded_prefect import prepare_templates
from flows.home import home_folder

FEDERATION = ("rounds", "hospitals", "delivery", "memory")
PARTS = ("speed", "scaling", "accuracy", "clinical", *FEDERATION)
GROUPS = {"federation": FEDERATION}  # several parts by one name


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts that were asked for, one after the other."""
    options = parse(arguments)
    folder = options.output or home_folder() / "benchmarks"
    measures: dict[str, Callable[[Path], Part]] = {
        "speed": lambda work: speed.measure(work, repeats=options.repeats, rounds=options.rounds),
        "scaling": lambda work: scaling.measure(work, largest_millions=options.largest),
        "accuracy": lambda work: accuracy.measure(work, seeds=range(1, options.seeds + 1)),
        "clinical": lambda work: clinical.measure(work, seeds=range(1, options.seeds + 1)),
        "rounds": lambda work: federated_rounds.measure(work, rounds=options.rounds, database=options.database),
        "hospitals": lambda work: many_hospitals.measure(
            work, rounds=options.rounds, hospitals=options.hospitals, database=options.database
        ),
        "delivery": lambda work: delivery.measure(
            work, repeats=options.repeats, millions=min(options.largest, delivery.MILLIONS)
        ),
        "memory": lambda work: coordinator_memory.measure(work, database=options.database),
    }
    print(f"On {machine()}.\n", flush=True)
    prepare_templates()
    for name in options.parts:
        with tempfile.TemporaryDirectory(prefix="wardround-bench-", dir=options.work) as work:
            part = measures[name](Path(work))
        keep(part, folder)
        print(section(part), flush=True)
    if options.write_docs:
        write_page(PARTS, folder)
        print(f"Written: {DOCS}")
    print(f"Kept in {folder}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; federation: {', '.join(FEDERATION)}"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant (speed, delivery); default 5")
    parser.add_argument(
        "--rounds", type=int, default=10,
        help="rounds of the job (speed; 3 at least), rounds after two that warm up (rounds, hospitals); default 10",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (accuracy, clinical); default 3")
    parser.add_argument("--largest", type=float, default=100.0, help="largest network in millions (scaling, delivery)")
    parser.add_argument("--hospitals", type=int, default=64, help="how many are connected (hospitals); default 64")
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql", "both"), default="both",
        help="where a federation's servers record (rounds, hospitals, memory); default both",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for the results; default .wardround/benchmarks")
    parser.add_argument("--work", type=Path, help="folder for what runs write meanwhile; default the system's")
    parser.add_argument("--write-docs", action="store_true", help="write all results kept so far as docs/benchmarks.md")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS) - GROUPS.keys())
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join([*PARTS, *GROUPS])}")
    named = [part for name in options.parts for part in GROUPS.get(name, (name,))]
    options.parts = list(dict.fromkeys(named)) or list(PARTS)
    return options


if __name__ == "__main__":
    main()
