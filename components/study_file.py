"""Study files: YAML to `Study` and back, with every mistake named by file, line and field.

::

    studies/chest.yaml:12: rounds.max: given -3; must be 1 or more
    studies/chest.yaml:15: rounds.convergance: unknown key; did you mean convergence?; allowed: ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from components.analytics.plan import AnalysisStudy
from components.assemble import hyperparameter_model, strategy_mistakes, study_mistakes
from components.errors import StudyError
from components.mistakes import FieldPath, Mistake, dotted, explain, undotted
from components.study import StrategyName, Study
from components.yaml_lines import Document, dump_yaml, read_yaml

OPTIONS = {  # fields that the command line overrides, and the options that do it
    "sites.count": "--sites",
    "sites.partition": "--partition",
    "rounds.max": "--rounds",
    "strategy.name": "--strategy",
    "seed": "--seed",
    "evaluate.compare": "--compare",
}


def load_study(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, checks: Sequence[Callable[[Study], None]] = ()
) -> Study:
    """Read a study, check it, and check what belongs together.

    Args:
        path: The YAML file.
        overrides: Values by dotted field that replace the file's, such as ``{"rounds.max": 3}``; None
            leaves the file's. Another strategy than the file's starts from its own defaults, because the
            file's hyper-parameters belong to the strategy it names. Another partition keeps the file's
            number of sites, unless it names its own or finds it in the data.
        checks: Further checks, run on a study that is right so far; each may raise a `StudyError` whose
            `field` is a dotted path.

    Raises:
        StudyError: With one line for each mistake: file and line (or the command line's option), field,
            what was given, what is allowed.
    """
    label = Path(path)
    document = read_yaml(label)
    absent = _include_features(document, label)
    options = _override(document, overrides or {}, label)
    if is_analysis(document):
        raise StudyError(
            f"{label}: it holds a section analysis, and trains nothing: wardround analyse {label}, on this machine "
            "wardround simulate"
        )
    study, mistakes = _validate(document)
    named = {mistake.field for mistake in absent}
    mistakes = absent + [found for found in mistakes if not any(found.field[: len(path)] == path for path in named)]
    if study is not None:
        mistakes += study_mistakes(study) + [found for check in checks for found in _run(check, study)]
    if study is None or mistakes:
        raise _error(mistakes, label, document, options)
    return study


def load_analysis(path: str | Path, overrides: Mapping[str, Any] | None = None) -> AnalysisStudy:
    """Read a study that analyses instead of training, and check it.

    Args:
        path: The YAML file, with a section ``analysis``.
        overrides: As of `load_study`.

    Raises:
        StudyError: As `load_study`.
    """
    label = Path(path)
    document = read_yaml(label)
    if not is_analysis(document):
        raise StudyError(
            f"{label}: there is no section analysis in it; it is a study for training (wardround simulate)"
        )
    _require_of_analyses(overrides or {}, label)
    options = _override(document, overrides or {}, label)
    try:
        return AnalysisStudy.model_validate(document.value)
    except ValidationError as error:
        raise _error(explain(error, AnalysisStudy, sources=document.sources), label, document, options) from None


def _require_of_analyses(overrides: Mapping[str, Any], label: Path) -> None:
    """Refuse values that only a training has."""
    given = [name for name, value in overrides.items() if value is not None]
    trains = [name for name in given if undotted(name)[0] not in AnalysisStudy.model_fields]
    if trains:
        named = ", ".join(OPTIONS.get(name, f"override {name}") for name in trains)
        raise StudyError(
            f"{named}: {label} analyses: it has no rounds, no strategy and no model; leave it out", trains[0]
        )


def is_analysis(document: Document) -> bool:
    """Whether a file analyses instead of training."""
    return "analysis" in document.value


def dump_study(study: Study) -> str:
    """Write a study as YAML with every field, defaults too; `load_study` reads an equal study from it."""
    return dump_yaml(study.model_dump(mode="json"))


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file, for editors; a strategy's hyper-parameters included."""
    schema = Study.model_json_schema()
    choices = []
    for name in get_args(StrategyName):
        choice = hyperparameter_model(name).model_json_schema()
        choice["properties"] = {"name": {"const": name}} | choice["properties"]
        choices.append(choice | {"required": ["name"]} if name != "FedAvg" else choice)
    schema["$defs"]["StrategyChoice"] = {"title": "StrategyChoice", "oneOf": choices, "default": {"name": "FedAvg"}}
    features = schema["$defs"]["Records"]["properties"]["features"]
    schema["$defs"]["Records"]["properties"]["features"] = {
        "anyOf": [features, {"type": "string", "description": "a YAML file beside the study with the list"}]
    }
    return _schema_file(schema, "WardRound study")


def analysis_schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file that analyses instead of training."""
    return _schema_file(AnalysisStudy.model_json_schema(), "WardRound study of an analysis")


def _schema_file(schema: dict[str, Any], title: str) -> dict[str, Any]:
    """Return a schema as a file of its own."""
    # JSON Schema counts 1.0 as an integer, so a quorum of 1.0 is of two kinds there: any of them, not one.
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | dict(_any_of(schema)) | {"title": title}


def _any_of(schema: Any) -> Any:
    """Return a schema with every ``oneOf`` as ``anyOf``."""
    if isinstance(schema, dict):
        return {"anyOf" if key == "oneOf" else key: _any_of(value) for key, value in schema.items()}
    return [_any_of(part) for part in schema] if isinstance(schema, list) else schema


def _include_features(document: Document, label: Path) -> list[Mistake]:
    """Put the features that a file beside the study lists into the study, so that its digest covers them.

    Returns:
        What is wrong with such a file; the study then keeps its name in the place of what it lists.
    """
    data = document.value.get("data")
    records = data.get("records") if isinstance(data, dict) else None
    if not isinstance(records, dict):
        return []
    mistakes, name = _include_columns(records, label), records.get("features")
    if not isinstance(name, str):
        return mistakes
    field = ("data", "records", "features")
    try:
        content = read_yaml(label.parent / name).value
    except StudyError as error:
        return [*mistakes, Mistake(field, str(error), field)]
    if not isinstance(content.get("features"), list):
        return [*mistakes, Mistake(field, f"{name} must hold 'features', a list of them", field)]
    records["features"] = content["features"]
    return mistakes


def _include_columns(records: dict[str, Any], label: Path) -> list[Mistake]:
    """Put the names of a wide table's columns that a text file beside the study lists into the study."""
    wide = records.get("wide")
    name = wide.get("columns") if isinstance(wide, dict) else None
    if not isinstance(wide, dict) or not isinstance(name, str):
        return []
    try:
        lines = (label.parent / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        field = ("data", "records", "wide", "columns")
        return [Mistake(field, f"{name} beside the study cannot be read ({type(error).__name__})", field)]
    wide["columns"] = [text.strip() for text in lines if text.strip()]
    return []


def _override(document: Document, overrides: Mapping[str, Any], label: Path) -> dict[FieldPath, str]:
    """Put values over the file's; return by which option each was given."""
    options: dict[FieldPath, str] = {}
    given = {name: value for name, value in overrides.items() if value is not None}
    _make_room(document.value, given)
    for name, value in given.items():
        *above, last = undotted(name)
        option = OPTIONS.get(name, f"override {name}")
        table = document.value
        for part in above:
            inner = table.setdefault(str(part), {}) if isinstance(table, dict) else None
            table = {} if inner is None else inner
        if not isinstance(table, dict):
            where = dotted(tuple(above))
            words = " as a list of hospitals; virtual ones are {count, partition}" if where == "sites" else ""
            raise StudyError(f"{option}: {label} gives {where}{words or ' not as a table'}", name)
        table[str(last)] = copy.deepcopy(value)
        options[undotted(name)] = option
        document.sources.pop(undotted(name), None)
    return options


def _make_room(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Take out of the file's values what an override makes meaningless."""
    strategy, sites = values.get("strategy"), values.get("sites")
    name = given.get("strategy.name")
    if name is not None and isinstance(strategy, dict) and strategy.get("name", "FedAvg") != name:
        values["strategy"] = {}
    partition = given.get("sites.partition")
    if partition is None or "sites.count" in given or not isinstance(sites, dict):
        return
    if str(partition).startswith(("sizes:", "column:")):
        sites.pop("count", None)
    elif str(sites.get("partition")).startswith("sizes:"):
        sites.setdefault("count", str(sites["partition"]).count(",") + 1)


def _validate(document: Document) -> tuple[Study | None, list[Mistake]]:
    """Return the study, if its fields are right, and everything that is wrong, hyper-parameters too."""
    study, mistakes = None, []
    try:
        study = Study.model_validate(document.value)
    except ValidationError as error:
        mistakes = explain(error, Study, sources=document.sources)
    strategy = document.value.get("strategy")
    if isinstance(strategy, dict) and strategy.get("name", "FedAvg") in get_args(StrategyName):
        rest = {key: value for key, value in strategy.items() if key != "name"}
        mistakes += strategy_mistakes(strategy.get("name", "FedAvg"), rest, document.sources)
    return study, mistakes


def _run(check: Callable[[Study], None], study: Study) -> list[Mistake]:
    """Return what a check finds wrong."""
    try:
        check(study)
    except StudyError as error:
        path = undotted(error.field)
        return [Mistake(path, text, path) for text in str(error).splitlines()]
    return []


def _error(mistakes: list[Mistake], label: Path, document: Document, options: Mapping[FieldPath, str]) -> StudyError:
    """Return one error for all mistakes, in the order of their lines."""
    placed = [(*_place(mistake.place, document, options), mistake) for mistake in mistakes]
    placed.sort(key=lambda item: item[0])
    lines = [
        f"{option or label}{f':{line}' if line and not option else ''}: {mistake}" for line, option, mistake in placed
    ]
    return StudyError("\n".join(dict.fromkeys(lines)), dotted(placed[0][2].field))


def _place(path: FieldPath, document: Document, options: Mapping[FieldPath, str]) -> tuple[int, str]:
    """Return the line of a path, or of the innermost table around it that the file has; and its option."""
    for length in range(len(path), 0, -1):
        if path[:length] in options:
            return 0, options[path[:length]]
        if path[:length] in document.lines:
            return document.lines[path[:length]], ""
        made = [option for name, option in options.items() if name[:length] == path]
        if made:
            return 0, made[0]
    return 0, ""
