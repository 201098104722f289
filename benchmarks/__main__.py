"""``python -m benchmarks [PART ...]``: measure, print tables, keep the numbers.

Everything is run as a user runs it, by the command, in a fresh home; the numbers that count are ratios within one
run. Other work on the machine spoils them, so the load average stands beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import accuracy, scaling, speed
from benchmarks.results import DOCS, Part, keep, machine, section, write_page
from flows.embedded_prefect import prepare_templates
from flows.home import home_folder

PARTS = ("speed", "scaling", "accuracy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts that were asked for, one after the other."""
    options = parse(arguments)
    folder = options.output or home_folder() / "benchmarks"
    measures: dict[str, Callable[[Path], Part]] = {
        "speed": lambda work: speed.measure(work, repeats=options.repeats, rounds=options.rounds),
        "scaling": lambda work: scaling.measure(work, largest_millions=options.largest),
        "accuracy": lambda work: accuracy.measure(work, seeds=range(1, options.seeds + 1)),
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
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant (speed); default 5")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the job (speed); default 10, 3 at least")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (accuracy); default 3")
    parser.add_argument("--largest", type=float, default=100.0, help="largest network in millions (scaling)")
    parser.add_argument("--output", type=Path, help="folder for the results; default .wardround/benchmarks")
    parser.add_argument("--work", type=Path, help="folder for what runs write meanwhile; default the system's")
    parser.add_argument("--write-docs", action="store_true", help="write all results kept so far as docs/benchmarks.md")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    return options


if __name__ == "__main__":
    main()
