"""The processes of a hospital's studies: real ones, that answer at once. Those that train: `test_warm_trainings`."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from components.dispatch import SiteSetting
from components.errors import LostError
from components.governance.hospital_settings import HospitalSettings
from components.journal import Journal
from components.site_source import SiteSource, SourcePart
from flows import warm as warm_processes
from flows.machine import held_memory
from flows.warm import Kind, WarmProcesses
from tests.end_to_end.ward import wait_until
from tests.flows.site_double import spawn_double, tell_double
from tests.references.tiny_study import tiny_study

pytestmark = pytest.mark.timeout(300)
SETTINGS = HospitalSettings(data={"*": "/data"})


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test, with a limit."""

    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*given, **named), 240))

    return run


class Site:
    """A hospital's processes, and what they answer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.journal = Journal.open(folder / "journal.jsonl")
        self.warm = WarmProcesses(self.journal, **{"spawn": spawn_double, "places": [], **changes})

    def setting(self, study: str, **changes: Any) -> SiteSetting:
        part = SourcePart(site="north", kind="folder", path=changes.pop("path", "/data"))
        return SiteSetting(
            study=tiny_study(study=study, **changes), source=SiteSource(name="north", parts=[part]),
            state=str(self.state(study)), store=str(self.folder / "store"),
        )  # fmt: skip

    def state(self, study: str) -> Path:
        return self.folder / "studies" / study

    async def ask(
        self, study: str, *, kind: Kind = "prepare", settings: HospitalSettings = SETTINGS, **changes: Any
    ) -> dict[str, Any]:
        """Have a study's process answer; return what it says of itself."""
        async with self.warm.use(self.setting(study, **changes), settings, kind=kind) as process:
            found = await asyncio.wrap_future(process.prepare("north"))
        said: dict[str, Any] = json.loads(found.reason)
        assert said["study"] == study
        return said

    def ended(self) -> list[tuple[str, str]]:
        return [(entry.data["study"], entry.data["reason"]) for entry in self.journal.find("process_ended")]

    def started(self) -> list[str]:
        return [entry.data["study"] for entry in self.journal.find("process_started")]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that opens a hospital's processes."""
    made: list[Site] = []

    def open_site(**changes: Any) -> Site:
        made.append(Site(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield open_site
    for site in made:
        groups = [group for warm in site.warm._warm.values() for group in warm.pool.groups]
        site.warm.close()
        assert held_memory(groups) == 0  # nothing is left
        site.journal.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@in_loop
async def test_a_study_keeps_its_process_and_shares_it_with_none(make: Callable[..., Site]) -> None:
    site = make()
    first, other, again = [await site.ask(study) for study in ("a", "b", "a")]
    assert first["pid"] == again["pid"] != other["pid"]
    assert (site.started(), site.ended()) == (["a", "b"], [])


@in_loop
async def test_a_process_is_told_nothing_but_where_its_gpu_and_programs_are(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARDROUND_TOKEN", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    site = make(places=["GPU-7"])
    tell_double(site.state("a"), "die-once")  # the one in its place is told no more
    said = await site.ask("a")
    assert said["gpu"] == "GPU-7"
    assert [name for name in said["environment"] if "TOKEN" in name or "PROXY" in name] == []
    assert len(site.started()) == 2


@in_loop
async def test_two_studies_work_at_once_on_two_gpus_and_stay_there(make: Callable[..., Site]) -> None:
    site = make(places=["0", "1"])
    for _ in range(2):
        async with site.warm.use(site.setting("a"), SETTINGS, kind="train"):
            assert (await site.ask("b"))["gpu"] == "1"
        async with site.warm.use(site.setting("b"), SETTINGS, kind="train"):
            assert (await site.ask("a"))["gpu"] == "0"
    assert site.started() == ["a", "b"]
    assert {(entry.data["study"], entry.data["place"]) for entry in site.journal.find("process_started")} == {
        ("a", 0), ("b", 1),
    }  # fmt: skip


@in_loop
async def test_a_third_study_waits_for_a_place_and_is_let_in_when_one_is_free(make: Callable[..., Site]) -> None:
    site = make(places=["0", "1"])
    async with site.warm.use(site.setting("b"), SETTINGS, kind="train"):
        async with site.warm.use(site.setting("a"), SETTINGS, kind="train"):
            third = asyncio.create_task(site.ask("c"))
            done, _ = await asyncio.wait([third], timeout=0.5)
            assert not done
            assert site.started() == ["b", "a"]
        both = asyncio.create_task(site.ask("a"))  # its place is free, and it is the third's turn
        assert {(await third)["gpu"], (await both)["gpu"]} <= {"0", "1"}


@in_loop
async def test_a_process_that_dies_is_replaced_and_the_work_is_done(make: Callable[..., Site]) -> None:
    """As often as it happens, as long as work is done in between."""
    site = make()
    pids = set()
    for _ in range(3):
        tell_double(site.state("a"), "die-once")
        pids.add((await site.ask("a"))["pid"])
    assert len(pids) == 3
    assert site.ended() == [("a", "crashed")] * 3
    assert site.started() == ["a"] * 4


@in_loop
async def test_a_process_that_dies_twice_fails_the_work_and_the_next_has_a_fresh_one(
    make: Callable[..., Site],
) -> None:
    site = make()
    tell_double(site.state("a"), "die")
    with pytest.raises(LostError, match="the process that should train died twice"):
        await site.ask("a", kind="train")
    assert site.warm._warm == {}
    (site.state("a") / "do").unlink()
    assert alive((await site.ask("a"))["pid"])
    assert site.ended() == [("a", "crashed")] * 2


@in_loop
async def test_a_process_that_dies_while_idle_is_not_missed(make: Callable[..., Site]) -> None:
    site = make()
    for _ in range(2):
        first = await site.ask("a")
        os.kill(first["pid"], 9)
        wait_until(lambda first=first: not alive(first["pid"]))  # type: ignore[misc]
        assert (await site.ask("a"))["pid"] != first["pid"]


@in_loop
async def test_what_is_withdrawn_is_killed(make: Callable[..., Site]) -> None:
    site = make()
    first = await site.ask("a")
    tell_double(site.state("a"), "wait")
    work = asyncio.create_task(site.ask("a", kind="train"))
    assert await asyncio.to_thread(wait_until, (site.state("a") / "waits").exists, 30)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not alive(first["pid"])
    assert site.ended() == [("a", "cancelled")]
    (site.state("a") / "do").unlink()
    assert (await site.ask("a"))["pid"] != first["pid"]


@in_loop
async def test_what_is_withdrawn_while_it_waits_ends_nothing(make: Callable[..., Site]) -> None:
    site = make()
    async with site.warm.use(site.setting("a"), SETTINGS, kind="train") as process:
        waiting = [asyncio.create_task(site.ask(study)) for study in ("a", "b")]
        await asyncio.sleep(0)
        for work in waiting:
            work.cancel()
        await asyncio.wait(waiting)
        said = json.loads((await asyncio.wrap_future(process.prepare("north"))).reason)
    assert alive(said["pid"])
    assert (await site.ask("a"))["pid"] == said["pid"]
    assert site.ended() == []


@in_loop
async def test_a_process_that_grows_from_round_to_round_is_replaced(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_processes, "MEASURE_EVERY_S", 0.0)
    site, settings = make(), SETTINGS.model_copy(update={"memory_growth_gb": 0.12})
    tell_double(site.state("a"), "grow")  # 50 MB a call
    pids = [(await site.ask("a", kind="train", settings=settings))["pid"] for _ in range(5)]
    assert len(set(pids[:4])) == 1
    assert pids[4] != pids[3]
    (ended,) = site.journal.find("process_ended")
    assert ended.data["reason"] == "memory_growth"
    assert 130 < ended.data["held_mb"] - ended.data["settled_mb"] < 200


@in_loop
async def test_growth_counts_from_the_first_training(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the data and making the optimiser is no growth."""
    monkeypatch.setattr(warm_processes, "MEASURE_EVERY_S", 0.0)
    site, settings = make(), SETTINGS.model_copy(update={"memory_growth_gb": 0.04})
    tell_double(site.state("a"), "grow")
    kinds: list[Kind] = ["prepare", "prepare", "train", "evaluate"]
    pids = [(await site.ask("a", kind=kind, settings=settings))["pid"] for kind in kinds]
    assert len(set(pids)) == 1
    await asyncio.sleep(0)
    assert (await site.ask("a", settings=settings))["pid"] != pids[0]


@in_loop
async def test_idle_processes_are_ended_where_memory_is_short_the_longest_idle_first(
    make: Callable[..., Site],
) -> None:
    site, settings = make(), SETTINGS.model_copy(update={"memory_gb": 0.2})
    for study in ("a", "b", "c"):
        tell_double(site.state(study), "grow")
        await site.ask(study, settings=settings)
    await measured(site)
    await site.ask("b", settings=settings)  # 100 MB and more: b and c are too much now
    await measured(site)
    assert site.ended()[0] == ("a", "memory_needed")
    assert "b" in {warm.study for warm in site.warm._warm.values()}
    held = sum(warm.held for warm in site.warm._warm.values())
    assert held <= 0.2e9


@in_loop
async def test_a_study_that_asked_for_nothing_in_a_day_has_no_process(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make()
    for study in ("a", "b", "a"):
        await site.ask(study)
    assert site.ended() == []
    monkeypatch.setattr(warm_processes, "IDLE_S", 0.0)
    await site.ask("c")
    await measured(site)
    assert site.ended() == [("b", "idle"), ("a", "idle")]


async def measured(site: Site) -> None:
    await asyncio.wait([warm.measuring for warm in site.warm._warm.values() if warm.measuring])


@in_loop
async def test_a_new_version_of_the_installation_has_fresh_processes(
    make: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed" / "wardround-8.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: wardround\nVersion: 8.0\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    site = make()
    first, second = [await site.ask("a") for _ in range(2)]
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: wardround\nVersion: 8.1\n")
    third = await site.ask("a")
    assert first["pid"] == second["pid"] != third["pid"]
    assert site.ended() == [("a", "new_version")]
    assert [entry.data["version"] for entry in site.journal.find("process_started")] == ["8.0", "8.1"]


@pytest.mark.parametrize(("changes", "reason"), [({"seed": 2}, "new_study"), ({"path": "/moved"}, "new_settings")])
@in_loop
async def test_another_version_of_a_study_or_another_folder_has_a_fresh_process(
    make: Callable[..., Site], changes: dict[str, Any], reason: str
) -> None:
    site = make(places=["0", "1"])
    first = await site.ask("a")
    second = await site.ask("a", **changes)
    assert not alive(first["pid"])
    assert second["gpu"] == first["gpu"]
    assert site.ended() == [("a", reason)]


@in_loop
async def test_closing_ends_every_process(make: Callable[..., Site]) -> None:
    site = make(places=["0", "1"])
    pids = [(await site.ask(study))["pid"] for study in ("a", "b")]
    site.warm.close()
    assert [alive(pid) for pid in pids] == [False, False]
    assert sorted(site.ended()) == [("a", "closed"), ("b", "closed")]
