"""What a journal says of an asynchronous training, done again, as naively as possible.

Only two lines count: ``update_received`` (whose update, made for which round) and ``aggregated`` (now they make a
version). Each update is trained again from the weights that the replay itself came to; the arithmetic is FedBuff's.
"""

import math
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.federation import slot_of, training_order
from components.journal import Entry
from components.rounds import RoundPlan
from components.study import Study
from flows.dispatch import InProcessDispatcher

Weights = dict[str, Tensor]


def replay(study: Study, entries: Iterable[Entry], folder: Path, *, state: Path) -> dict[int, str]:
    """Return the digest of the weights after each round; films are in `folder`, what is made here in `state`."""
    store = FolderStore(state / "store")
    settings = {
        source.name: SiteSetting(study=study, source=source, state=str(state / source.name), store=str(store.root))
        for source in plan_sources(study, folder, folder)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        initial = dispatcher.initialise(study).result()
        digests, plans, arrived = {0: initial.weights_digest}, dict[int, RoundPlan](), dict[str, RoundPlan]()
        for entry in entries:
            if entry.event == "round_planned":
                plans[entry.data["round"]] = RoundPlan.model_validate(entry.data["plan"])
            elif entry.event == "update_received":
                plan = RoundPlan.model_validate(entry.data["plan"]) if "plan" in entry.data else None
                arrived[entry.data["site"]] = plan or plans[entry.data["round"]]
            elif entry.event == "aggregated":
                number, updates = entry.data["round"], []
                for site, plan in sorted(arrived.items()):
                    begun = digests[plan.round - 1]
                    own = plan.model_copy(update={"base_digest": begun, "training": f"replay-{number}"})
                    answer = dispatcher.submit(training_order(own, site)).result()
                    assert answer.update is not None, answer.reason
                    trained = store.get_update(slot_of(own, site), answer.update)
                    updates.append((answer.update.weight, number - plan.round, store.get(begun), trained))
                made = fedbuff(store.get(digests[number - 1]), updates, initial.statistics)
                digests[number] = store.put_weights(made)
                arrived.clear()
    return {number: digest for number, digest in digests.items() if number}


def fedbuff(now: Weights, updates: list[tuple[float, int, Weights, Weights]], statistics: list[str]) -> Weights:
    """Add up updates, in the order of their sites; each is (samples, staleness, weights before, weights after)."""
    made = {}
    for name, value in now.items():
        total, added = 0.0, torch.zeros_like(value, dtype=torch.float64)
        for samples, staleness, before, after in updates:
            moved = after[name]
            if staleness:
                start = value if name in statistics else before[name]
                step = moved.double() - start.double()
                moved = (value.double() + 1 / math.sqrt(1 + staleness) * step).to(value.dtype)
            added, total = added + samples * moved.double(), total + samples
        made[name] = (added / total).to(value.dtype)
    return made
