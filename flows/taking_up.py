"""Whether a training can be taken up again: on the data, with the first weights and in the words it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pydantic import ValidationError

from components.convergence import assess
from components.dispatch import InitialModel, Preparation
from components.errors import DataError, StudyError
from components.ledger import TrainingLedger
from components.study import Study, watched
from flows.version import code_version


def require_own_words(study: Study, found: Sequence[TrainingLedger]) -> None:
    """Refuse to begin anew, unasked, what another version of WardRound has begun and writes otherwise.

    Args:
        study: The study.
        found: Its trainings, in the order they started.

    Raises:
        StudyError: Then.
    """
    for ledger in found[-1:]:
        same = False
        with suppress(ValidationError):
            same = Study.model_validate_json(json.dumps(ledger.started["study"])) == study
        if same and ledger.finished is None:
            raise StudyError(
                f"training {ledger.training} of this very study is open, and was begun by WardRound "
                f"{ledger.code_version}, which writes it otherwise than this {code_version()}: finish it with that "
                "version, or start anew with --fresh"
            )


def changed_data(ledger: TrainingLedger, now: Mapping[str, Preparation], *, hospitals: bool) -> list[str]:
    """Return the sites whose data are not those a training began with, in order.

    Args:
        ledger: The training.
        now: What the sites found now.
        hospitals: Whether sites live on their own: one that is away, or has come since, has changed nothing.
    """
    began = {site: found.data_digest for site, found in ledger.preparations.items()}
    found = {site: preparation.data_digest for site, preparation in now.items()}
    changed = {site for site in began.keys() | found.keys() if began.get(site) != found.get(site)}
    if hospitals:
        changed = {site for site in changed if began.get(site) and found.get(site)}
    return sorted(changed)


def require_same_start(
    ledger: TrainingLedger, now: Mapping[str, Preparation], initial: InitialModel, *, hospitals: bool
) -> None:
    """Refuse to resume on other data or another first model than the training began with.

    Raises:
        DataError: Then, naming the sites whose data changed.
    """
    changed = changed_data(ledger, now, hospitals=hospitals)
    if changed or ledger.initial.weights_digest != initial.weights_digest:
        what = f"the data of {', '.join(changed)} changed" if changed else "the network's first weights changed"
        raise DataError(f"training {ledger.training} cannot be resumed: {what} since. Start anew with --fresh")


def resumed_text(study: Study, ledger: TrainingLedger) -> str:
    """Say that a training is taken up again, and where."""
    rounds = ledger.rounds
    number = next((n for n in range(1, study.rounds.max + 1) if n not in rounds or rounds[n].state is None), 0)
    rule = study.rounds.convergence
    if number not in rounds and assess(ledger.history(watched(study)), rule).converged:
        number = 0
    where = f"at round {number}" if number else "after its last round"
    waiting = [n for n, item in sorted(rounds.items()) if item.state is not None and item.version is None]
    versions = f"; still to be registered: {', '.join(map(str, waiting))}" if waiting else ""
    return f"resuming {ledger.training} {where}{versions}"
