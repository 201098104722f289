"""What pydantic found wrong, in plain words: what was given, what is allowed, and the nearest right name.

The words come from the JSON Schema of the model, so that they are the same wherever a field is checked and
cannot differ from what is checked. By convention a validator's own message starts with the name of the
field it is about (``classes must differ ...``), which gives the message its line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

FieldPath = tuple[str | int, ...]
Schema = dict[str, Any]

# Tags by which a discriminator tells the kinds of a value apart, and what JSON Schema calls each kind.
KINDS = {"folders": "array", "virtual": "object", "sites_needed": "integer", "part_needed": "number"}
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_NO_SOURCES: Mapping[FieldPath, str] = {}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        field: The field, or the section if several fields of it are at odds.
        text: What is wrong and what is allowed, without the field's name.
        place: The path whose line shows it; often the field itself.
    """

    field: FieldPath
    text: str
    place: FieldPath

    def __str__(self) -> str:
        name = dotted(self.field)
        return f"{name}: {self.text}" if name and not self.text.startswith(f"{name}: ") else self.text


def dotted(path: FieldPath) -> str:
    """Write a path as in ``sites[1].name``.

    >>> dotted(("sites", 1, "name"))
    'sites[1].name'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def undotted(name: str) -> FieldPath:
    """Read a path as `dotted` writes it.

    >>> undotted("sites[1].name")
    ('sites', 1, 'name')
    """
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", name)
    return tuple(int(index) if index else key for index, key in parts)


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most alike, whatever its case, or None.

    >>> nearest("densnet", ["CNN", "DenseNet"])
    'DenseNet'
    """
    by_lower = {name.lower(): name for name in allowed}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def explain(
    error: ValidationError,
    model: type[BaseModel],
    *,
    under: FieldPath = (),
    sources: Mapping[FieldPath, str] = _NO_SOURCES,
) -> list[Mistake]:
    """Put every error of a validation into plain words.

    Args:
        error: What `model` raised.
        model: The model.
        under: Path of the model's value inside the file.
        sources: What was written, for the values that are plain words in the file.

    Returns:
        At least one mistake, in pydantic's order.
    """
    root = model.model_json_schema()
    mistakes = []
    for item in error.errors(include_url=False):
        path, node = _follow(root, item["loc"])
        parent = _follow(root, item["loc"][:-1])[1]
        source = sources.get((*under, *path))
        text = _text(item, path, node=node, parent=parent, root=root, source=source)
        place = path
        if item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            place = (*path, *undotted(re.split(r"[^a-z_.]", text.lstrip("'"), maxsplit=1)[0].strip(".")))
        mistakes.append(Mistake((*under, *path), text, (*under, *place)))
    return mistakes


def first_mistake(error: ValidationError, whole: str = "the whole") -> str:
    """Say in one line what is wrong first, for what came over the wire or out of a machine's own file.

    Args:
        error: What pydantic raised.
        whole: What to call the place where it is no single field.

    Guarantees:
        pydantic's words and the path of the field (at most 100 characters), never the value that was given; at most
        300 characters. Only what a validator of the model itself says stands there as it is.
    """
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))[:100]
    return f"{where or whole}: {first['msg']}"[:300]


