"""YAML with the line of every value, and nothing that surprises: a small, safe part of the language.

Read are tables, lists, text, numbers, true/false and null. Refused are tags, anchors and aliases (a few
lines of them can unfold to gigabytes), keys given twice, keys that are not text, a second document, numbers
that are not finite, more than a megabyte, and more than 32 levels.

What a plain word means follows YAML 1.2 where 1.1 surprises: ``1e-3`` is a number, while ``010``, ``12:30``
and ``2026-01-31`` are text. ``yes``, ``no``, ``on`` and ``off`` stay true and false as in YAML 1.1, because
editors and people disagree about them: `Document.sources` lets a message say what was really written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from components.errors import StudyError
from components.mistakes import FieldPath, dotted

MAX_BYTES = 1 << 20
MAX_LEVELS = 32

_LINE_ENDS = frozenset("\x85\u2028\u2029")
_TAG = "tag:yaml.org,2002:"
_PLAIN = [  # what a plain word means, by pattern and by the letters it may start with
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
]
_HINTS = {  # PyYAML's words, and what helps
    "mapping values are not allowed here": "quote a value that holds ': ', and look at how the line is indented",
    "'\\t' that cannot start": "indent with blanks, not with tabs",
    "expected <block end>": "lines of one table must be indented alike",
    "could not find expected ':'": "every line of a table is 'key: value'",
}


@dataclass(frozen=True)
class Document:
    """A YAML file as values, with where each of them stands.

    Attributes:
        value: The outermost table.
        lines: Line of every key and every entry of a list, counted from 1, by path.
        sources: What was written for every value that is a plain word (not quoted), by path.
    """

    value: dict[str, Any] = field(default_factory=dict)
    lines: dict[FieldPath, int] = field(default_factory=dict)
    sources: dict[FieldPath, str] = field(default_factory=dict)

    def line(self, path: FieldPath) -> int:
        """Return the line of a path, or of the innermost table around it that the file has; 0 if there is none.

        >>> Document(lines={("policy",): 3}).line(("policy", "min_sites"))
        3
        """
        around = (path[:length] for length in range(len(path), 0, -1))
        return next((self.lines[part] for part in around if part in self.lines), 0)


def read_yaml(path: Path) -> Document:
    """Read a YAML file whose outermost value is a table.

    Raises:
        StudyError: If there is no such file, or it is not what this module reads; with file and line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file; look at the spelling and at the folder you are in") from error
    except IsADirectoryError as error:
        raise StudyError(f"{path}: is a folder; give the file inside it") from error
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise StudyError(f"{path}: has more than {MAX_BYTES} bytes; this is not a study file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StudyError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8, or give the YAML file") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, label: str, *, empty: str = "'studies/' holds examples to start from") -> Document:
    r"""Parse YAML text whose outermost value is a table.

    Args:
        text: The text.
        label: What messages call it: the file's name.
        empty: What helps where the text holds nothing.

    Raises:
        StudyError: If the text is not what this module reads; with label and line.

    >>> document = parse_yaml("rounds:\n  max: 1e1\n", "x.yaml")
    >>> document.value, document.lines[("rounds", "max")], document.sources[("rounds", "max")]
    ({'rounds': {'max': 10.0}}, 2, '1e1')
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        hint = next((f"; {hint}" for words, hint in _HINTS.items() if words in problem), "")
        place = f"{label}:{mark.line + 1}" if mark else label
        raise StudyError(f"{place}: cannot be read as YAML: {problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        code = ord(text[error.position])
        raise StudyError(f"{label}:{line}: holds a character that is not text (U+{code:04X}); delete it") from error
    if node is None:
        raise StudyError(f"{label}: is empty; {empty}")
    if not isinstance(node, yaml.MappingNode):
        raise StudyError(f"{label}:{node.start_mark.line + 1}: must be a table of 'key: value' lines")
    document = Document()
    document.value.update(_build(node, (), document=document, label=label))
    return document


def dump_yaml(value: dict[str, Any]) -> str:
    """Write values as YAML that `parse_yaml` reads back as they are, in the order they have."""
    # PyYAML writes these three rare line ends as they are and reads them as blanks; escaped they survive.
    readable = not _LINE_ENDS.intersection(json.dumps(value, ensure_ascii=False))
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=readable, width=100))


def _resolvers(more: Mapping[str, list[Any]] = MappingProxyType({})) -> dict[str, list[Any]]:
    """Return what plain words mean, in PyYAML's form: by first letter; after the meanings in `more`."""
    table = {letter: list(meanings) for letter, meanings in more.items()}
    for name, pattern, letters in _PLAIN:
        for letter in letters:
            table.setdefault(letter, []).append((_TAG + name, re.compile(rf"^(?:{pattern})$")))
    return table


