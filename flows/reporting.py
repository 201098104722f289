"""The report of a training: one self-contained HTML file beside the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.tracking.aliases import AliasDecision
from flows.results import Results
from flows.session import Session


def write_report(session: Session, results: Results, figures: Mapping[str, bytes], champion: AliasDecision) -> Path:
    """Write the report."""
    path = session.folder / "report.html"
    path.write_text("<html></html>", encoding="utf-8")
    return path
