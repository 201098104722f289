"""Speed and memory of the job, against a plain PyTorch loop that takes the same steps."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.commands import environment, python, run
from benchmarks.job import first_round, largest_difference, pneumonia, write_plain_job, write_study
from benchmarks.readings import read_training, seconds_per_round
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table, megabytes
from components.study import Study
from components.weights import digest

PLAIN, PLAIN_LAST, ONE, TWO = "plain loop", "plain loop, channels last", "one process", "two processes"


@dataclass(frozen=True)
class Run:
    """One run of the job.

    Attributes:
        variant: Who ran it.
        round_s: Seconds per round, from the third on.
        training_s: Of these, seconds in the sites' local training, added up over the sites (ours only).
        first_step_s: From the command to the first optimiser step.
        job_s: From the command to its end.
        peak_bytes: Most memory of the coordinating process.
        other_peak_bytes: Most memory of any other process.
        load: Load average of the machine when it started.
    """

    variant: str
    round_s: float
    training_s: float
    first_step_s: float
    job_s: float
    peak_bytes: int
    other_peak_bytes: int
    load: float


def measure(work: Path, *, repeats: int, rounds: int = 10) -> Part:
    """Run the plain loop in both memory formats, ours in one process and ours in two, in turn, several times.

    Args:
        work: An empty folder for what the runs write; removed run by run.
        repeats: How often each.
        rounds: Rounds of the job.
    """
    study = pneumonia(rounds__max=rounds)
    job = write_plain_job(study, work / "plain")
    job_last = write_plain_job(study, work / "plain-channels-last", channels_last=True)
    file = write_study(study, work)
    ours = first_round(study, work / "first-round")
    variants: dict[str, Callable[[], Run]] = {
        PLAIN: lambda: run_plain(job, work, PLAIN),
        PLAIN_LAST: lambda: run_plain(job_last, work, PLAIN_LAST),
        ONE: lambda: run_ours(study, file, work / "home", processes=1, expected=digest(ours)),
        TWO: lambda: run_ours(study, file, work / "home", processes=2, expected=digest(ours)),
    }
    for warm_up in (variants[PLAIN], variants[ONE]):  # fills the page cache and migrates the empty databases once
        warm_up()
    runs: list[Run] = []
    for number in range(repeats):
        order = list(variants)[number % 4 :] + list(variants)[: number % 4]
        runs += [variants[name]() for name in order]
    difference = largest_difference(ours, load_file(work / "plain-channels-last" / "after-round-1.safetensors"))
    return report(runs, difference=difference)


def run_plain(job: Path, work: Path, variant: str) -> Run:
    """Run the plain loop once."""
    done = run(python("benchmarks.plain_loop", str(job)), variables=environment(work / "home"))
    said = json.loads(done.output.splitlines()[-1])
    return Run(
        variant=variant,
        round_s=seconds_per_round(said["rounds"]),
        training_s=0.0,
        first_step_s=said["first_step"] - done.started,
        job_s=done.seconds,
        peak_bytes=said["peak_bytes"],
        other_peak_bytes=0,
        load=done.load,
    )


def run_ours(study: Study, file: Path, home: Path, *, processes: int, expected: str) -> Run:
    """Run our command once, in a fresh home.

    Raises:
        RuntimeError: If the weights after the first round are not those of the simulation, bit for bit.
    """
    shutil.rmtree(home, ignore_errors=True)
    command = python("flows.cli", "simulate", str(file), "--dispatcher", f"processes:{processes}")
    done = run(command, variables=environment(home))
    found = read_training(home, study.study)
    if found.first_digest != expected:
        raise RuntimeError(f"after one round the flow has weights {found.first_digest}, the simulation {expected}")
    return Run(
        variant=ONE if processes == 1 else TWO,
        round_s=seconds_per_round(found.rounds),
        training_s=statistics.mean(found.training_s[2:]),
        first_step_s=found.first_step_by - done.started,
        job_s=done.seconds,
        peak_bytes=done.peak_bytes,
        other_peak_bytes=done.other_peak_bytes,
        load=done.load,
    )


def ratios(runs: Sequence[Run], variant: str) -> list[float]:
    """Return seconds per round over the plain loop's, repeat by repeat: neighbours in time are compared."""
    plain = [item.round_s for item in runs if item.variant == PLAIN]
    return [item.round_s / base for item, base in zip(_of(runs, variant), plain, strict=True)]


def report(runs: Sequence[Run], *, difference: float) -> Part:
    """Write up the runs."""
    middle = {variant: _medians(_of(runs, variant)) for variant in (PLAIN, PLAIN_LAST, ONE, TWO)}
    ratio = {variant: statistics.median(ratios(runs, variant)) for variant in (ONE, TWO)}
    more = middle[ONE]["peak_bytes"] - middle[PLAIN]["peak_bytes"]
    spread = {variant: f"{min(ratios(runs, variant)):.2f} to {max(ratios(runs, variant)):.2f}" for variant in ratio}
    asked: list[list[Cell]] = [
        ["seconds per round, one process / plain", ratio[ONE], spread[ONE], "<= 1.15", ratio[ONE] <= 1.15],
        ["seconds per round, two processes / plain", ratio[TWO], spread[TWO], "<= 0.85", ratio[TWO] <= 0.85],
        ["command to first local step, two processes (s)", *_line(runs, "first_step_s", 8)],
        ["whole job, two processes (s)", *_line(runs, "job_s", 20)],
        ["peak memory over the plain loop's (MB)", more / 1e6, "", "<= 600", more <= 600e6],
    ]
    rows: list[list[Cell]] = [
        [name, *(value[key] for key in ("round_s", "training_s", "first_step_s", "job_s")),
         megabytes(value["peak_bytes"]), megabytes(value["other_peak_bytes"])]
        for name, value in middle.items()
    ]  # fmt: skip
    header = ["", "round (s)", "of it training (s)", "first step (s)", "job (s)", "memory", "largest other process"]
    repeats, loads = len(runs) // 4, sorted(item.load for item in runs)
    text = "\n\n".join([
        f"Medians of {repeats} runs each, interleaved; load average when they started {loads[0]:.1f} to "
        f"{loads[-1]:.1f}. A round is from the third on, with its evaluation, and everything recorded beside it. "
        "Training is added up over the sites. Our first step is an upper bound: all that the first training took "
        "longer than a later one counts as before it. We train in the channels-last memory format, a plain loop by "
        f"default does not; in that format its weights after one round differ from ours by {difference:.1e} at the "
        "most.",
        markdown_table(header, rows),
        markdown_table(["measured", "median", "range", "asked", "holds"], asked),
    ])  # fmt: skip
    data = {"runs": [asdict(item) for item in runs], "ratios": ratio, "largest_difference": difference}
    return Part("speed", "Speed and memory of the main job", text, data)


def _of(runs: Sequence[Run], variant: str) -> list[Run]:
    return [item for item in runs if item.variant == variant]


def _medians(runs: Sequence[Run]) -> Mapping[str, float]:
    """Return the median of each number."""
    numbers = [{key: value for key, value in asdict(item).items() if key != "variant"} for item in runs]
    return {key: statistics.median(row[key] for row in numbers) for key in numbers[0]}


def _line(runs: Sequence[Run], field: str, most: float) -> list[str | float | bool]:
    """Return median, range, what is asked and whether it holds, for two processes."""
    values = [float(getattr(item, field)) for item in _of(runs, TWO)]
    middle = statistics.median(values)
    return [middle, f"{min(values):.1f} to {max(values):.1f}", f"<= {most:g}", middle <= most]
