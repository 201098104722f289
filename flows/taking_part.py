"""Who takes no part in a study that does not name its sites, in words: hospitals that have no data for it."""

from __future__ import annotations

from collections.abc import Sequence


def no_data_anywhere(study: str, sites: Sequence[str]) -> str:
    """Say that nobody has data for a study, and what helps.

    >>> no_data_anywhere("trial", ["east", "north"])
    'no hospital has data for the study trial (asked: east, north): name them in its hospital.yaml'
    """
    return f"no hospital has data for the study {study} (asked: {', '.join(sites)}): name them in its hospital.yaml"


def without_data_text(study: str, sites: Sequence[str]) -> str:
    """Say who takes no part in a study.

    >>> without_data_text("trial", ["east", "north"])
    'taking no part, without data for the study trial: east, north'
    """
    return f"taking no part, without data for the study {study}: {', '.join(sites)}"
