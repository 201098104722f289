"""Models trained without a site: nobody's rows are in what judges him, and what a site answers is not believed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from components.assemble import assemble
from components.data.sources import plan_sources
from components.dispatch import InitialModel, SiteSetting
from components.errors import RefusedError
from components.evaluation.histograms import add_sums
from components.exchange.store import FolderStore
from components.external import SPLITS, Rotation, leave_one_site_out, pooled_external
from components.federation import evaluation_order
from components.rounds import Answer, Order, Split
from components.simulation import Simulation, simulate
from components.study import Study
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from tests.references.tiny_table import SITES, table_study, write_hospitals

STUDY = table_study(rounds={"max": 2}, evaluate={"external": "leave_one_site_out"})


@pytest.fixture
def rotation(tmp_path: Path) -> Iterator[Rotation]:
    """Three hospitals with their tables, in this process."""
    write_hospitals(tmp_path)
    with closing(InProcessDispatcher(settings_of(STUDY, tmp_path))) as dispatcher:
        found = {site: dispatcher.prepare(site).result() for site in SITES}

        def initial(sites: Sequence[str]) -> InitialModel:
            fitted = fitted_to(STUDY, {site: found[site] for site in sites})
            return dispatcher.initialise(STUDY, fitted).result()

        store = FolderStore(tmp_path / "store")
        yield Rotation(STUDY, assemble(STUDY).strategy, "table-1", SITES, initial, dispatcher, store)


def settings_of(study: Study, folder: Path) -> dict[str, SiteSetting]:
    state = folder / "state"
    return {
        source.name: SiteSetting(
            study=study, source=source, state=str(state / source.name), store=str(folder / "store")
        )
        for source in plan_sources(study, folder)
    }


def test_a_left_out_site_is_judged_on_all_its_rows_as_the_others_alone_would_train(rotation: Rotation) -> None:
    found = leave_one_site_out(rotation)
    assert {site: sums.count for site, sums in found.items()} == SITES
    alone = simulate(
        STUDY, rotation.strategy, rotation.dispatcher, rotation.store, sites=["east", "north"],
        training="again", initial=rotation.initial(["east", "north"]),
    )  # fmt: skip
    orders = [order_for("west", alone, split) for split in SPLITS]
    sums = [rotation.dispatcher.submit(order).result().sums for order in orders]
    assert found["west"] == add_sums([item for item in sums if item is not None])
    assert pooled_external(found).count == sum(SITES.values())


def order_for(site: str, trained: Simulation, split: Split) -> Order:
    return evaluation_order(trained.best.plan, site, trained.best.ref.weights, split)


def test_what_is_done_to_the_columns_is_fitted_without_the_site(rotation: Rotation) -> None:
    weights = [rotation.store.get(rotation.initial(sites).weights_digest) for sites in (["east", "north"], list(SITES))]
    assert weights[0]["inputs.mean"][0] != weights[1]["inputs.mean"][0]


class Lying:
    """A dispatcher whose sites say that they have more items than they have."""

    def __init__(self, honest: InProcessDispatcher) -> None:
        self._honest = honest

    def submit(self, order: Order) -> Future[Answer]:
        answer = self._honest.submit(order).result()
        lie: Future[Answer] = Future()
        if answer.sums is not None:
            answer = answer.model_copy(update={"sums": add_sums([answer.sums] * 30)})
        lie.set_result(answer)
        return lie


def test_sums_that_cannot_be_are_refused(rotation: Rotation) -> None:
    lying = replace(rotation, dispatcher=Lying(rotation.dispatcher))
    with pytest.raises(RefusedError, match=r"an evaluation of \d+ items, the site can have"):
        leave_one_site_out(lying)
