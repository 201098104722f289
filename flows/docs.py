"""Write the reference of the studies' fields into the pages of `PAGES`: ``python -m flows.docs``.

The text is the docstrings' of `components.study` and `components.analytics.plan`, so that it cannot say another thing
than the code.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components import study
from components.analytics import plan

BEGIN = "<!-- made by `python -m flows.docs`; do not edit below -->\n"
SECTIONS = (
    study.Study, study.Task, study.Survival, study.Grid, study.Treatment, study.Network, study.Data, study.Records,
    study.Feature, study.Wide, study.Arm, study.Given, study.History, study.Index, study.Outcome, study.Splits,
    study.Site, study.VirtualSites,
    study.StrategyChoice, study.Rounds, study.Convergence, study.Selection, study.LocalTraining,
    study.Optimizer, study.Evaluation, study.Subgroup,
)  # fmt: skip
ANALYSIS_SECTIONS = (
    plan.AnalysisStudy, plan.Attendance, plan.Analysis, plan.TableSource, plan.Time, plan.Event, plan.Arm,
    plan.Covariate, plan.Condition, plan.Cox, plan.Power, plan.Disclosure,
)  # fmt: skip
PAGES = {"study.md": SECTIONS, "analytics.md": ANALYSIS_SECTIONS}


def study_reference(sections: Sequence[type[BaseModel]] = SECTIONS) -> str:
    """The reference as Markdown: a table of fields for each section."""
    return "\n".join(_section(section) for section in sections)


def write_reference(page: Path) -> bool:
    """Replace what follows the mark in a page, by its name one of `PAGES`; return whether that changed it.

    Raises:
        ValueError: The page has no mark.
    """
    text = page.read_text()
    head, mark, _ = text.partition(BEGIN)
    if not mark:
        raise ValueError(f"{page} does not hold the line {BEGIN.strip()}")
    new = f"{head}{mark}\n{study_reference(PAGES[page.name])}"
    page.write_text(new)
    return new != text


def _section(section: type[BaseModel]) -> str:
    """One section: its heading, what it is, its fields."""
    text = inspect.cleandoc(section.__doc__ or "")
    summary, _, rest = text.partition("Attributes:")
    described = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", rest, flags=re.MULTILINE))
    rows = [_row(name, field, described.get(name, "")) for name, field in section.model_fields.items()]
    table = ["| field | value | default | meaning |", "|---|---|---|---|", *rows]
    return f"### {section.__name__}\n\n{_plain(summary)}\n\n" + "\n".join(table) + "\n"


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    """One field as a row."""
    cells = (f"`{name}`", _value(field.annotation), _default(field), _plain(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    """A field's default as it would stand in YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_unset=True)
        return f"`{json.dumps(given)}`" if given else ""
    return f"`{json.dumps(value)}`" if value not in ("", [], {}) else "empty"


def _value(annotation: Any) -> str:
    """What may stand there, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(parts[0])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(part)}`" if part is not None else "`null`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(_value(part) for part in parts)
    if origin in (list, tuple):
        return f"list of {_value(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _WORDS.get(origin or annotation, "any")


_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    NoneType: "`null`",
    dict: "mapping",
}


def _plain(text: str) -> str:
    """A docstring's text as one line of Markdown."""
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    for name in PAGES:
        changed = write_reference(Path(__file__).resolve().parent.parent / "docs" / name)
        print(f"docs/{name} was brought up to date" if changed else f"docs/{name} is up to date")
