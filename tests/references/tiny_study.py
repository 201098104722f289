"""A study small enough to train in a test: films of 16 by 16 pixels, three virtual sites, a network of two blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.study import Study

STUDY = "tiny"
_ITEMS = {"train": 96, "val": 36, "test": 48}
_SECTIONS: dict[str, Any] = {
    "study": STUDY,
    "task": {"kind": "binary", "classes": ["normal", "ill"]},
    "network": {"name": "CNN", "arguments": {"widths": [4, 8]}},
    "data": {"source": "npz", "path": "films.npz", "spatial_size": [16, 16], "intensity": "window", "window": [0, 255]},
    "sites": {"partition": "sizes:0.5,0.3,0.2"},
    "strategy": {"name": "FedAvg"},
    "rounds": {"max": 3, "convergence": None},
    "local": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}},
    "seed": 1,
}


def write_films(folder: Path, *, seed: int = 5) -> Path:
    """Write noise as ``films.npz``; a third of the films has a bright square in the middle, the ill ones."""
    random = np.random.default_rng(seed)
    arrays = {}
    for split, count in _ITEMS.items():
        ill = np.arange(count) % 3 == 0
        films = random.integers(0, 160, (count, 16, 16))
        films[ill, 4:12, 4:12] += 60
        arrays |= {f"{split}_images": films.astype(np.uint8), f"{split}_labels": ill.astype(np.uint8)[:, None]}
    np.savez(folder / "films.npz", **arrays)
    return folder / "films.npz"


def sections(**changes: Any) -> dict[str, Any]:
    """The study as plain data; a section given here is laid over the tiny study's own, key by key."""
    found = dict(_SECTIONS)
    for name, value in changes.items():
        before = found.get(name)
        found[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return found


def tiny_study(**changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(**changes))


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study as ``tiny.yaml``."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections(**changes)), encoding="utf-8")
    return path
