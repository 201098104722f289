"""What a benchmark comes to, and how it is kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.commands import ROOT

DOCS = ROOT / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "pytorch-lightning", "monai", "mlflow", "prefect")


@dataclass(frozen=True)
class Part:
    """One benchmark's result.

    Attributes:
        name: The part's name on the command line.
        title: For people.
        text: Markdown.
        data: Every number measured, as JSON.
    """

    name: str
    title: str
    text: str
    data: dict[str, Any]


def machine() -> str:
    """Return what was measured on, without the machine's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{cores} cores ({platform.machine()}), Python {platform.python_version()}, {libraries}, no GPU used"


def keep(part: Part, folder: Path) -> None:
    """Write a part as ``<name>.json`` and ``<name>.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"title": part.title, "machine": machine(), **part.data}
    (folder / f"{part.name}.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / f"{part.name}.md").write_text(section(part), encoding="utf-8")


def section(part: Part) -> str:
    """Return a part as a section of a page."""
    return f"## {part.title}\n\n{part.text}\n"


def write_page(names: Sequence[str], folder: Path, page: Path = DOCS) -> None:
    """Write one page of all parts that a folder holds, in the order of `names`."""
    sections = [
        (folder / f"{name}.md").read_text(encoding="utf-8") for name in names if (folder / f"{name}.md").exists()
    ]
    how = "`make bench` measures them anew, `make bench ARGS=NAME` a part of them."
    head = f"# Benchmarks\n\n{how} Measured on {machine()}.\n"
    page.write_text("\n".join([head, *sections]), encoding="utf-8")
