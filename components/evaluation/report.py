"""One self-contained HTML page per training: nothing is loaded from elsewhere, nothing in it runs.

The page is made by Jinja2 with autoescape on and undefined names refused, and carries a content security policy
that allows pictures and styles of its own and nothing else: a hostile name of a site or a class stays text.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import get_args
from urllib.parse import urlsplit

from jinja2 import Environment, StrictUndefined, Template

from components.digits import interval_text, number_text
from components.evaluation.benefit_metrics import IN_UNITS, digits_of
from components.evaluation.intervals import Estimate
from components.evaluation.summary import MODEL_NAMES, RoundSummary, SiteSummary, TrainingSummary
from components.study import Metric

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "loss": "Loss",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "concordance": "Concordance",
    "concordance_ipcw": "Concordance, weighted",
    "integrated_brier": "Integrated Brier score",
    "calibration_ratio": "Events seen / expected",
    "effect": "Mean effect of the treatment",
    "recommended_gain": "Gain of the recommended arm",
    "auuc": "Area under the uplift curve",
    "qini": "Qini coefficient",
    "benefit_slope": "Slope of the benefit",
    "benefit_offset": "Benefit, observed less predicted",
}
OFF_SCALE = (  # not of 0 to 1
    "loss", "calibration_slope", "calibration_intercept", "calibration_ratio",
    "effect", "recommended_gain", "auuc", "qini", "benefit_slope", "benefit_offset",
)  # fmt: skip
NAMED_SITES = 8  # up to so many sites a round's row names each; above, it counts them


def training_report(summary: TrainingSummary) -> str:
    """Write the report of one training.

    Args:
        summary: What there is to say.

    Returns:
        An HTML document. It needs no network, no script and no other file, prints in black on white, and
        equal summaries give equal documents.

    Guarantees:
        Every text of the summary is escaped. Only addresses with http or https become links.
    """
    comparisons = [summary.comparison, *(site.comparison for site in summary.sites)]
    named = {name for row in comparisons for name in row}
    models = [*(name for name in MODEL_NAMES if name in named), *sorted(named.difference(MODEL_NAMES))]
    return _template().render(
        summary=summary,
        metrics=[name for name in get_args(Metric) if _is_known(name, summary)],
        models=models,
        items={
            name: sum(getattr(site.items, name) for site in summary.sites)
            for name in ("expected", "usable", "quarantined")
        },
        rounds=[round_row(entry) for entry in summary.rounds],
        gaps=_gaps(summary),
    )


def round_row(entry: RoundSummary) -> dict[str, str]:
    """Return what the table of rounds says about who took part, as text.

    >>> entry = RoundSummary(1, "1", {"north": (8, 10)}, 2.0, None, "00", {"south": "refused: policy"})
    >>> round_row(entry)
    {'took_part': 'north', 'used': 'north 8/10', 'absent': 'south (refused: policy)'}
    """
    few = len(entry.items) <= NAMED_SITES
    used, expected = (sum(pair[place] for pair in entry.items.values()) for place in (0, 1))
    by_site = ", ".join(f"{site} {pair[0]}/{pair[1]}" for site, pair in entry.items.items())
    return {
        "took_part": ", ".join(entry.items) if few else f"{len(entry.items)} sites",
        "used": by_site if few else f"{used}/{expected}",
        "absent": _listed(f"{site} ({reason})" for site, reason in entry.absent.items()),
    }


def duration_text(seconds: float) -> str:
    """Write a duration in the units a person would use.

    >>> [duration_text(seconds) for seconds in (4.26, 75, 7260)]
    ['4.3 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _is_known(metric: str, summary: TrainingSummary) -> bool:
    """Tell whether a metric has a value anywhere."""
    return metric in summary.test or any(metric in site.test for site in summary.sites)


def _gaps(summary: TrainingSummary) -> list[str]:
    """Say which metrics have no value where, and why, in one sentence each."""
    sentences: dict[tuple[str, str], list[str]] = {}
    places: Iterable[tuple[str, Mapping[str, str]]] = (
        ("All sites", summary.undefined),
        *((site.name, site.undefined) for site in summary.sites),
    )
    for place, reasons in places:
        for metric, reason in reasons.items():
            sentences.setdefault((place, reason), []).append(METRIC_NAMES.get(metric, metric))
    return [f"{place}: no value for {', '.join(names)}: {reason}." for (place, reason), names in sentences.items()]


def _listed(parts: Iterable[str]) -> str:
    """Join a few texts, and count the rest."""
    texts = list(parts)
    return ", ".join(texts[:NAMED_SITES]) + (
        f" and {len(texts) - NAMED_SITES} more" if len(texts) > NAMED_SITES else ""
    )


def _instant(moment: datetime) -> str:
    """Write a moment in coordinated universal time."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _interval(found: Estimate, digits: int) -> str:
    """Write the interval of an estimate."""
    return interval_text(found.low, found.high, digits)


def _picture(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _is_web_address(address: str) -> bool:
    """Tell whether an address may become a link."""
    try:
        return urlsplit(address).scheme in ("http", "https")
    except ValueError:
        return False


def _bar(estimate: Estimate) -> str:
    """Return the style of a bar from the low to the high end of an interval on [0, 1]."""
    low, high = max(0.0, estimate.low), min(1.0, estimate.high)
    return f"left:{100 * low:.1f}%;width:{100 * max(high - low, 0.006):.1f}%"


def _usable_share(site: SiteSummary) -> str:
    """Write the usable part of a site's items in per cent, rounded down: 99.9 % is not all."""
    return f"{math.floor(100 * site.items.usable / site.items.expected)} %" if site.items.expected else "-"


@cache
def _template() -> Template:
    """Read the page's template once."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(
        instant=_instant,
        number=number_text,
        interval=_interval,
        picture=_picture,
        bar=_bar,
        duration=duration_text,
        usable_share=_usable_share,
    )
    page.tests["web_address"] = _is_web_address
    page.globals["metric_names"] = METRIC_NAMES
    page.globals["off_scale"], page.globals["model_names"] = OFF_SCALE, MODEL_NAMES
    page.globals["in_units"], page.globals["digits"] = IN_UNITS, digits_of
    return page.from_string(files("components.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8"))
