"""The job that is measured: PneumoniaMNIST at three sites, and the same steps for a plain loop.

The plain loop is handed rows of the npz file, in the order in which the sites take them, so that it knows
nothing of this project and yet takes the very same steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.commands import ROOT
from components.assemble import assemble
from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.seeds import derive_seed
from components.simulation import simulate
from components.site_source import SiteSource
from components.study import Study
from components.study_file import dump_study, load_study
from components.training.evaluate import BATCH_SIZE
from components.weights import Weights
from flows.build import build_module
from flows.dispatch import InProcessDispatcher

STUDY = ROOT / "studies" / "pneumonia.yaml"


def pneumonia(**overrides: Any) -> Study:
    """Return the example study without comparisons; dots in the names of `overrides` are double underscores."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_study(STUDY, {"evaluate.compare": [], "rounds.convergence": None, **given})


def write_study(study: Study, folder: Path) -> Path:
    """Write a study file into a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study.study}.yaml"
    path.write_text(dump_study(study), encoding="utf-8")
    return path


def write_plain_job(study: Study, folder: Path, *, channels_last: bool = False) -> Path:
    """Write what `benchmarks.plain_loop` needs: a JSON file, the initial weights and the rows of all batches.

    Args:
        study: An npz study with one local epoch, SGD, and a DenseNet.
        folder: Where to.
        channels_last: Train in the memory format that ours trains in, instead of PyTorch's default.

    Returns:
        The JSON file.

    Raises:
        ValueError: If a site's items are not the rows of the npz file that they should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = plan_sources(study, STUDY.parent)
    rows: dict[str, Tensor] = {}
    for source in sources:
        rows |= _rows(study, source, open_site_data(study, source, folder / "sites" / source.name))
    save_file(rows, folder / "rows.safetensors")
    network = build_module(study).network
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "start.safetensors")
    job = {
        "npz": sources[0].parts[0].path,
        "sites": [source.name for source in sources],
        "rows": str(folder / "rows.safetensors"),
        "start": str(folder / "start.safetensors"),
        "after_round_1": str(folder / "after-round-1.safetensors"),
        "network": dict(study.network.arguments),
        "window": list(study.data.window or ()),
        "rounds": study.rounds.max,
        "batch_size": study.local.batch_size,
        "evaluation_batch_size": BATCH_SIZE,
        "learning_rate": study.local.optimizer.learning_rate,
        "momentum": study.local.optimizer.momentum,
        "channels_last": channels_last,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return path


def first_round(study: Study, folder: Path) -> Weights:
    """Return the global weights after one round of ours, run in this process."""
    one = study.model_copy(update={"rounds": study.rounds.model_copy(update={"max": 1})})
    settings = {
        source.name: SiteSetting(
            study=one, source=source, state=str(folder / source.name), store=str(folder / "exchange")
        )
        for source in plan_sources(one, STUDY.parent)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        result = simulate(
            one,
            assemble(one).strategy,
            dispatcher,
            FolderStore(folder / "exchange"),
            sites=list(settings),
            training="one-round",
            initial=dispatcher.initialise(one).result(),
        )
    return result.state.weights


def largest_difference(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any entry between our weights and the plain network's."""
    names = {f"network.{name}": name for name in plain if plain[name].is_floating_point()}
    if names.keys() != ours.keys():
        raise ValueError(f"entries differ: {sorted(names.keys() ^ ours.keys())[:5]}")
    return max(float((ours[name] - plain[other]).abs().max()) for name, other in names.items())


def _rows(study: Study, source: SiteSource, data: SiteData) -> dict[str, Tensor]:
    """Return a site's rows of the npz file: the validation items, and the training items in each round's order."""
    with np.load(source.parts[0].path, allow_pickle=False) as file:
        lengths = [len(file[f"{part}_labels"]) for part in ("train", "val")]
    own = torch.tensor(source.parts[0].rows)
    train, validation = own[own < lengths[0]], own[(own >= lengths[0]) & (own < sum(lengths))]
    if (len(train), len(validation)) != (data.size("train"), data.size("validation")):
        raise ValueError(f"{source.name} has set items aside: its rows are not those of the file")
    rows = {f"{source.name}/validation": validation}
    for number in range(1, study.rounds.max + 1):
        seed = derive_seed(study.seed, "train", source.name, number)
        draw = torch.Generator().manual_seed(derive_seed(seed, "order", 0))
        rows[f"{source.name}/{number}"] = train[torch.randperm(len(train), generator=draw)]
    return rows
