"""Warm processes that train: what is in hand when one dies or is withdrawn, what is told meanwhile, what is at once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from components.dispatch import Progress, SiteSetting
from components.exchange.store import FolderStore
from components.governance.hospital_settings import HospitalSettings
from components.journal import Journal, read
from components.rounds import Answer, Order, RoundPlan
from components.site import initialise
from components.site_source import SiteSource, SourcePart
from flows.build import build_module
from flows.warm import WarmProcesses
from tests.flows.test_warm import alive, in_loop
from tests.references.tiny_study import tiny_study, write_films

pytestmark = pytest.mark.timeout(300)
SETTINGS = HospitalSettings(data={"*": "/data"})
LONG = {"epochs": 100_000, "batch_size": 8}


class Trainings:
    """A hospital's processes, and orders for them."""

    def __init__(self, folder: Path, places: list[str]) -> None:
        self.folder, self.told = folder, list[Progress]()
        self.films = write_films(folder)
        self.journal = Journal.open(folder / "journal.jsonl")
        self.warm = WarmProcesses(self.journal, progressed=self.told.append, places=places)

    def setting(self, study: str, **changes: Any) -> SiteSetting:
        source = SiteSource(name="north", parts=[SourcePart(site="north", kind="npz", path=str(self.films))])
        return SiteSetting(
            study=tiny_study(study=study, **changes), source=source, state=str(self.folder / study / "state"),
            store=str(self.folder / study / "store"),
        )  # fmt: skip

    def order(self, setting: SiteSetting, number: int = 1) -> Order:
        study = setting.study
        digest = initialise(study, FolderStore(setting.store), build_module(study)).weights_digest
        plan = RoundPlan(
            study=study.study, study_digest=study.digest, training=f"t-{study.study}", round=number, base_digest=digest,
            roster=["north"], quorum=1, deadline_s=600.0,
        )  # fmt: skip
        return Order(kind="train", site="north", plan=plan, weights_digest=digest, nonce=f"n{number}")

    async def train(self, setting: SiteSetting, number: int = 1) -> Answer:
        async with self.warm.use(setting, SETTINGS, kind="train") as process:
            return await asyncio.wrap_future(process.submit(self.order(setting, number)))

    @asynccontextmanager
    async def training(self, setting: SiteSetting, number: int = 1) -> AsyncIterator["asyncio.Task[Answer]"]:
        """While a training goes on that has told how far it is."""
        work = asyncio.create_task(self.train(setting, number))
        name = f"t-{setting.study.study}"
        try:
            async with asyncio.timeout(120):
                while not any(one.training == name for one in self.told):
                    assert not work.done(), work.result()
                    await asyncio.sleep(0.05)
            yield work
        finally:
            work.cancel()
            await asyncio.wait([work])

    def process(self, study: str) -> int:
        """The process that holds the journal of a study's site."""
        return int((self.folder / study / "state" / "journal.jsonl.holder").read_text().split()[0])

    def ended(self) -> list[tuple[str, str]]:
        return [(entry.data["study"], entry.data["reason"]) for entry in self.journal.find("process_ended")]


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    made = Trainings(tmp_path, ["0", "1"])
    yield made
    made.warm.close()
    made.journal.close()


@in_loop
async def test_two_studies_train_at_once_and_tell_how_far_they_are(trainings: Trainings) -> None:
    """On a machine without a GPU the two places are named by the variable alone."""
    one, other = (trainings.setting(study, local=LONG) for study in ("one", "other"))
    async with trainings.training(one) as first, trainings.training(other) as second:
        told, pids = len(trainings.told), [trainings.process("one"), trainings.process("other")]
        names: set[str] = set()
        async with asyncio.timeout(60):
            while names != {"t-one", "t-other"}:
                await asyncio.sleep(0.05)
                names = {progress.training for progress in trainings.told[told:]}
        assert not first.done()
        assert not second.done()
        assert [variable(pid) for pid in pids] == ["0", "1"]
    last = trainings.told[-1]
    assert (last.site, last.round, last.epochs) == ("north", 1, 100_000)
    assert 0 < last.share <= 1
    assert last.left_s > 0
    epochs = [progress.epoch for progress in trainings.told if progress.training == "t-one"]
    assert epochs == sorted(epochs)
    assert [alive(pid) for pid in pids] == [False, False]
    assert sorted(trainings.ended()) == [("one", "cancelled"), ("other", "cancelled")]


def variable(pid: int) -> str:
    """The GPU that a process sees."""
    found = dict(one.split("=", 1) for one in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in one)
    return found["CUDA_VISIBLE_DEVICES"]


@in_loop
async def test_a_training_whose_process_is_killed_is_made_again_and_ends(trainings: Trainings) -> None:
    setting = trainings.setting("one", local={"epochs": 30, "batch_size": 2})
    async with trainings.training(setting) as work:
        killed = trainings.process("one")
        os.kill(killed, signal.SIGKILL)
        answer = await work
    assert answer.status == "done"
    assert trainings.process("one") != killed
    assert trainings.ended() == [("one", "crashed")]
    events = [entry.event for entry in read(Path(setting.state) / "journal.jsonl")]
    assert events.count("train_ordered") == 2
    assert events.count("train_answered") == 1
