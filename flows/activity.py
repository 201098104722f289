"""What a hospital does now: kept while it works, told by its heartbeat, shown by ``wardround status``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import ValidationError

from components.dispatch import Progress
from components.gateway.records import Activity, Doing

Kind = Literal["prepare", "train", "evaluate", "analyse"]
TOLD = 16  # pieces of work that a heartbeat tells of
_VERBS = {"idle": "idle", "prepare": "preparing", "train": "training", "evaluate": "evaluating",
          "analyse": "answering"}  # fmt: skip


class Piece:
    """One piece of work, from when it is asked for to its end; it waits at first.

    Args:
        kind: What is asked.
        training: For which training.
    """

    def __init__(self, kind: Kind, training: str) -> None:
        self.waits = True
        self.doing = Doing(state=kind, training=training)

    def begin(self) -> None:
        """It is worked on from now on."""
        self.waits, self.doing = False, self.doing.model_copy(update={"since": time.time()})

    def wait(self) -> None:
        """It waits for its turn from now on."""
        self.waits = True


class Activities:
    """What a site does now; progress may be told by any thread."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._turn = threading.Lock()

    @contextmanager
    def piece(self, kind: Kind, training: str) -> Iterator[Piece]:
        """A piece of work is asked for, and over when this is left."""
        piece = Piece(kind, training)
        with self._turn:
            self._pieces.append(piece)
        try:
            yield piece
        finally:
            with self._turn:
                self._pieces.remove(piece)

    def progressed(self, progress: Progress) -> None:
        """Take how far a training is; of one that is not going on any more it is dropped."""
        with self._turn:
            for piece in self._pieces:
                if not piece.waits and (piece.doing.state, piece.doing.training) == ("train", progress.training):
                    update = progress.model_dump(exclude={"site", "training"})
                    piece.doing = piece.doing.model_copy(update=update)

    def now(self) -> Activity:
        """Return what is going on: a training first, then in the order in which it began."""
        with self._turn:
            going = sorted((piece.doing for piece in self._pieces if not piece.waits), key=_order)
            waiting = sum(piece.waits for piece in self._pieces)
        first = going[0].model_dump() if going else {}
        return Activity(**first, beside=going[1:TOLD], waiting=min(waiting, 9999))


def describe_activity(activity: Mapping[str, Any] | None) -> str:
    """Return in words what a site said it does.

    >>> describe_activity({"state": "train", "epoch": 2, "epochs": 5, "share": 0.43, "left_s": 312.0})
    'training, 43 % of epoch 2 of 5, 312 s left'
    >>> describe_activity({"state": "evaluate", "beside": [{"state": "prepare"}], "waiting": 2})
    'evaluating; preparing; 2 waiting'
    """
    try:
        told = Activity.model_validate(activity or {})
    except ValidationError:  # of another version
        return str((activity or {}).get("state", ""))[:20]
    if activity is None:
        return ""
    waiting = [f"{told.waiting} waiting"] if told.waiting else []
    return "; ".join([_words(doing) for doing in (told, *told.beside)] + waiting)


def _words(doing: Doing) -> str:
    """Return one piece of work in words."""
    words = [_VERBS[doing.state]]
    if doing.share is not None and doing.epoch is not None:
        words.append(f"{doing.share:.0%} of epoch {doing.epoch}".replace("%", " %"))
        words[-1] += f" of {doing.epochs}" if doing.epochs is not None else ""
    if doing.left_s is not None:
        words.append(f"{doing.left_s:.0f} s left")
    return ", ".join(words)


def _order(doing: Doing) -> tuple[bool, float]:
    return doing.state != "train", doing.since or 0.0
