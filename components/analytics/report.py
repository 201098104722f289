"""One self-contained HTML page per analysis: nothing is loaded from elsewhere, nothing in it runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from components.analytics.analysis import Results
from components.analytics.tables import Table
from components.analytics.wording import numeric_columns, shown_rows
from components.yaml_lines import dump_yaml

Picture = tuple[str, str, bytes]  # title, caption, PNG


def analysis_report(
    found: Results, tables: Sequence[Table], figures: Sequence[Picture], *, analysis: str, code_version: str
) -> str:
    """Write the report of one analysis.

    Args:
        found: What was found.
        tables: Its tables.
        figures: Its pictures.
        analysis: Identifier.
        code_version: Of WardRound.

    Guarantees:
        Every text is escaped; equal arguments give equal documents.
    """
    return _template().render(
        study=found.study,
        analysis=analysis,
        sites=found.sites,
        control=control_text(found),
        notes=found.notes,
        left_out=found.left_out,
        tables=tables,
        figures=figures,
        ties=found.study.analysis.cox.ties,
        code_version=code_version,
        study_text=dump_yaml(found.study.model_dump(mode="json", exclude_none=True)),
    )


def control_text(found: Results) -> str:
    """Say what disclosure control was agreed."""
    policy = found.study.analysis.disclosure
    if not policy.controlled:
        return "Disclosure control is off: for data that are public or lie in one place."
    return f"Disclosure control: no number from fewer than {policy.smallest_cell} patients" + (
        f", counts as multiples of {policy.rounding}." if policy.rounding > 1 else "."
    )


def _picture(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@cache
def _template() -> Template:
    """Read the page's template once."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(picture=_picture, shown_rows=shown_rows, numeric=numeric_columns)
    return page.from_string(files("components.analytics").joinpath("report.html.jinja").read_text(encoding="utf-8"))
