"""The warm processes of a hospital: one for each study and one for all analyses, ended for a reason that is kept.

A process keeps imports, decoded data and the GPU's context from round to round. It is one study's alone. A place is
a GPU, or the whole machine where it has none: one piece of work at a time, a queue beyond.

::

    north (GPU 0)   study a: busy      study c: idle       the next for a or c waits
    south (GPU 1)   study b: idle                          the next for b begins at once
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from components.dispatch import DeskSetting, Progress, SiteSetting
from components.errors import LostError, WardRoundError
from components.gateway.records import own_version
from components.governance.hospital_settings import HospitalSettings
from components.journal import Journal
from flows.dispatch import PoolDispatcher
from flows.early import SiteProcess, spawn_site_process
from flows.machine import gpus, held_memory, machine_memory
from flows.places import Place, Places

SHARE = 0.5  # of the machine's memory, for all warm processes together, unless hospital.yaml says otherwise
MEASURE_EVERY_S = 5.0
IDLE_S = 86_400.0  # after which a study is taken to be over: its process holds memory of its GPU, too
GB = 1_000_000_000
log = logging.getLogger("wardround.hospital")

AnySetting = SiteSetting | DeskSetting
Kind = Literal["prepare", "train", "evaluate", "analyse"]
Reason = Literal[
    "cancelled",  # the work was withdrawn, or the hospital is told to end
    "crashed",
    "memory_growth",  # it held more and more
    "memory_needed",  # by the others
    "idle",  # for a day
    "new_version",  # of WardRound
    "new_settings",  # another folder of data
    "new_study",  # another version of the study
    "closed",
]


class Spawn(Protocol):
    """Starts a site process; `flows.early.spawn_site_process` is one."""

    def __call__(self, count: int, *, clean: bool, gpu: str | None) -> SiteProcess:
        """Start a process of so many connections that sees one GPU."""
        ...


@dataclass(eq=False)
class _Warm:
    """A process and what is known of it; `held` and `settled` in bytes, 0 before they were measured."""

    setting: AnySetting
    place: Place
    version: str
    pool: PoolDispatcher
    used: float = 0.0
    held: int = 0
    settled: int = 0
    measured: float = 0.0
    measuring: asyncio.Task[None] | None = None

    @property
    def study(self) -> str:
        return self.setting.purpose


class WarmProcesses:
    """The processes of one hospital's studies.

    Args:
        journal: The hospital's; each start and each end is written there, with its reason.
        progressed: Is told how far a training is, by a thread.
        places: The GPUs to use; by default those of this machine.
        spawn: Starts a process.

    Guarantees:
        A process serves one version of one study and sees one GPU. Two that share a study's folders, being of two
        versions of it, are never there at once.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        progressed: Callable[[Progress], None] | None = None,
        places: Sequence[str] | None = None,
        spawn: Spawn = spawn_site_process,
    ) -> None:
        self._journal, self._progressed, self._spawn = journal, progressed, spawn
        self._places, self._desk = Places(gpus() if places is None else places), Places([])
        self._warm: dict[str, _Warm] = {}  # by the study's digest
        self._claims: Counter[str] = Counter()  # pieces of work in hand and waiting, by the study's name

    @asynccontextmanager
    async def use(
        self, setting: AnySetting, settings: HospitalSettings, *, kind: Kind
    ) -> AsyncIterator[PoolDispatcher]:
        """Have a study's process to oneself, after waiting for its place.

        Args:
            setting: The study and its folders, or those of all analyses; they are all that the process is told.
            settings: How much memory there may be used.
            kind: What it is for.

        Raises:
            LostError: If the process died over it, and so did the one in its place; the next use has a fresh one.
        """
        name = setting.purpose
        self._claims[name] += 1
        try:
            # Sums of a table need no GPU, and wait for none.
            async with self._place(name, self._desk if isinstance(setting, DeskSetting) else self._places) as place:
                warm = await self._ready(setting, settings, place)
                try:
                    yield warm.pool
                except asyncio.CancelledError:
                    self._end(warm, "cancelled")
                    raise
                except LostError:
                    self._end(warm, "crashed")
                    raise LostError(
                        f"the process that should {kind} died twice; the hospital's own log may say why"
                    ) from None
                finally:
                    warm.used = time.monotonic()
                warm.pool.forgive()
                warm.measuring = asyncio.create_task(self._measure(warm, settings, kind))
        finally:
            self._claims[name] -= 1
            self._forget(name)

    def close(self) -> None:
        """End all processes."""
        for warm in list(self._warm.values()):
            self._end(warm, "closed")

    @asynccontextmanager
    async def _place(self, name: str, places: Places) -> AsyncIterator[Place]:
        """Have a study's place to oneself."""
        place = await places.take(name)
        try:
            yield place
        finally:
            places.give_back(place)

    async def _ready(self, setting: AnySetting, settings: HospitalSettings, place: Place) -> _Warm:
        """Return the process of a study, a fresh one where there is none or what is there will not do."""
        for warm in [warm for warm in self._warm.values() if warm.study == setting.purpose]:
            if warm.measuring is not None:
                await asyncio.wait([warm.measuring])
            if warm.setting.version != setting.version:
                self._end(warm, "new_study")
            elif warm.setting != setting:
                self._end(warm, "new_settings")
            elif warm.version != own_version():
                self._end(warm, "new_version")
            elif warm.pool.lost:
                self._end(warm, "crashed")
        if setting.version not in self._warm:
            expected = max((warm.held for warm in self._warm.values()), default=0)
            self._make_room(settings, expected)
            self._warm[setting.version] = self._start(setting, place)
        return self._warm[setting.version]

    def _start(self, setting: AnySetting, place: Place) -> _Warm:
        """Start the process of a study."""

        def replace() -> SiteProcess:
            self._note("process_ended", setting, place, reason="crashed")
            self._note("process_started", setting, place, version=own_version())
            return self._spawn(1, clean=True, gpu=place.gpu)

        site = setting.site
        process = self._spawn(1, clean=True, gpu=place.gpu)
        pool = PoolDispatcher({site: setting}, process, {site: 1}, spawn=replace, progressed=self._progressed)
        version = own_version()
        self._note("process_started", setting, place, version=version)
        return _Warm(setting, place, version, pool)

    def _end(self, warm: _Warm, reason: Reason) -> None:
        """End a process."""
        if self._warm.get(warm.setting.version) is warm:
            del self._warm[warm.setting.version]
            warm.pool.close()
            held = {"held_mb": warm.held // 1_000_000, "settled_mb": warm.settled // 1_000_000} if warm.held else {}
            self._note("process_ended", warm.setting, warm.place, reason=reason, **held)
            self._forget(warm.study)

    def _forget(self, name: str) -> None:
        """Let a study that has neither process nor work take any place the next time."""
        if not self._claims[name]:
            del self._claims[name]
            if all(warm.study != name for warm in self._warm.values()):
                self._places.forget(name)

    async def _measure(self, warm: _Warm, settings: HospitalSettings, kind: Kind) -> None:
        """Measure what a process holds between two pieces of work, and end it or others if that is too much."""
        if warm.settled and time.monotonic() - warm.measured < MEASURE_EVERY_S:
            return  # it walks through all processes of the machine
        warm.held, warm.measured = await asyncio.to_thread(held_memory, warm.pool.groups), time.monotonic()
        if kind == "train" and not warm.settled:
            warm.settled = warm.held  # data, network and optimiser are there now
        if warm.settled and warm.held - warm.settled > settings.memory_growth_gb * GB:
            self._end(warm, "memory_growth")
        self._make_room(settings, keep=warm)

    def _make_room(self, settings: HospitalSettings, needed: int = 0, keep: _Warm | None = None) -> None:
        """End what has been idle for a day; then the longest idle, until all others and what is needed fit."""
        bound = machine_memory() * SHARE if settings.memory_gb is None else settings.memory_gb * GB
        idle = [warm for warm in self._warm.values() if warm is not keep and not self._claims[warm.study]]
        for warm in sorted(idle, key=lambda warm: warm.used):
            if time.monotonic() - warm.used > IDLE_S:
                self._end(warm, "idle")
            elif bound and sum(one.held for one in self._warm.values()) + needed > bound:
                self._end(warm, "memory_needed")

    def _note(self, event: str, setting: AnySetting, place: Place, **about: str | int) -> None:
        """Write to the journal; a disk that is full does not keep a process from being ended or replaced."""
        try:
            self._journal.append(event, study=setting.purpose, digest=setting.version[:16], place=place.number, **about)
        except WardRoundError as error:
            log.warning("%s is not in the journal: %s", event, error)
