"""How much memory the aggregation of many updates takes; run as ``python -m benchmarks.aggregation``.

It writes one update into the slot of each site and aggregates them as a round does: from the exchange's files,
one at a time, in the order of the sites' names. One line of JSON says how far memory rose.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.commands import high_water_mark
from components.exchange.codec import WrittenFile
from components.exchange.store import FolderStore, Slot
from components.federation import slot_of, updates_of
from components.rounds import Answer, RoundPlan, UpdateManifest
from components.strategies import FedAvg
from components.weights import Weights

LAYERS = 16


def main(folder: str, sites: str, millions: str) -> None:
    """Aggregate updates of `sites` sites and `millions` million parameters in a folder."""
    store = FolderStore(folder)
    state = FedAvg().init(some_weights(float(millions)))
    names = [f"site-{number:02d}" for number in range(1, int(sites) + 1)]
    plan = RoundPlan(
        study="memory", study_digest="0" * 64, training="memory", round=1, base_digest="0" * 64,
        roster=names, quorum=len(names), deadline_s=60.0, instructions={},
    )  # fmt: skip
    written = store.put_update(slot_of(plan, names[0]), state.weights)
    answers = {name: put_answer(store, slot_of(plan, name), slot_of(plan, names[0]), written) for name in names}
    before = high_water_mark()
    after = FedAvg().aggregate(state, updates_of(plan, answers, store))
    print(json.dumps({"bytes": high_water_mark() - before, "round": after.round}))


def some_weights(millions: float) -> Weights:
    """Return so many million parameters in equal layers."""
    draw = torch.Generator().manual_seed(1)
    size = round(millions * 1e6 / LAYERS)
    return {f"layer-{number:02d}": torch.randn(size, generator=draw) for number in range(LAYERS)}


def put_answer(store: FolderStore, slot: Slot, first: Slot, written: WrittenFile) -> Answer:
    """Answer for a site; its update is a link to the first site's, which saves the disk and changes nothing here."""
    file = f"{written.sha256}.safetensors"
    target = store.root / "slots" / slot.folder / file
    if slot != first:
        target.parent.mkdir(parents=True)
        os.link(Path(store.root) / "slots" / first.folder / file, target)
    manifest = UpdateManifest(
        weights_digest=written.weights_digest, file_sha256=written.sha256, bytes=written.bytes,
        weight=1.0, steps=1, loss_sum=0.0,
    )  # fmt: skip
    return Answer(kind="train", site=slot.site, round=1, nonce="0" * 32, status="done", update=manifest)


if __name__ == "__main__":
    main(*sys.argv[1:])
