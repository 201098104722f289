"""The results of an analysis as tables: a line of names, then rows of text and numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from components.analytics.analysis import Results
from components.analytics.meta import Effect
from components.analytics.regression import Regression
from components.analytics.statistics import PooledCategory, Table1
from components.analytics.survival import Curve, median_time

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Of its file.
        title: For people.
        header: Names of the columns.
        rows: Its rows; None, and a number that is not finite, is nothing.
        note: What a reader has to know of it.
        shown: Whether the report shows it; a curve's points are for a file only.
        kinds: How people are shown the numbers of each column, see `components.analytics.wording`; all alike if empty.
        nothing: What people are shown where there is none.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    shown: bool = True
    kinds: tuple[str, ...] = ()
    nothing: str = ""


def csv_text(table: Table) -> str:
    """Write a table as CSV, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(["" if is_nothing(cell) else cell for cell in row] for row in table.rows)
    return text.getvalue()


def tables_of(found: Results) -> list[Table]:
    """Return every table that an analysis has."""
    tables = list[Table]()
    if found.table1 is not None:
        tables += [_table1(found, found.table1), _recruitment(found, found.table1)]
    if found.survival:
        tables += [_survival(found), _points(found, "survival_curves", {"survival": found.survival})]
    if found.means:
        tables.append(_means(found))
    if found.logrank:
        tables.append(_logrank(found))
    if found.cox is not None:
        tables.append(_cox(found.cox))
    if found.incidence:
        tables.append(_points(found, "incidence_curves", found.incidence))
    if found.effects:
        tables.append(_effects(found))
    if found.size is not None:
        tables.append(_size(found))
    return tables


def is_nothing(cell: Cell) -> bool:
    """Whether a cell is empty."""
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _arms(found: Results) -> list[str]:
    """Return the names of the arms, as a reader knows them."""
    arm = found.study.analysis.arm
    return [f"{arm.column}: {level}" for level in arm.levels]


def _table1(found: Results, table: Table1) -> Table:
    """Patients by arm."""
    arms, rows = _arms(found), list[list[Cell]]()
    rows.append(["patients", "n", *table.patients, *[None] * (len(arms) - 1)])
    for item in found.study.analysis.covariates:
        differences: list[Cell] = [*table.differences[item.name]]
        nothing: list[Cell] = [None] * len(differences)
        if item.kind == "number":
            numbers = table.numbers[item.name]
            name = f"{item.name} ({item.unit})" if item.unit else item.name
            rows.append([name, "mean", *(each.mean for each in numbers), *differences])
            rows.append([name, "standard deviation", *(math.sqrt(each.variance) for each in numbers), *nothing])
            for place, words in enumerate(("first quartile", "median", "third quartile")):
                rows.append([name, words, *(each.quartiles[place] for each in numbers), *nothing])
            rows.append([name, "missing", *(_at_least(each.missing, each.complete) for each in numbers), *nothing])
        else:
            categories = table.categories[item.name]
            for level, words in enumerate(item.levels or []):
                cells = [_share(each, level) for each in categories]
                rows.append([item.name, words, *cells, *(nothing if level else differences)])
            missing = [_at_least(each.missing, each.missing_complete) for each in categories]
            rows.append([item.name, "missing", *missing, *nothing])
    header = ["variable", "statistic", *arms, *(f"difference, {arm}" for arm in arms[1:])]
    note = "Differences are standardised mean differences to the first arm. At least: a site keeps a small count back."
    return Table("table1", "Patients by arm", header, rows, note)


def _at_least(count: int, complete: bool) -> Cell:
    """Write a count that may be a lower bound."""
    return count if complete else f"at least {count}"


def _share(category: PooledCategory, level: int) -> Cell:
    """Write a level's count, with its share where all counts are told."""
    count, total = category.counts[level], sum(category.counts)
    if not all(category.complete):
        return _at_least(count, category.complete[level])
    return f"{count} ({100 * count / total:.1f} %)" if total else count


def _recruitment(found: Results, table: Table1) -> Table:
    """Patients by site and arm."""
    rows: list[list[Cell]] = [
        [site, *("kept back" if count is None else count for count in counts)] for site, counts in table.sites.items()
    ]
    rows.append(["all sites, as far as told", *table.patients])
    return Table("recruitment", "Recruitment by site", ["site", *_arms(found)], rows)


def _survival(found: Results) -> Table:
    """Events and medians by arm."""
    unit, rows = found.study.analysis.time.unit, list[list[Cell]]()
    for arm, exits, curve in zip(_arms(found), found.exits, found.survival, strict=True):
        upper, lower = (
            median_time(Curve(curve.times, ends, curve.errors, ends, ends)) for ends in (curve.low, curve.high)
        )
        rows.append([arm, exits.patients, int(exits.events.sum()), median_time(curve), upper, lower])
    header = ["arm", "patients", "events", f"median ({unit})", "95 % from", "to"]
    return Table("survival", "Survival by Kaplan-Meier", header, rows, nothing="not reached")


