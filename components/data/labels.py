"""Labels as lists give them (names, numbers, several of them) to labels as the network needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.data.encoding import number_of, plain
from components.data.quarantine import UnusableItemError
from components.study import Task

Label = int | tuple[int, ...] | tuple[float, int]

MISSING = "missing label"
OUTSIDE = "label is none of the study's classes"
NO_EVENT = "whether the event was seen is neither yes nor no"
NO_TIME, TIME_OUTSIDE = "time is missing or no number", "time is out of its range"


_EVENTS = {"0": 0, "1": 1, "no": 0, "yes": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Observation:
    """What a table says of one patient of a survival task, as it stands in its cells."""

    time: str
    event: object


def parse_label(value: object, task: Task) -> Label:
    """Turn a listed label into a class index, for multilabel into a 0/1 tuple over the classes.

    For survival it becomes a pair: the time, and 1 if the event was seen then.

    Args:
        value: A class's name or its index; for multilabel a list (of names, or of one 0/1 per class)
            or text with ``|`` between the names, ``none`` for no class; for survival a `Observation`.
        task: The study's task. Where a text is both a name and an index, it is the name.

    Raises:
        UnusableItemError: If there is no label, or it is none of the classes.

    >>> parse_label("pneumonia", Task(classes=["normal", "pneumonia"]))
    1
    >>> parse_label("a|c", Task(kind="multilabel", classes=["a", "b", "c"]))
    (1, 0, 1)
    """
    if task.survival is not None:
        return _parse_observation(value, task)
    if value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value):
        raise UnusableItemError(MISSING)
    if task.kind != "multilabel":
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        return _index(value, task.classes)
    if isinstance(value, str):
        value = [] if value.strip() == "none" not in task.classes else value.split("|")
    if not isinstance(value, list):
        raise UnusableItemError(OUTSIDE)
    if len(value) == len(task.classes) and all(type(part) in (int, float) and part in (0, 1) for part in value):
        return tuple(int(part) for part in value)
    if not all(isinstance(part, str) for part in value):
        raise UnusableItemError(OUTSIDE)
    present = {_index(part, task.classes) for part in value}
    return tuple(int(index in present) for index in range(len(task.classes)))


def _parse_observation(value: object, task: Task) -> tuple[float, int]:
    """Return the time, and 1 if the event was seen then, 0 if observation ended without it."""
    assert task.survival is not None  # the caller's own question
    if not isinstance(value, Observation):
        raise UnusableItemError(NO_TIME)
    event = plain(str(value.event).strip().lower())
    if event not in _EVENTS and event not in task.classes:
        raise UnusableItemError(NO_EVENT)
    time = number_of(value.time)
    if time is None:
        raise UnusableItemError(NO_TIME)
    low, high = task.survival.range or (0.0, math.inf)
    if not low <= time <= high:
        raise UnusableItemError(TIME_OUTSIDE)
    return time, _EVENTS[event] if event in _EVENTS else task.classes.index(event)


def unit_of(task: Task) -> str:
    """Return the unit of a task's times; days where it has none."""
    return "days" if task.survival is None else task.survival.unit


def stratum_of(label: Label, task: Task) -> str:
    """Return what a label counts as where patients are divided alike: its class; of survival the outcome."""
    return str(label[1]) if task.survival is not None and isinstance(label, tuple) else str(label)


def _index(value: object, classes: Sequence[str]) -> int:
    """Find one class by name or index."""
    if isinstance(value, str):
        value = value.strip()
        if value in classes:
            return classes.index(value)
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UnusableItemError(OUTSIDE)
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableItemError(OUTSIDE)
    if isinstance(value, float) and not value.is_integer():
        raise UnusableItemError(OUTSIDE)
    if not 0 <= value < len(classes):
        raise UnusableItemError(OUTSIDE)
    return int(value)


def label_tensor(labels: Sequence[Label], task: Task) -> Tensor:
    """Collect labels: int64 ``[N]``, float32 ``[N, C]`` for multilabel, or ``[N, 2]`` (time, event) for survival."""
    if task.survival is not None:
        return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), 2)
    if task.kind == "multilabel":
        return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), len(task.classes))
    return torch.tensor(labels, dtype=torch.int64)


def class_counts(labels: Tensor, task: Task) -> list[int]:
    """Count the items of each class; in multilabel an item counts for each class it has; in survival by outcome.

    >>> class_counts(torch.tensor([0, 1, 1]), Task(classes=["normal", "pneumonia"]))
    [1, 2]
    """
    if task.survival is not None:
        events = int(labels[:, 1].sum())
        return [len(labels) - events, events]
    if task.kind == "multilabel":
        return [int(count) for count in labels.sum(0)]
    return [int(count) for count in torch.bincount(labels, minlength=len(task.classes))]
