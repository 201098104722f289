"""Hospitals whose patients have many genes beside an age; programmes of genes that go together decide the risk."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.study import Study
from tests.references import tiny_survival, tiny_table
from tests.references.tiny_table import SITES, Patient, write_table

STUDY, PROGRAMMES = "genes", 3


def names(genes: int) -> list[str]:
    """Names of the genes' columns, in the order of a table."""
    return [f"gene_{number:05d}" for number in range(genes)]


def patients(site: str, count: int, genes: int, *, missing: float = 0.0, seed: int = 5) -> list[Patient]:
    """Make a site's patients, with both outcomes; the first programme raises, the second lowers the risk."""
    random, shared = np.random.default_rng([seed, *site.encode()]), np.random.default_rng(seed)
    weights = shared.normal(size=(PROGRAMMES, genes)) * np.linspace(1.0, 0.6, PROGRAMMES)[:, None]
    activity = random.normal(size=(count, PROGRAMMES))
    values = (8 + activity @ weights + random.normal(size=(count, genes))).round(3)
    risk = 1.2 * activity[:, 0] - 0.8 * activity[:, 1]
    time, ended = random.exponential(6 * np.exp(-risk)), random.uniform(1, 12, size=count)
    cells = np.where(random.random(size=values.shape) < missing, "", values.astype(str)).tolist()
    made: list[Patient] = []
    for place in range(count):
        made.append({
            "age": round(random.uniform(30, 85), 1),
            "outcome": "ill" if random.random() < 1 / (1 + math.exp(-2 * risk[place])) else "well",
            "years": round(min(time[place], ended[place]), 4), "died": "yes" if time[place] <= ended[place] else "no",
            **dict(zip(names(genes), cells[place], strict=True)),
        })  # fmt: skip
    return made


def write_hospitals(
    folder: Path,
    genes: int,
    *,
    sizes: Mapping[str, int] = {},
    change: Callable[[str, list[Patient]], list[Patient]] | None = None,
    **how: Any,
) -> Path:
    """Write ``patients.csv`` into a folder for each site; `sizes` says how many they are, `change` may spoil them."""
    for site, count in {**SITES, **sizes}.items():
        rows = patients(site, count, genes, **how)
        write_table(folder / site / "patients.csv", change(site, rows) if change else rows)
    return folder


def records(genes: int, **wide: Any) -> dict[str, Any]:
    """The words of ``data.records``."""
    return {"features": tiny_table.FEATURES[:1], "wide": {"columns": names(genes), "unit": "log2 counts", **wide}}


def class_study(genes: int, *, wide: dict[str, Any], **changes: Any) -> Study:
    """A study of the binary outcome."""
    return tiny_table.table_study(**with_genes(tiny_table.sections()["data"], genes, wide), **changes)


def event_study(genes: int, *, wide: dict[str, Any], **changes: Any) -> Study:
    """A study of the time until death."""
    return tiny_survival.survival_study(**with_genes(tiny_survival.sections()["data"], genes, wide), **changes)


def with_genes(data: dict[str, Any], genes: int, wide: dict[str, Any]) -> dict[str, Any]:
    """The section of the data with the genes."""
    return {"data": {**data, "records": records(genes, **wide)}}


def write_study(folder: Path, genes: int, *, wide: dict[str, Any], **changes: Any) -> Path:
    """Write the study of the binary outcome as ``genes.yaml``, and the columns' names beside it."""
    (folder / "genes.txt").write_text("\n".join(names(genes)) + "\n", encoding="utf-8")
    data = tiny_table.sections()["data"]
    table = records(genes, **{"columns": "genes.txt", **wide})
    if "pattern" in wide:
        table["wide"].pop("columns")
    sections = tiny_table.sections(**{"study": STUDY, "data": {**data, "records": table}, **changes})
    path = folder / "genes.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path
