import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from components.dispatch import InitialModel
from components.exchange.store import FolderStore, Slot
from components.federation import plan_round
from components.ledger import TrainingLedger, resumable
from components.rounds import ServerState, StateRef
from components.strategies import FedAvg
from flows.session import InterruptedTrainingError, Session
from tests.references.tiny_study import tiny_study


def put(store: FolderStore, value: float) -> str:
    """Weights that are two minutes old."""
    digest = store.put_weights({"w": torch.tensor([value])})
    os.utime(store.path(digest), (1, 1))
    return digest


def ledger(store: FolderStore, name: str, *, seed: int, rounds: int, first: float) -> TrainingLedger:
    """A training whose rounds are aggregated, and all but the last one committed; the first round is its best."""
    initial = InitialModel(weights_digest=put(store, first), statistics=[], normalisation=[], parameters=1)
    found = TrainingLedger(name, tiny_study(seed=seed).digest, {}, initial, {})
    state = ServerState(0, 0, {"w": torch.zeros(1)})
    for number in range(1, rounds + 1):
        plan = plan_round(tiny_study(), FedAvg(), state, training=name, roster=["a"], base_digest="0" * 64)
        found.apply("round_planned", {"plan": plan.model_copy(update={"round": number}).model_dump(mode="json")})
        ref = StateRef(round=number, step=0, weights=put(store, first + number), statistics=[], slots={})
        found.apply("aggregated", {"round": number, "state": ref.model_dump()})
        metrics = {"auroc": 1 / number}
        found.apply("evaluated", {"round": number, "evaluation": "0" * 64, "metrics": metrics, "seconds": 1.0})
        if number < rounds:
            found.apply("committed", {"round": number, "version": number})
    return found


def session(store: FolderStore, own: TrainingLedger, **others: Any) -> Session:
    nothing: Any = None
    return Session(
        study=tiny_study(), strategy=FedAvg(), ledger=own, folder=store.root, store=store, journal=nothing,
        dispatcher=nothing, recorder=nothing, watcher=nothing, **others,
    )  # fmt: skip


def weights_of(found: TrainingLedger, *rounds: int) -> set[str]:
    return {found.rounds[number].require_state().weights for number in rounds}


def test_a_sweep_keeps_the_best_the_two_newest_and_the_open_rounds(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    own = ledger(store, "own", seed=1, rounds=5, first=10.0)
    session(store, own).sweep()
    kept = {path.stem for path in (tmp_path / "objects").iterdir()}
    assert kept == {own.initial.weights_digest} | weights_of(own, 1, 4, 5)


def test_a_sweep_keeps_what_another_version_of_the_study_needs_to_be_resumed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    other = ledger(store, "other", seed=2, rounds=2, first=20.0)
    update = Slot("other", 2, 1, "a")
    written = store.put_update(update, {"w": torch.ones(1)})
    file = store.root / "slots" / update.folder / f"{written.sha256}.safetensors"
    os.utime(file, (1, 1))
    ended = ledger(store, "ended", seed=3, rounds=2, first=30.0)
    ended.apply("training_finished", {})
    given_up = ledger(store, "given-up", seed=1, rounds=2, first=40.0)
    own = ledger(store, "own", seed=1, rounds=1, first=10.0)

    session(store, own, others={"other": other, "ended": ended, "given-up": given_up}).sweep()

    kept = {path.stem for path in (tmp_path / "objects").iterdir()}
    initial = {own.initial.weights_digest, other.initial.weights_digest}
    assert kept == initial | weights_of(own, 1) | weights_of(other, 1, 2)
    assert file.exists()


def test_a_training_given_up_for_a_newer_one_is_not_resumed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    older, newer = (ledger(store, name, seed=1, rounds=1, first=1.0) for name in ("older", "newer"))
    assert resumable({"older": older, "newer": newer}) == [newer]
    newer.apply("training_finished", {})
    assert resumable({"older": older, "newer": newer}) == []


def test_no_order_is_sent_after_a_stop(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    sent: Any = session(store, ledger(store, "own", seed=1, rounds=1, first=1.0))
    answer: Future[Any] = Future()
    sent.dispatcher = type("Double", (), {"submit": lambda *_: answer})()
    assert sent.submit(None) is answer
    sent.stop.set()
    with pytest.raises(InterruptedTrainingError, match="own was stopped; the same command resumes it"):
        sent.submit(None)
