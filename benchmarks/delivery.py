"""One large update through the gateway, against what the artifact store alone takes.

The same file, on the same machine, in turn: a hospital seals it, brings it to a real gateway process with its own
client and submits it, and the coordinator opens it; and MLflow's client sends it to a real MLflow server that proxies
its artifacts, as the coordinator's own server does.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.aggregation import some_weights
from benchmarks.commands import environment, python, run
from benchmarks.results import Part
from benchmarks.servers import artifact_store, gateway
from benchmarks.tables import Cell, markdown_table
from components.exchange.codec import WrittenFile, write_weights
from components.exchange.sealing import open_file
from components.exchange.signed import update_context, verify_update
from components.exchange.signing import read_signed
from components.gateway.client import GatewayClient, enrol
from components.gateway.records import slot_of_order
from components.governance.identity_files import SiteFolder
from components.rounds import Answer, Order, RoundPlan, UpdateManifest
from flows.coordinator import CoordinatorSide, invite
from flows.hospital_outbox import Outbox

SITE = "north"
MILLIONS = 100.0
AT_LEAST = 0.6
ROOM = 1 << 20


@dataclass(frozen=True)
class Delivery:
    """The same file moved once each way.

    Attributes:
        bytes: Its size.
        send_s: Sealing, uploading and submitting it, as the hospital's outbox does.
        open_s: Verifying the envelope and opening the update, at the coordinator.
        store_s: Sending it to the artifact store alone.
        load: Load average when it began.
    """

    bytes: int
    send_s: float
    open_s: float
    store_s: float
    load: float

    @property
    def share(self) -> float:
        """The delivery's bytes per second over the store's."""
        return self.store_s / (self.send_s + self.open_s)


def measure(work: Path, *, repeats: int = 5, millions: float = MILLIONS) -> Part:
    """Move an update of so many million parameters each way, in turn, several times.

    Args:
        work: An empty folder, with room for six times the update.
        repeats: How often each.
        millions: Parameters of the update; 100 million are 400 MB.
    """
    file = work / "update.safetensors"
    written = write_weights(file, some_weights(millions))
    with gateway(work / "federation") as side, artifact_store(work / "store") as address:
        folder = SiteFolder(work / "hospital")
        enrol(invite(side.folder, SITE), folder)
        with GatewayClient(folder) as client:
            outbox = Outbox(folder.state / "outgoing", client, folder.read_keys())
            move_once(file, written, outbox, side, address, number=1)  # connections, and the page cache
            found = [move_once(file, written, outbox, side, address, number=number + 2) for number in range(repeats)]
    return report(found)


def move_once(
    file: Path, written: WrittenFile, outbox: Outbox, side: CoordinatorSide, address: str, *, number: int
) -> Delivery:
    """Deliver a file and send it to the store alone; the order changes from one number to the next."""
    load, store_s = os.getloadavg()[0], 0.0
    if number % 2:
        store_s = send_to_store(file, address)
    send_s, open_s = deliver(file, written, outbox, side, number)
    if not number % 2:
        store_s = send_to_store(file, address)
    return Delivery(written.bytes, send_s, open_s, store_s, load)


def deliver(
    file: Path, written: WrittenFile, outbox: Outbox, side: CoordinatorSide, number: int
) -> tuple[float, float]:
    """Bring an update from a hospital to the coordinator, as both do it; return the seconds of the two steps.

    Raises:
        RuntimeError: If what the coordinator opened is not what the hospital sealed.
    """
    order, answer = order_and_answer(written, number)
    slot, context = slot_of_order(order), update_context(side.federation, order)
    side.grants.open_slot(slot, max_bytes=2 * written.bytes + ROOM)
    opened_file = side.folder / "opened.safetensors"
    began = time.perf_counter()
    if not asyncio.run(outbox.deliver_answer(order, answer, file)):
        raise RuntimeError("the gateway did not say that it took the update")
    sent_at = time.perf_counter()
    text = side.sealed.envelope(slot)
    if text is None:
        raise RuntimeError("the gateway took an envelope that is not there")
    verify_update(read_signed(text), side.signing_key(SITE), federation=side.federation, order=order)
    open_file(side.sealed.payload(slot), opened_file, side.secrets.sealing, context, written.bytes + ROOM)
    opened_at = time.perf_counter()
    side.grants.close_slot(slot)
    side.sealed.discard(slot)
    with opened_file.open("rb") as content:
        if hashlib.file_digest(content, hashlib.sha256).hexdigest() != written.sha256:
            raise RuntimeError("the coordinator opened something else than the hospital sealed")
    opened_file.unlink()
    return sent_at - began, opened_at - sent_at


def order_and_answer(written: WrittenFile, number: int) -> tuple[Order, Answer]:
    """Return the order of a round, and what the hospital answers."""
    nothing, nonce = "0" * 64, f"{number:032x}"
    plan = RoundPlan(
        study="delivery", study_digest=nothing, training="delivery-1", round=number, base_digest=nothing,
        roster=[SITE], quorum=1, deadline_s=600.0, instructions={},
    )  # fmt: skip
    manifest = UpdateManifest(
        weights_digest=written.weights_digest, file_sha256=written.sha256, bytes=written.bytes, weight=1.0, steps=1,
        loss_sum=0.0,
    )  # fmt: skip
    order = Order(kind="train", site=SITE, plan=plan, weights_digest=nothing, nonce=nonce)
    return order, Answer(kind="train", site=SITE, round=number, nonce=nonce, status="done", update=manifest)


def send_to_store(file: Path, address: str) -> float:
    """Send a file to MLflow's server with its own client, in a process of its own; return the sending's seconds."""
    done = run(python("benchmarks.delivery", address, str(file)), variables=environment(file.parent))
    return float(done.output.splitlines()[-1])


def main(address: str, file: str) -> None:
    """Send a file to MLflow's server, print how many seconds it took, and remove it there again."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    found = client.get_experiment_by_name("delivery")
    experiment = found.experiment_id if found else client.create_experiment("delivery")
    made = client.create_run(experiment)
    client.log_text(made.info.run_id, "opens the connection", "first.txt")
    began = time.perf_counter()
    client.log_artifact(made.info.run_id, file)
    print(time.perf_counter() - began)