def unknown_key(key: str, allowed: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say that a key is unknown, with the nearest right one.

    Args:
        key: The key.
        allowed: The keys that may stand there.
        elsewhere: Keys of other sections, and their full names.
    """
    names = list(allowed)
    near = nearest(key, names) or (elsewhere or {}).get(key)
    return f"unknown key{f'; did you mean {near}?' if near else ''}; allowed: {', '.join(names) or 'none'}"


def _follow(root: Schema, location: tuple[str | int, ...]) -> tuple[FieldPath, Schema]:
    """Return the path and the schema of a place that pydantic names with its own marks in between."""
    path: list[str | int] = []
    node = root
    for part in location:
        kinds = _kinds(root, node)
        if part in KINDS and len(kinds) > 1:
            chosen = next((kind for kind in kinds if kind.get("type") == KINDS[str(part)]), {})
            words = node.get("description") if chosen.get("type") in ("integer", "number") else None
            node = chosen | {"description": words} if words else chosen
        elif part != "[key]":
            path.append(part)
            inner = next((kind for kind in kinds if kind.get("type") in ("object", "array")), {})
            below = inner.get("properties", {}).get(part) if isinstance(part, str) else inner.get("items")
            others = [inner.get("additionalProperties"), *inner.get("patternProperties", {}).values()]
            below = next((other for other in others if other is not None), None) if below is None else below
            node = below if isinstance(below, dict) else {}
    return tuple(path), node


def _resolved(root: Schema, node: Schema) -> Schema:
    """Return what a reference refers to, with what stands beside the reference."""
    while "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        node = root["$defs"][name] | {key: value for key, value in node.items() if key != "$ref"}
    return node


def _kinds(root: Schema, node: Schema) -> list[Schema]:
    """Return the kinds of value that a schema allows, without null."""
    node = _resolved(root, node)
    alternatives: list[Schema] = node.get("anyOf") or node.get("oneOf") or [node]
    kinds = [_resolved(root, kind) for kind in alternatives]
    return [kind for kind in kinds if kind.get("type") != "null"]


def _text(
    item: Mapping[str, Any], path: FieldPath, *, node: Schema, parent: Schema, root: Schema, source: str | None
) -> str:
    """Put one error of pydantic into words."""
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return unknown_key(str(path[-1]), _keys(root, parent), _names(root))
    if kind == "missing":
        return f"missing; must be {describe(root, node)}"
    if item["loc"][-1:] == ("[key]",):
        return _wrong_key(root, str(path[-1]), _follow(root, item["loc"][:-2])[1])
    if kind in ("too_short", "too_long"):
        return f"given a list of {len(value)}; must be {describe(root, node)}"
    if kind in _RANGES and "description" not in node:
        return f"given {_given(value, source)}; must be {_bounds(_kinds(root, node)[0])}"
    near = nearest(value, _options(root, node)) if isinstance(value, str) else None
    hint = _quotes(root, node, value=value, source=source) or (f"; did you mean {near}?" if near else "")
    return f"given {_given(value, source)}; must be {describe(root, node)}{hint}"


def _wrong_key(root: Schema, key: str, node: Schema) -> str:
    """Say which keys a table may have: those of a closed list, or all of a pattern."""
    allowed = _keys(root, node)
    patterns = [kind["propertyNames"] for kind in _kinds(root, node) if "propertyNames" in kind]
    return unknown_key(key, allowed) if allowed or not patterns else f"the key must be {describe(root, patterns[0])}"


def _keys(root: Schema, node: Schema) -> list[str]:
    """Return the keys of a table."""
    kinds = _kinds(root, node)
    return [key for kind in kinds for key in kind.get("properties", kind.get("propertyNames", {}).get("enum", []))]


def _names(root: Schema) -> dict[str, str]:
    """Return the full name of each key that occurs in one section only, two levels down at the most."""
    found: dict[str, list[str]] = {}
    for section in _keys(root, root):
        for key in _keys(root, root["properties"][section]):
            found.setdefault(key, []).append(f"{section}.{key}")
    return {key: names[0] for key, names in found.items() if len(names) == 1}


def _options(root: Schema, node: Schema) -> list[str]:
    """Return the values of a closed list, as they are written, each once."""
    values: list[Any] = []
    for kind in _kinds(root, node):
        values += kind.get("enum", [kind.get("const")])
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def describe(root: Schema, node: Schema) -> str:
    """Say in plain words what a schema allows.

    Args:
        root: The schema that references point into.
        node: The part to describe.

    >>> describe({}, {"type": "integer", "minimum": 1})
    'a whole number, 1 or more'
    """
    node = _resolved(root, node)
    kinds = _kinds(root, node)
    if "description" in node and "properties" not in node:
        return str(node["description"])
    words = " or ".join(dict.fromkeys(_describe_kind(root, kind) for kind in kinds)) or "null"
    nullable = any(part.get("type") == "null" for part in node.get("anyOf", []))
    return f"{words}, or null" if nullable else words


def _describe_kind(root: Schema, kind: Schema) -> str:
    """Say in plain words what a schema of one kind allows."""
    options = _options(root, kind)
    name = kind.get("type")
    if options:
        return options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    if name == "array":
        low, high = kind.get("minItems", 0), kind.get("maxItems")
        size = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more"
        return f"a list{f' of {size}' if low or high else ''}, each {describe(root, kind['items'])}"
    if name == "object":
        keys = _keys(root, kind)
        return f"a table with the key{'s' * (len(keys) > 1)} {', '.join(keys)}" if keys else "a table"
    plain = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    bounds = _bounds(kind)
    return plain.get(str(name), "a value") + (f", {bounds}" if bounds else "")


def _bounds(kind: Schema) -> str:
    """Say in plain words which numbers a schema allows."""
    whole = kind.get("type") == "integer"
    low, above = kind.get("minimum"), kind.get("exclusiveMinimum")
    high, below = kind.get("maximum"), kind.get("exclusiveMaximum")
    if whole and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}" if not whole else f"from {low} to {high}"
    upper = f"at most {high:g}" if high is not None else f"below {below:g}" if below is not None else ""
    if low is not None:
        return f"{low:g} or more" if not upper else f"{low:g} or more and {upper}"
    return " and ".join(part for part in (f"above {above:g}" if above is not None else "", upper) if part)


def _given(value: Any, source: str | None) -> str:
    """Show a value as it was written."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if value is None:
        return "nothing"
    if isinstance(value, dict | BaseModel):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return source or (str(value).lower() if isinstance(value, bool) else str(value))


def _quotes(root: Schema, node: Schema, *, value: Any, source: str | None) -> str:
    """Say that quotes are missing, or too many."""
    names = {kind.get("type") for kind in _kinds(root, node)}
    if isinstance(value, bool) and "string" in names:
        return f"; YAML reads it as {str(value).lower()}, so write it in quotes: '{source or value}'"
    if isinstance(value, int | float) and "string" in names and not _options(root, node):
        return f"; write it in quotes: '{source or value}'"
    if isinstance(value, str) and source is None and names & {"integer", "number"}:
        return "; write it without quotes" if re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value) else ""
    return ""
