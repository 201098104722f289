"""Sites that refuse, dawdle or die: recorded with their reason; the round goes on within its quorum."""

import os
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import pytest
from PIL import Image

from components.journal import read
from tests.end_to_end.records import recorded, run_states
from tests.end_to_end.test_same_bits import simulated_digests
from tests.end_to_end.ward import Command, Ward, running, wait_until
from tests.references.tiny_study import STUDY

pytestmark = pytest.mark.timeout(1500)
SITES = ["east", "north", "west"]


def write_hospital(folder: Path, *, seed: int, broken: int) -> None:
    """Write forty PNG films with a table; the first `broken` ones are no images."""
    random = Random(seed)
    folder.mkdir(parents=True)
    rows = ["file,label,patient"]
    for number in range(40):
        film = Image.frombytes("L", (16, 16), random.randbytes(256))
        if number % 3 == 0:
            film.paste(255, (4, 4, 12, 12))
        film.save(folder / f"{number}.png")
        if number < broken:
            (folder / f"{number}.png").write_bytes(b"not a film")
        rows.append(f"{number}.png,{'ill' if number % 3 == 0 else 'normal'},patient-{number}")
    (folder / "items.csv").write_text("\n".join(rows))


def ward_of_hospitals(folder: Path, *, quorum: int) -> Ward:
    """Three hospitals; in the west, a quarter of the films cannot be used."""
    for number, site in enumerate(SITES):
        write_hospital(folder / site, seed=number, broken=10 if site == "west" else number)
    return Ward.make(
        folder,
        data={"source": "table", "path": "", "intensity": "minmax", "window": None},
        sites=[{"name": site, "path": site} for site in SITES],
        rounds={"max": 2, "quorum": quorum, "selection": {"count": 3}},
    )


def test_a_site_with_too_few_usable_items_takes_no_part(tmp_path: Path) -> None:
    ward = ward_of_hospitals(tmp_path, quorum=2)
    assert ward.run("--dispatcher", "processes:2") == ""

    (started,) = ward.events("training_started")
    west = started.data["preparations"]["west"]
    assert not west["ready"]
    assert "30 of 40 items can be used" in west["reason"]
    assert [entry.data["took_part"] for entry in ward.events("aggregated")] == [["east", "north"]] * 2
    assert [entry.data["plan"]["roster"] for entry in ward.events("round_planned")] == [["east", "north"]] * 2
    (report,) = ward.home.glob("trainings/tiny/*/report.html")
    assert "30 of 40 items can be used" in report.read_text()
    quarantine = (ward.home / "sites" / STUDY / "west" / "quarantine.csv").read_text().splitlines()
    assert len(quarantine) == 11
    assert {kind for kind, site in recorded(ward)["runs"] if site != "west"} == {"training", "site"}


def test_too_few_ready_sites_are_told_before_anything_starts(tmp_path: Path) -> None:
    ward = ward_of_hospitals(tmp_path, quorum=3)
    message = ward.run("--dispatcher", "processes:2", status=3)
    assert message.startswith("error: 2 of 3 sites are ready, a round needs 3. west: 30 of 40 items can be used")
    assert "lower rounds.quorum or data.minimum_usable_fraction" in message
    assert message.count("\n") == 1
    assert ward.journal() == ()
    assert wait_until(lambda: not ward.processes(), limit_s=30), ward.processes()


def process_of(ward: Ward, site: str) -> int:
    """The process that holds a site's journal; 0 before one does, and while one is just taking it."""
    holder = ward.home / "sites" / STUDY / site / "journal.jsonl.holder"
    return int((holder.read_text().split() or ["0"])[0]) if holder.exists() else 0


def site_events(ward: Ward, site: str) -> list[Any]:
    path = ward.home / "sites" / STUDY / site / "journal.jsonl"
    return list(read(path)) if path.exists() else []


def stop_in_training(command: Command, site: str) -> int:
    """Stop a site's process while it trains; return its number."""
    ward = command.ward
    before = len(site_events(ward, site))

    def training() -> bool:
        """Whether an order came that is not answered; one from before was given to a process that is gone."""
        events = site_events(ward, site)[before:]
        return bool(events) and events[-1].event == "train_ordered"

    def stopped() -> bool:
        process = process_of(ward, site)
        if not training() or process not in ward.processes():
            return command.process.poll() is not None
        os.kill(process, SIGSTOP)
        if training():
            return True
        os.kill(process, SIGCONT)  # it had just finished
        return False

    assert wait_until(stopped), command.words()
    assert command.process.poll() is None, command.words()
    return process_of(ward, site)


@pytest.mark.long
def test_a_killed_site_is_replaced_once_and_a_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    """With FedAdam, whose moments must be those of the last round too."""
    adam = {"name": "FedAdam", "server_learning_rate": 0.02, "adaptivity": 0.01}
    study: dict[str, Any] = {"strategy": adam, "local": {"epochs": 40, "batch_size": 2}}
    ward = Ward.make(tmp_path / "ward", **study)
    with running(ward.start("--dispatcher", "processes:2")) as command:
        os.kill(stop_in_training(command, "site-1"), SIGKILL)
        os.kill(stop_in_training(command, "site-1"), SIGKILL)  # the one in its place
        assert command.wait() == 5, command.words()
    message = command.errors()
    assert "updates it needs. site-1" in message
    assert "died twice" in message
    assert message.count("\n") == 1
    assert run_states(ward) <= {"FAILED"}

    with running(ward.start("--dispatcher", "processes:2")) as command:
        os.kill(stop_in_training(command, "site-1"), SIGKILL)
        assert command.wait() == 0, command.words()
    assert ward.digests() == simulated_digests(ward.folder, tmp_path / "simulated", **study)
    assert run_states(ward) == {"FINISHED"}
    assert ward.recorded_twice() == []
    ward.verify_journals()


def test_a_site_that_misses_the_deadline_is_left_out_of_the_round_and_comes_back(tmp_path: Path) -> None:
    ward = Ward.make(tmp_path, local={"epochs": 20, "batch_size": 2}, rounds={"max": 4, "quorum": 2, "deadline_s": 20})
    with running(ward.start("--dispatcher", "processes:3")) as command:
        process = stop_in_training(command, "site-3")
        command.wait_for("update_refused", site="site-3")
        os.kill(process, SIGCONT)
        assert command.wait() == 0, command.words()
    assert command.errors() == ""

    refused = {entry.data["round"]: entry.data["reason"] for entry in ward.events("update_refused")}
    assert "no answer within 20 s" in refused.values()
    took_part = {entry.data["round"]: entry.data["took_part"] for entry in ward.events("aggregated")}
    everybody = ["site-1", "site-2", "site-3"]
    assert took_part == {number: everybody[:2] if number in refused else everybody for number in (1, 2, 3, 4)}
    assert took_part[4] == everybody
    late = [e.data["round"] for e in site_events(ward, "site-3") if e.event == "train_answered"]
    assert set(refused) <= set(late)
