"""From a study to what carries it out: the strategy, the roster of a round, its quorum.

Refused here is what a study may say field by field but not all together, and hyper-parameters that the
strategy does not have. What needs the network or the data is checked by those who build them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from components.errors import StudyError
from components.grown import tree_mistakes
from components.mistakes import FieldPath, Mistake, explain, undotted
from components.round_rules import Rounds
from components.seeds import derive_seed
from components.strategies import STRATEGIES, Strategy
from components.strategies.table import ASYNCHRONOUS
from components.study import TABULAR, Data, Study, VirtualSites
from components.table_mistakes import records_mistakes, survival_mistakes, treatment_mistakes

# What a round of one mode has that one of the other has not, and what is to be said of it.
_ONLY_ASYNC = {
    field: "must be left out with rounds.mode: sync; it belongs to async" for field in ("buffer", "max_staleness")
}
_ONLY_SYNC = {
    "quorum": "must be left out with rounds.mode: async; rounds.buffer says how many updates a round needs",
    "required": "must be left out with rounds.mode: async; a round that waits for a site by name is a sync one",
    "late": "must be left out with rounds.mode: async; there an update counts in whichever round it arrives",
    "selection": "must be left out with rounds.mode: async; there a site begins anew whenever it has delivered",
}
_ROUNDING = 1e-9  # so that 0.07 of 100 sites, 7.000000000000001 in binary, is 7 and not 8


@dataclass(frozen=True)
class Assembly:
    """A study and what was built from it."""

    study: Study
    strategy: Strategy


def assemble(study: Study) -> Assembly:
    """Build what a study names.

    Raises:
        StudyError: If the strategy's hyper-parameters are wrong, or the study asks for things that do not
            go together; `field` says where.
    """
    check_study(study)
    return Assembly(study, build_strategy(study.strategy.name, study.strategy.hyperparameters))


def build_strategy(name: str, hyperparameters: Mapping[str, Any]) -> Strategy:
    """Build a strategy of the closed table.

    Args:
        name: Its name in `STRATEGIES`.
        hyperparameters: Its fields; those left out have their defaults.

    Raises:
        StudyError: If a hyper-parameter is unknown, mistyped or out of its range; all of them are listed.

    >>> build_strategy("FedProx", {"proximal_weight": 1})
    FedProx(proximal_weight=1.0, weighting='samples')
    """
    mistakes = strategy_mistakes(name, hyperparameters)
    if mistakes:
        raise StudyError("\n".join(map(str, mistakes)), ".".join(map(str, mistakes[0].place)))
    values = hyperparameter_model(name).model_validate(dict(hyperparameters))
    return STRATEGIES[name](**values.model_dump())


def strategy_mistakes(
    name: str, hyperparameters: Mapping[str, Any], sources: Mapping[FieldPath, str] | None = None
) -> list[Mistake]:
    """Return what is wrong with the hyper-parameters of a strategy; empty if nothing is.

    Args:
        name: Its name in `STRATEGIES`.
        hyperparameters: Its fields.
        sources: What was written in the file; see `components.mistakes.explain`.
    """
    model = hyperparameter_model(name)
    try:
        values = model.model_validate(dict(hyperparameters))
        STRATEGIES[name](**values.model_dump())
    except ValidationError as error:
        return explain(error, model, under=("strategy",), sources=sources or {})
    except ValueError as error:
        return [Mistake(("strategy",), str(error), ("strategy", str(error).split(" ", maxsplit=1)[0]))]
    return []


@functools.cache
def hyperparameter_model(name: str) -> type[BaseModel]:
    """Return the strict record of a strategy's hyper-parameters, made of the strategy's own fields."""
    kind: Any = STRATEGIES[name]
    types = get_type_hints(kind)
    fields: dict[str, Any] = {field.name: (types[field.name], field.default) for field in dataclasses.fields(kind)}
    return create_model(
        name, __config__=ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False), **fields
    )


def check_study(study: Study) -> None:
    """Refuse what does not go together.

    Raises:
        StudyError: Naming all such things; `field` is that of the first.
    """
    mistakes = study_mistakes(study)
    if mistakes:
        raise StudyError("\n".join(map(str, mistakes)), ".".join(map(str, mistakes[0].place)))


def study_mistakes(study: Study) -> list[Mistake]:
    """Return what does not go together in a study; empty if everything does."""
    found = [
        _selection(study),
        _quorum(study),
        *_mode(study),
        _precision(study),
        _column(study),
        *_columns(study),
        _external(study),
        *_personal(study),
        *_newton(study),
        *tree_mistakes(study),
        *survival_mistakes(study),
        *records_mistakes(study),
        *treatment_mistakes(study),
    ]
    return [Mistake(undotted(field), text, undotted(field)) for field, text in found if text]


def number_of_sites(study: Study) -> int | None:
    """Return how many sites a study has, or None if only its data can tell (a partition by column)."""
    if not isinstance(study.sites, VirtualSites):
        return len(study.sites)
    kind, _, argument = study.sites.partition.partition(":")
    return argument.count(",") + 1 if kind == "sizes" else study.sites.count


def select_roster(study: Study, sites: Sequence[str], round_number: int, *, total: int | None = None) -> list[str]:
    """Return the sites that are asked in a round, in the order of their names.

    Every site gets a number from the study's seed, the round and its own name, and those with the smallest
    are asked. So the roster of a round does not depend on how often it is drawn, on the rounds before, or
    on the order in which the sites are given; each site is as likely as any other.

    Args:
        study: The study; `rounds.selection` says how many are asked. A fraction is rounded up.
        sites: Names of the sites that can be asked.
        round_number: Number of the round, counted from 1.
        total: Number of sites, with those that cannot be asked now: a round asks as many as if they could
            be, as long as there are so many. By default the number of `sites`.

    Raises:
        StudyError: If more sites are asked for than there are.
    """
    selection = study.rounds.selection
    total = len(sites) if total is None else total
    size = selection.count or _part_of(selection.fraction or 1.0, total)
    if size > total:
        raise StudyError(_too_many("rounds.selection.count", size, total), "rounds.selection.count")
    drawn = sorted(sites, key=lambda site: (derive_seed(study.seed, "roster", round_number, site), site))
    return sorted(drawn[:size])


def quorum_of(study: Study, roster_size: int) -> int:
    """Return how many sites of a roster must deliver a valid update for the round to count.

    Args:
        study: The study. `rounds.quorum` as a whole number is that many sites; with a decimal point it is
            that part of the roster, rounded up: ``1`` is one site, ``1.0`` is every site of the roster. In an
            asynchronous study it is `rounds.buffer`.
        roster_size: Sites that are asked, 1 or more.

    Raises:
        StudyError: If the quorum is larger than the roster.
    """
    needed, field = study.rounds.updates_needed, field_of_quorum(study)
    if needed is None:
        return _part_of(float(study.rounds.quorum), roster_size)
    if needed > roster_size:
        raise StudyError(_too_many(field, needed, roster_size), field)
    return needed


def field_of_quorum(study: Study) -> str:
    """Return the field that says how many updates a round needs."""
    return "rounds.buffer" if study.rounds.mode == "async" else "rounds.quorum"


def _part_of(fraction: float, size: int) -> int:
    """Return a part of a number of sites, rounded up, at least 1."""
    return max(1, math.ceil(fraction * size - _ROUNDING))


def _plain(value: object) -> object:
    """Return a value as it was written."""
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value


def _too_many(field: str, given: int, size: int) -> str:
    """Say that more sites are wanted than are asked."""
    return f"{field}: given {given}; must be at most the number of sites, {size}"


def _selection(study: Study) -> tuple[str, str]:
    """Refuse to select more sites than there are."""
    field, total, count = "rounds.selection.count", number_of_sites(study), study.rounds.selection.count
    return field, "" if total is None or count is None or count <= total else _too_many(field, count, total)


def _quorum(study: Study) -> tuple[str, str]:
    """Refuse a quorum that no roster of the study can reach."""
    total, selection, quorum = number_of_sites(study), study.rounds.selection, study.rounds.quorum
    size = selection.count or (_part_of(selection.fraction or 1.0, total) if total else None)
    if size is None or isinstance(quorum, float) or quorum <= size:
        return "rounds.quorum", ""
    return "rounds.quorum", (
        f"given {quorum} (a whole number: that many sites); must be at most {size}, the sites asked in a round; "
        "1.0 with its decimal point is all of them"
    )


def _mode(study: Study) -> list[tuple[str, str]]:
    """Refuse what belongs to the other mode, and what has no meaning without rounds that all begin together."""
    rounds, total, name = study.rounds, number_of_sites(study), study.strategy.name
    fields = _ONLY_ASYNC if rounds.mode == "sync" else _ONLY_SYNC
    defaults = Rounds()
    found = [
        (f"rounds.{field}", f"given {_plain(getattr(rounds, field))}; {text}")
        for field, text in fields.items()
        if repr(getattr(rounds, field)) != repr(getattr(defaults, field))  # a quorum of 1 is not one of 1.0
    ]
    if rounds.mode == "sync":
        return found
    if name not in ASYNCHRONOUS:
        text = f"given {name}; must be one of {', '.join(sorted(ASYNCHRONOUS))} with rounds.mode: async"
        found.append(("strategy.name", f"{text}: a site keeps a part of its own for each round it trained in"))
    if total is not None and rounds.buffer > total:
        found.append(("rounds.buffer", _too_many("rounds.buffer", rounds.buffer, total)))
    if study.evaluate.champion == "full_roster":
        text = "given full_roster; must be any with rounds.mode: async, whose versions are made of some sites' updates"
        found.append(("evaluate.champion", text))
    return found


def _precision(study: Study) -> tuple[str, str]:
    """Refuse what a CPU cannot compute."""
    wrong = study.local.device == "cpu" and study.local.precision == "16-mixed"
    text = "given 16-mixed with device cpu; must be 32 or bf16-mixed there: a CPU has no 16-mixed" if wrong else ""
    return "local.precision", text


def _column(study: Study) -> tuple[str, str]:
    """Refuse to cut arrays by a column: they have none."""
    wrong = (
        study.data.source == "npz"
        and isinstance(study.sites, VirtualSites)
        and study.sites.partition.startswith("column:")
    )
    text = "an npz has no columns; must be iid, dirichlet:ALPHA or sizes:A,B,... for source npz" if wrong else ""
    return "sites.partition", text


def _columns(study: Study) -> list[tuple[str, str]]:
    """Refuse columns that the source does not have, or that are one and the same."""
    data = study.data
    if data.source == "npz":
        wrong = data.columns != Data.model_fields["columns"].get_default(call_default_factory=True)
        return [("data.columns", "an npz has no columns; leave this out for source npz" if wrong else "")]
    empty = [f"data.columns.{key}" for key in ("file", "label") if data.columns.get(key) == ""]
    found = [(field, "given ''; must be the name of a column") for field in empty]
    # Only the file's column may serve twice: every file is then a patient of its own.
    used = [name for key, name in data.columns.items() if name and (key, name) != ("patient", data.columns.get("file"))]
    if len(set(used)) != len(used):
        found.append(("data.columns", f"columns must differ from each other, given {', '.join(used)}"))
    return found


def _newton(study: Study) -> list[tuple[str, str]]:
    """Refuse what an exact Newton step cannot be of: it is that of the mean cross-entropy of all rows."""
    if study.local.method != "newton":
        text = f"given {study.local.lasso:g}; it goes with local.method: newton alone"
        return [("local.lasso", text)] if study.local.lasso else []
    weighting = study.strategy.hyperparameters.get("weighting", "samples")
    survival = study.task.survival
    needed: list[tuple[str, object, object]] = [
        ("network.name", study.network.name, "LogisticRegression" if survival is None else "Linear"),
        ("task.kind", study.task.kind, "binary" if survival is None else "survival"),
        ("task.survival.loss", "cox" if survival is None else survival.loss, "cox"),
        ("task.imbalance", study.task.imbalance, "none"),
        ("strategy.name", study.strategy.name, "FedAvg"),
        ("strategy.weighting", weighting, "samples"),
        ("rounds.mode", study.rounds.mode, "sync"),
        ("rounds.late", study.rounds.late, "drop"),
        ("local.epochs", study.local.epochs, 1),
    ]
    return [
        (field, f"given {given}; must be {wanted} with local.method: newton")
        for field, given, wanted in needed
        if given != wanted
    ]


def _personal(study: Study) -> list[tuple[str, str]]:
    """Refuse what cannot be where sites keep a part of the network to themselves."""
    name, network, survival = study.strategy.name, study.network.name, study.task.survival
    kept, found = STRATEGIES[name].personal, list[tuple[str, str]]()
    if kept != "none" and survival is not None and survival.loss == "cox":
        text = f"given {name}; must be another with task.survival.loss: cox, whose baseline hazard is of all sites"
        found.append(("strategy.name", text))
    if kept == "output" and network in TABULAR - {"MLP"}:
        text = f"given {network}; must be MLP or a network for images with {name}, whose last layers stay at the sites"
        found.append(("network.name", text))
    if kept == "output" and study.evaluate.external != "none":
        text = f"given leave_one_site_out; must be none with {name}: who is left out has no output layer of its own"
        found.append(("evaluate.external", text))
    return found


def _external(study: Study) -> tuple[str, str]:
    """Refuse to leave a site out where the others could not train without it."""
    rounds, total = study.rounds, number_of_sites(study) or 2
    needed = max(rounds.updates_needed or 1, rounds.selection.count or 1)
    text = ""
    if rounds.mode == "async":
        text = "given leave_one_site_out; must be none with rounds.mode: async: its trainings go round by round"
    elif total - 1 < needed:
        text = f"given leave_one_site_out; a round needs {needed} sites, and {total - 1} are left without one"
    return "evaluate.external", text if study.evaluate.external != "none" else ""