class _Loader(yaml.SafeLoader):
    """PyYAML's safe reader without tags, anchors and aliases, and with our plain words."""

    yaml_implicit_resolvers = _resolvers()
    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, if it is of the part of YAML that is read."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = ""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            problem = "anchors (&) and aliases (*) are not read here; quote a text that starts like one"
        elif event.tag is not None:
            problem = f"the tag {event.tag} is not read here; quote a text that starts with !"
        elif self.level >= MAX_LEVELS:
            problem = f"nested deeper than {MAX_LEVELS} levels"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe writer; it also quotes what only our reader would take for a number."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice: the reader takes no aliases."""
        return True


def _build(node: yaml.Node, path: FieldPath, *, document: Document, label: str) -> Any:
    """Turn a node into its value, and note where it stands."""
    if isinstance(node, yaml.MappingNode):
        pairs = _pairs(node, path, document=document, label=label)
        return {key: _build(part, (*path, key), document=document, label=label) for key, part in pairs}
    if isinstance(node, yaml.SequenceNode):
        for index, part in enumerate(node.value):
            document.lines[*path, index] = part.start_mark.line + 1
        parts = enumerate(node.value)
        return [_build(part, (*path, index), document=document, label=label) for index, part in parts]
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        document.sources[path] = node.value
    try:
        return _scalar(node.tag.removeprefix(_TAG), node.value)
    except ValueError as error:
        raise StudyError(f"{label}:{node.start_mark.line + 1}: {dotted(path)}: {error}", dotted(path)) from error


def _pairs(node: yaml.MappingNode, path: FieldPath, *, document: Document, label: str) -> list[tuple[str, yaml.Node]]:
    """Return keys and value nodes of a table, after noting their lines."""
    pairs: list[tuple[str, yaml.Node]] = []
    for key, part in node.value:
        line = key.start_mark.line + 1
        inside = f" in {dotted(path)}" if path else ""
        if not isinstance(key, yaml.ScalarNode):
            raise StudyError(f"{label}:{line}: a key{inside} is a list or a table; keys are words", dotted(path))
        if key.tag != f"{_TAG}str":
            raise StudyError(f"{label}:{line}: the key {key.value}{inside} is not text; quote it", dotted(path))
        here = (*path, key.value)
        if here in document.lines:
            first = document.lines[here]
            raise StudyError(f"{label}:{line}: {dotted(here)}: given twice, first in line {first}", dotted(here))
        document.lines[here] = line
        pairs.append((key.value, part))
    return pairs


def _scalar(kind: str, text: str) -> Any:
    """Return the value of a plain word or a text."""
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "null":
        return None
    if kind == "int" and len(text) > 30:
        raise ValueError(f"given a number of {len(text)} digits; write it shorter, or in quotes if it is text")
    if kind == "int":
        return int(text)
    if kind == "float":
        # YAML writes infinity and not-a-number with a dot before the word, Python without.
        number = float(text.replace(".", "") if text[-1].isalpha() else text)
        if not math.isfinite(number):
            raise ValueError(f"given {text}; must be a finite number")
        return number
    return text
