"""Many hospitals at one coordinator: seconds a round, and what their processes hold.

Every hospital is a worker process. A hospital that trains has a warm process beside it, which imports torch; where
those of all hospitals do not fit into the machine's memory, only as many hospitals as do have passed their doctor,
which lets them take part, and the others only stay connected: the result says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loopback import WARM_UP, RoundTime, federated, loopback, with_rounds
from benchmarks.processes import WARM, WORKER, Memory, available_bytes, memory_by_kind, middle, shares
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table, megabytes
from components.files import write_whole
from components.gateway.client import GatewayClient
from components.governance.identity_files import SiteFolder
from flows.coordinator import FILE, open_side, read_coordinator
from flows.local_record import federation_folder

HOSPITALS = 64
MILLIONS = 0.01
MOST_S = 5.0
FIRST = 3  # hospitals whose warm processes tell how many fit
CONNECTED_WITHIN_S = 600.0
KEPT_BACK = 3e9  # bytes that the coordinator's training and the page cache keep


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        hospitals: How many were connected.
        training: How many trained.
        database: Where the servers recorded.
        up_s: Seconds of ``wardround up``, with every enrolment.
        first_round_s: From ``wardround train`` until its first round was evaluated.
        rounds: The rounds after those that warm up.
        train_bytes: Most memory of the process of ``wardround train``.
        load: Load average when it started.
    """

    hospitals: int
    training: int
    database: str
    up_s: float
    first_round_s: float
    rounds: list[RoundTime]
    train_bytes: int
    load: float


def measure(work: Path, *, rounds: int = 10, hospitals: int = HOSPITALS, database: str = "both") -> Part:
    """Bring the hospitals up, train at as many as fit into memory, and look at their processes.

    Args:
        work: An empty folder.
        rounds: Rounds that count, after two that do not.
        hospitals: How many.
        database: SQLite if it is asked for alone, else PostgreSQL, as a consortium has it.
    """
    chosen = "sqlite" if database == "sqlite" else "postgresql"
    study = federated(hospitals, MILLIONS, work, rounds=WARM_UP + rounds)
    with loopback(study, work, chosen) as up:
        wait_connected(up.home)
        idle = memory_by_kind(up.home)
        room = available_bytes() - KEPT_BACK
        let_in(up.home, FIRST)
        up.train(with_rounds(study, max=1, quorum=FIRST))
        some = memory_by_kind(up.home)
        each = (shares(some, WARM) + shares(some, WORKER) - shares(idle, WORKER)) / FIRST
        count = fitting(hospitals, room=room, each=each)
        let_in(up.home, count)
        trained = up.train(with_rounds(study, quorum=count))
        found = Found(
            hospitals, len(trained.roster), chosen, up.up.seconds, trained.first_round_s, trained.rounds,
            trained.finished.peak_bytes, trained.finished.load,
        )  # fmt: skip
        return report(found, idle, memory_by_kind(up.home))


def wait_connected(home: Path) -> None:
    """Wait until the gateway has heard of every hospital: by then each has imported what it works with.

    Raises:
        TimeoutError: If one does not come.
    """
    sites, deadline = open_side(federation_folder(home)).sites, time.monotonic() + CONNECTED_WITHIN_S
    while silent := [site.name for site in sites.list() if site.last_seen is None]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not heard of within {CONNECTED_WITHIN_S:.0f} s: {', '.join(silent)}")
        time.sleep(0.5)


def let_in(home: Path, count: int) -> None:
    """Have the first hospitals take part and no other: only those whose doctor has passed are asked."""
    folder = federation_folder(home)
    config = read_coordinator(folder).model_copy(update={"require_ready": True})
    write_whole(folder / FILE, config.model_dump_json(indent=2).encode())
    for hospital in sorted((folder / "hospitals").iterdir())[:count]:
        with GatewayClient(SiteFolder(hospital)) as client:
            client.doctor(passed=True, findings={})


def fitting(hospitals: int, *, room: float, each: float) -> int:
    """Return how many of the hospitals can train at a time.

    Args:
        hospitals: How many there are.
        room: Bytes of memory that may be filled.
        each: Bytes that one more hospital takes when it trains.

    >>> fitting(64, room=10e9, each=250e6), fitting(64, room=100e9, each=250e6), fitting(64, room=0, each=250e6)
    (40, 64, 3)
    """
    return max(min(FIRST, hospitals), min(hospitals, int(room // max(each, 1.0))))


def report(found: Found, idle: Mapping[str, Sequence[Memory]], after: Mapping[str, Sequence[Memory]]) -> Part:
    """Write up what was found."""
    whole = [item.whole_s for item in found.rounds]
    seconds = statistics.median(whole)
    all_of_them = found.training == found.hospitals
    holds: Cell = seconds <= MOST_S if all_of_them or seconds > MOST_S else f"with {found.training} that train"
    asked: list[list[Cell]] = [
        [f"a round with {found.hospitals} hospitals (s)", seconds, f"{min(whole):.2f} to {max(whole):.2f}",
         f"<= {MOST_S:g}", holds],
    ]  # fmt: skip
    kinds = [kind for kind in after if kind != "other"]
    rows: list[list[Cell]] = [_row("worker that has not trained", idle.get(WORKER, []))]
    rows += [_row(kind, after[kind]) for kind in sorted(kinds)]
    some = "" if all_of_them else (
        f" **The warm processes of {found.hospitals} hospitals do not fit into this machine's memory: "
        f"{found.training} of them prepare, train and evaluate; the others are connected and idle.**"
    )  # fmt: skip
    text = "\n\n".join([
        f"{found.hospitals} hospital workers at one coordinator with {found.database}, a tiny model, all on this "
        f"machine; `wardround up` took {found.up_s:.0f} s with every enrolment, the first round "
        f"{found.first_round_s:.0f} s while every hospital that trains imported torch. Medians of {len(whole)} rounds "
        f"after {WARM_UP}; load average at their start {found.load:.1f}.{some}",
        markdown_table(["measured", "median", "range", "asked", "holds"], asked),
        "Resident memory counts what processes share in each of them; the shares add up. `wardround train` held "
        f"{megabytes(found.train_bytes)} at the most.",
        markdown_table(["process", "how many", "resident, each", "share, each", "shares, all"], rows),
    ])  # fmt: skip
    data = {
        "found": asdict(found),
        "memory": {kind: [asdict(memory) for memory in each] for kind, each in after.items()},
        "idle_workers": [asdict(memory) for memory in idle.get(WORKER, [])],
    }
    return Part("hospitals", "Many hospitals", text, data)


def _row(name: str, found: Sequence[Memory]) -> list[Cell]:
    return [name, len(found), megabytes(middle(found, "resident")), megabytes(middle(found, "own")),
            megabytes(sum(memory.own for memory in found))]  # fmt: skip