def _points(found: Results, name: str, curves: dict[str, list[Curve]]) -> Table:
    """Every step of curves."""
    rows = list[list[Cell]]()
    for what, by_arm in curves.items():
        for arm, curve, exits in zip(_arms(found), by_arm, found.exits, strict=True):
            for place, time in enumerate(curve.times):
                ends = (curve.values, curve.errors, curve.low, curve.high)
                risk = exits.still_at_risk([float(time)])[0]
                rows.append([what, arm, float(time), risk, *(float(values[place]) for values in ends)])
    header = ["of", "arm", f"time ({found.study.analysis.time.unit})", "at risk", "value", "error", "low", "high"]
    return Table(name, name.replace("_", " "), header, rows, shown=False)


def _means(found: Results) -> Table:
    """Restricted means by arm, and their differences to the first."""
    rows, first = list[list[Cell]](), found.means[0]
    for place, (arm, mean) in enumerate(zip(_arms(found), found.means, strict=True)):
        effect = Effect(mean.mean, mean.error)
        rows.append([arm, mean.mean, mean.error, effect.low, effect.high, None, None, None, None])
        if place:
            gap = Effect(mean.mean - first.mean, math.hypot(mean.error, first.error))
            rows[-1][5:] = [gap.value, gap.low, gap.high, gap.p if gap.error else None]
    unit = found.study.analysis.time.unit
    header = ["arm", f"mean ({unit})", "error", "95 % from", "to", "difference", "95 % from", "to", "p"]
    kinds = ("", *["time"] * 7, "p")
    return Table("rmst", f"Restricted mean survival up to {first.horizon:g} {unit}", header, rows, kinds=kinds)


def _logrank(found: Results) -> Table:
    """Log-rank tests."""
    rows = list[list[Cell]]()
    for name, test in found.logrank.items():
        for arm, observed, expected in zip(_arms(found), test.observed, test.expected, strict=True):
            rows.append([name, arm, round(observed), expected, test.statistic, test.freedom, test.p])
    header = ["test", "arm", "observed", "expected", "chi squared", "degrees of freedom", "p"]
    return Table("logrank", "Log-rank test", header, rows, kinds=("", "", "", "expected", "", "", "p"))


def _cox(cox: Regression) -> Table:
    """Hazard ratios."""
    rows, check = list[list[Cell]](), cox.proportionality
    for place, (label, effect) in enumerate(cox.effects().items()):
        ratios = [math.exp(value) for value in (effect.value, effect.low, effect.high)]
        rows.append([
            label, effect.value, effect.error, cox.robust_errors[place], *ratios, effect.p,
            check.p[place] if check else None,
        ])  # fmt: skip
    way = "one baseline hazard for each site" if cox.stratified else "one baseline hazard for all sites"
    note = f"{cox.patients} patients, {cox.events} events, {way}: {', '.join(cox.sites)}."
    if check:
        note += f" Proportionality over all covariates: p = {check.total_p:.3g}."
    header = ["covariate", "coefficient", "error", "robust error", "hazard ratio", "95 % from", "to", "p",
              "p of proportionality"]  # fmt: skip
    kinds = ("", *["log"] * 3, *["ratio"] * 3, "p", "p")
    return Table("cox", "Cox regression", header, rows, note, kinds=kinds)


def _effects(found: Results) -> Table:
    """The arms' effect by site, and over sites."""
    rows = list[list[Cell]]()
    for label, combined in found.combined.items():
        each = [(site, effects[label]) for site, effects in found.effects.items()]
        each += [("fixed effect", combined.fixed), ("random effects (DerSimonian-Laird)", combined.random)]
        if label in found.pooled_effect:
            each.append(("all rows, stratified by site", found.pooled_effect[label]))
        rows += [_effect(label, name, effect) for name, effect in each]
    notes = [
        f"{label}: Q = {item.heterogeneity:.3g}, p = {item.p:.3g}, tau^2 = {item.between:.3g}, "
        f"I^2 = {100 * item.inconsistency:.0f} %."
        for label, item in found.combined.items()
    ]
    header = ["arm", "site", "log hazard ratio", "error", "hazard ratio", "95 % from", "to", "p"]
    kinds = ("", "", "log", "log", *["ratio"] * 3, "p")
    return Table("meta_analysis", "Effect of the arms by site, unadjusted", header, rows, " ".join(notes), kinds=kinds)


def _effect(label: str, name: str, effect: Effect) -> list[Cell]:
    """One effect as a row."""
    return [label, name, effect.value, effect.error, *_ratios(effect), effect.p]


def _ratios(effect: Effect) -> Iterable[float]:
    """Return a hazard ratio with its interval."""
    return (math.exp(value) for value in (effect.value, effect.low, effect.high))


def _size(found: Results) -> Table:
    """The trial that is planned."""
    plan, size = found.study.analysis.power, found.size
    assert size is not None
    rows: list[list[Cell]] = [
        ["events (Schoenfeld)", size.events],
        ["events (Freedman)", size.events_freedman],
        ["patients, at that share with an event", size.patients],
        ["share of patients with an event", size.event_share],
        ["power of the events of this analysis", size.power_here],
    ]
    wanted = f"power {plan.power:g}, two-sided alpha {plan.alpha:g}"
    return Table("power", f"To detect a hazard ratio of {plan.hazard_ratio:g} ({wanted})", ["needed", "value"], rows)