def report(found: Sequence[Delivery]) -> Part:
    """Write up the deliveries."""
    size = found[0].bytes
    whole = [item.send_s + item.open_s for item in found]
    rows: list[list[Cell]] = [
        [name, statistics.median(values), size / 1e6 / statistics.median(values)]
        for name, values in (
            ("seal, upload and submit", [item.send_s for item in found]),
            ("verify and open", [item.open_s for item in found]),
            ("delivery", whole),
            ("MLflow's artifact proxy alone", [item.store_s for item in found]),
        )
    ]
    shares = sorted(item.share for item in found)
    share = statistics.median(shares)
    asked: list[list[Cell]] = [
        ["delivery's bytes/s over the store's", share, f"{shares[0]:.2f}-{shares[-1]:.2f}", f">= {AT_LEAST:g}",
         share >= AT_LEAST],
    ]  # fmt: skip
    loads = sorted(item.load for item in found)
    text = "\n\n".join([
        f"One update of {size / 1e6:.0f} MB from a hospital to its coordinator, medians of {len(found)}, in turn with "
        "MLflow's own client sending the same file to an MLflow server that proxies its artifacts. A delivery is on "
        "the disk, and digests and signature are checked, when it counts as made; a proxied artifact is not. Load "
        f"average when they began {loads[0]:.1f}-{loads[-1]:.1f}.",
        markdown_table(["", "seconds", "MB/s"], rows),
        markdown_table(["measured", "median", "range", "asked", "holds"], asked),
    ])  # fmt: skip
    return Part("delivery", "A large update", text, {"deliveries": [asdict(item) for item in found]})


if __name__ == "__main__":
    main(*sys.argv[1:])
