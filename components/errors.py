"""Every error WardRound raises on purpose, in one tree.

::

    WardRoundError            one clear message for the user; `exit_code` for the command line
    ├── StudyError            the study file asks for something that cannot be      (2)
    ├── DataError             a site's data cannot be used as the study asks        (3)
    ├── RefusedError          an update or a request failed a check                 (4)
    │   └── SeenRoundError    a site has seen that round, or a later one, before    (4)
    ├── QuorumError           too few sites delivered; the round cannot be closed   (5)
    ├── StorageError          a disk, a folder or an artifact let us down           (6)
    │   └── JournalError      the journal is damaged, or another process drives it  (6)
    ├── ServiceError          Prefect or MLflow cannot be reached or refused        (7)
    ├── LeaseLostError        another process acts for the coordinator now          (9)
    ├── LostError             a process died, and so did the one in its place       (1)
    └── SiteError             work at a site failed; keeps site, round and stage    (8)

A caller's own mistake (a wrong argument to a Python function) is a `ValueError`.
Messages say what was looked for, where, and what to do next. They never hold patient data. Those of `DataError`,
`RefusedError` and `LostError` hold no path of the hospital's either, since they leave it; the others may.
`fit_to_leave` is the one way by which an error leaves.
"""

from __future__ import annotations


class WardRoundError(Exception):
    """Base of all errors that are meant to be read by a user.

    Attributes:
        exit_code: What the command line exits with when this error ends a command.
    """

    exit_code = 1


class StudyError(WardRoundError):
    """A study asks for something unknown, mistyped or contradictory.

    Args:
        message: What is wrong and what is allowed.
        field: Dotted path of the field inside the study, for example ``rounds.max``; empty if the
            mistake is not in one field. The loader adds file and line to it.
    """

    exit_code = 2

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DataError(WardRoundError):
    """A site's data cannot be used as the study asks. At a site its message leaves the hospital: `fit_to_leave`."""

    exit_code = 3


class RefusedError(WardRoundError):
    """An update or a request failed a check and was not used. At a site its message leaves: `fit_to_leave`."""

    exit_code = 4


class NoDataError(RefusedError):
    """A hospital names no data for a study: it takes no part, and nobody waits for it."""


class SeenRoundError(RefusedError):
    """A site is offered a round that it has seen otherwise, or one before it: a coordinator that forgot."""


class QuorumError(WardRoundError):
    """Fewer sites than the quorum delivered a valid update before the deadline."""

    exit_code = 5


class StorageError(WardRoundError):
    """A disk, a folder or a stored artifact cannot be read or written, or is not what its digest says."""

    exit_code = 6


class JournalError(StorageError):
    """The journal is damaged, or another process is driving it."""


class ServiceError(WardRoundError):
    """Prefect or MLflow cannot be reached, or refused what was asked."""

    exit_code = 7


class LeaseLostError(WardRoundError):
    """Another process has taken over what this one was doing, since it was not heard of for too long."""

    exit_code = 9


class LostError(WardRoundError):
    """The process that should do something died, and so did the one that was started in its place.

    At a site its message leaves the hospital: `fit_to_leave`.
    """


class SiteError(WardRoundError):
    """Work at one site failed.

    Args:
        message: The reason, fit to leave the hospital.
        site: Name of the site.
        round_number: Number of the round, counted from 1.
        stage: What the site was doing: ``review``, ``fetch``, ``train``, ``evaluate`` or ``submit``.
    """

    exit_code = 8

    def __init__(self, message: str, *, site: str, round_number: int, stage: str) -> None:
        super().__init__(f"{site}, round {round_number}, {stage}: {message}")
        self.reason = message
        self.site = site
        self.round_number = round_number
        self.stage = stage


def fit_to_leave(error: BaseException) -> str:
    """Return what the coordinator may be told of an error at a hospital.

    Args:
        error: Any error, ours or a library's. Whoever catches it keeps the whole of it at the hospital.

    Guarantees:
        The message of a `RefusedError`, a `DataError` or a `LostError`, which where sites raise them hold neither
        a path nor anything read from a patient's data; of every other error its type's name alone.

    >>> fit_to_leave(StorageError("cannot write ward-7/cache: the disk is full"))
    "StorageError; see the hospital's own log"
    """
    if isinstance(error, RefusedError | DataError | LostError):
        return str(error)
    return f"{type(error).__name__}; see the hospital's own log"
