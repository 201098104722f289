"""What the doctor has done in a process like a site's: a timed batch, and a study's data opened.

Run as ``python -m flows.doctor_child`` with the request as JSON on standard input; it writes two lines of JSON on
standard output, a `Timed` and (if a study was given) an `Opened`. What can go wrong is in them, in words for the
hospital's own terminal. The doctor imports this module for its records: torch comes when it is run.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.errors import RefusedError, WardRoundError
from components.governance.hospital_settings import read_settings, review_study
from components.rounds import ItemCounts, Record
from components.study import Study, VirtualSites, item_shape

if TYPE_CHECKING:
    from components.data.site_data import SiteData

_ENOUGH_S, _MOST_STEPS = 5.0, 20
_R = TypeVar("_R", bound=Record)
# A film of usual size for a first impression of a machine, where no study says more.
STANDARD: dict[str, Any] = {
    "study": "standard",
    "task": {"classes": ["no", "yes"]},
    "network": {"name": "CNN"},
    "data": {"source": "folder", "path": "none", "spatial_size": [128, 128]},
    "sites": {"count": 1},
    "local": {"epochs": 1, "batch_size": 16},
}


class Asked(Record):
    """What is asked of the child: the hospital's folder, its site's name, and a study file, if there is one."""

    folder: str
    site: str
    study: str | None


class Timed(Record):
    """A training step, timed.

    Attributes:
        device: ``cpu`` or ``cuda``.
        gpus: How many a process here can use.
        driver: Whether the machine has NVIDIA's driver.
        torch: Version of torch.
        batch_size: Items of a step.
        step_s: Seconds of a step, after the first.
        score_s: Seconds to score one item.
        start_s: Seconds until a process is ready to compute.
        problem: Why nothing could be timed.
    """

    device: str = "cpu"
    gpus: int = 0
    driver: bool = False
    torch: str = ""
    batch_size: int = 0
    step_s: float = 0.0
    score_s: float = 0.0
    start_s: float = 0.0
    problem: str = ""


class Opened(Record):
    """A study's data, opened.

    Attributes:
        study: Name of the study.
        items: What was expected, usable and set aside.
        steps: Optimiser steps of a round.
        scored: Items that a round scores.
        seconds: How long opening took; next time it takes less.
        problem: Why it cannot be used.
    """

    study: str = ""
    items: ItemCounts | None = None
    steps: int = 0
    scored: int = 0
    seconds: float = 0.0
    problem: str = ""


def time_steps(study: Study) -> Timed:
    """Train and score made-up images exactly as a site trains and scores its own.

    Raises:
        Exception: Whatever the device or a library raises.
    """
    import torch

    from components.training.devices import choose_device
    from components.training.evaluate import evaluate_site
    from components.training.local import TrainingOrder, train_site
    from flows.build import build_module

    local, module, data = study.local, build_module(study), _made_up(study)
    steps, took_s = 1, 0.0
    for _ in range(2):  # the first step pays for what is made once
        order = TrainingOrder(None, steps, local.batch_size, False, local.precision, local.device, seed=1)
        took_s = train_site(module, data, order).seconds
        steps_done, steps = steps, max(1, min(_MOST_STEPS, int(_ENOUGH_S / max(took_s, 1e-3))))
    begun = time.perf_counter()
    evaluate_site(module, data, "validation", bins=study.evaluate.bins, device=local.device)
    return Timed(
        device=choose_device(local.device).type,
        gpus=torch.cuda.device_count(),
        driver=has_driver(),
        torch=str(torch.__version__),
        batch_size=local.batch_size,
        step_s=took_s / steps_done,
        score_s=(time.perf_counter() - begun) / data.size("validation"),
    )


def open_data(asked: Asked, study: Study) -> Opened:
    """Open a study's data as the site would, after the hospital's policy allowed it.

    Raises:
        WardRoundError: If it cannot be used.
    """
    from components.data.agreement import found_at, is_open, settled
    from components.data.site_data import open_site_data

    folder, begun = Path(asked.folder), time.perf_counter()
    settings = read_settings(folder)
    review_study(settings.policy, study)
    if not isinstance(study.sites, VirtualSites) and asked.site not in [site.name for site in study.sites]:
        named = ", ".join(site.name for site in study.sites)
        raise RefusedError(f"the study does not name {asked.site}; it names {named}")
    state = folder / "studies" / study.study
    state.mkdir(parents=True, exist_ok=True)
    source = settings.source_of(study.study, asked.site)
    if is_open(study):  # by this table alone; the coordinator compares it with the others'
        study = settled(study, {asked.site: found_at(study, source)})
    data = open_site_data(study, source, state)
    batches = data.train_batches(batch_size=study.local.batch_size, seed=1)
    return Opened(
        study=study.study,
        items=data.counts,
        steps=study.local.steps or (study.local.epochs or 1) * len(batches),
        scored=data.size("validation"),
        seconds=time.perf_counter() - begun,
    )


def has_driver() -> bool:
    """Return whether this machine has NVIDIA's driver, whether or not this process may use it."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _made_up(study: Study) -> SiteData:
    """Return images of noise, as many as a step takes, and as many to score."""
    import torch

    from components.data.site_data import SiteData
    from components.rounds import Split

    classes, half = len(study.task.classes), max(study.local.batch_size, len(study.task.classes))
    images = torch.rand(2 * half, *item_shape(study))
    labels = torch.arange(2 * half) % classes
    if study.task.survival is not None:
        times = torch.rand(2 * half) * study.task.survival.grid.end
        labels = torch.stack([times, (torch.arange(2 * half) % 2).float()], dim=1)
    elif study.task.kind == "multilabel":
        labels = torch.nn.functional.one_hot(labels, classes).float()
    splits: list[Split] = [*["train"] * half, *["validation"] * half]  # type: ignore[list-item]
    counts = ItemCounts(expected=2 * half, usable=2 * half, quarantined=0)
    return SiteData(study, images, labels, splits=splits, counts=counts)


def _read_study(path: str | None) -> tuple[Study, str]:
    """Return the study of a file, or the standard one and what is wrong with the file."""
    from components.study_file import load_study
    from flows.build import check_network

    if path is not None:
        try:
            return load_study(path, checks=(check_network,)), ""
        except WardRoundError as error:
            return Study.model_validate(STANDARD), str(error)
    return Study.model_validate(STANDARD), ""


def _say(error: Exception) -> str:
    """Return what went wrong, for the hospital's own terminal."""
    if isinstance(error, WardRoundError):
        return str(error)
    return f"{type(error).__name__}: {str(error)[:300]}"


def main() -> None:
    """Do what standard input asks for."""
    begun = time.perf_counter()
    asked = Asked.model_validate_json(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    from flows.lean import lean_imports

    with lean_imports():
        import torch

        study, wrong = _read_study(asked.study)
        if study.data.records is None:
            import monai  # noqa: F401 - as a site's process does
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    start_s = time.perf_counter() - begun
    try:
        timed = time_steps(study).model_copy(update={"start_s": start_s})
    except Exception as error:
        timed = Timed(driver=has_driver(), torch=str(torch.__version__), problem=_say(error))
    print(timed.model_dump_json(), file=answers, flush=True)
    if asked.study is None:
        return
    try:
        opened = Opened(problem=wrong) if wrong else open_data(asked, study)
    except Exception as error:
        opened = Opened(study=study.study, problem=_say(error))
    print(opened.model_dump_json(), file=answers, flush=True)


if __name__ == "__main__":
    main()
