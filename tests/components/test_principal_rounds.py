"""Principal components fitted by rounds over three hospitals: those of all their training rows."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.decomposition import PCA

from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.dispatch import Preparation, SiteSetting
from components.errors import DataError, LeaseLostError, RefusedError
from components.exchange.store import FolderStore
from components.rounds import Answer, Order
from components.study import Study
from components.training.exchanged_entries import load_entries
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.first_weights import FirstWeights, make_first_weights
from tests.references.tiny_genes import class_study, event_study, write_hospitals

GENES = 60


@contextmanager
def hospitals(study: Study, folder: Path) -> Iterator[tuple[InProcessDispatcher, dict[str, Preparation]]]:
    """Open a study's hospitals, and let each prepare."""
    settings = {
        source.name: SiteSetting(
            study=study, source=source, state=str(folder / source.name / "s"), store=str(folder / "store")
        )
        for source in plan_sources(study, folder)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        yield dispatcher, {site: dispatcher.prepare(site).result() for site in settings}


def first_weights(
    study: Study, folder: Path, dispatcher: InProcessDispatcher, found: dict[str, Preparation]
) -> FirstWeights:
    return make_first_weights(
        study,
        found,
        initialise=dispatcher.initialise,
        dispatcher=dispatcher,
        exchange=folder / "store",
        say=str,
        check=list,
    )


def fitted(study: Study, folder: Path) -> tuple[FirstWeights, dict[str, torch.Tensor]]:
    """Return the first weights of a study."""
    with hospitals(study, folder) as (dispatcher, found):
        first = first_weights(study, folder, dispatcher, found)
    return first, FolderStore(folder / "store").get(first.model.weights_digest)


def training_rows(study: Study, folder: Path) -> np.ndarray:
    """Return the genes of all hospitals' training rows in one place."""
    opened = [open_site_data(study, source, folder / "pooled" / source.name) for source in plan_sources(study, folder)]
    rows = torch.cat([data.images("train") for data in opened])
    return rows[:, 1:].double().numpy()


def scaled(rows: np.ndarray) -> np.ndarray:
    """Return rows less their columns' means, divided by their deviations; what is missing is the mean."""
    return np.nan_to_num((rows - np.nanmean(rows, axis=0)) / np.nanstd(rows, axis=0))


@pytest.mark.parametrize("kind", [class_study, event_study])
def test_the_first_weights_have_the_components_of_all_training_rows(kind: Any, tmp_path: Path) -> None:
    write_hospitals(tmp_path, GENES, missing=0.05)
    study = kind(GENES, wide={"components": 4})
    first, weights = fitted(study, tmp_path)
    rows = scaled(training_rows(study, tmp_path))
    pooled = PCA(n_components=4, svd_solver="full").fit(rows)
    loadings = weights["inputs.loadings"].double().numpy()
    signs = np.sign((loadings * pooled.components_).sum(axis=1))
    np.testing.assert_allclose(loadings * signs[:, None], pooled.components_, atol=1e-6)
    np.testing.assert_allclose(weights["inputs.spread"], (rows @ loadings.T).std(axis=0), rtol=1e-6)
    assert first.components is not None
    assert first.components.exact == [True] * 4
    np.testing.assert_allclose(first.components.explained, pooled.explained_variance_ratio_, rtol=1e-6)


def test_screened_columns_have_components_of_their_own(tmp_path: Path) -> None:
    write_hospitals(tmp_path, GENES)
    study = class_study(GENES, wide={"keep": 20, "components": 3})
    first, weights = fitted(study, tmp_path)
    chosen = weights["inputs.chosen"].long().numpy()
    assert len(chosen) == 20
    pooled = PCA(n_components=3, svd_solver="full").fit(scaled(training_rows(study, tmp_path))[:, chosen])
    together = np.abs((weights["inputs.loadings"].numpy() * pooled.components_).sum(axis=1))
    np.testing.assert_allclose(together, 1.0, atol=1e-6)
    assert first.components is not None
    assert first.components.products <= 20


def test_a_column_that_does_not_vary_has_no_part_and_a_missing_value_counts_as_the_mean(tmp_path: Path) -> None:
    def spoil(site: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "gene_00007": 3.0} for row in rows]

    write_hospitals(tmp_path, GENES, change=spoil)
    study = class_study(GENES, wide={"components": 2})
    _, weights = fitted(study, tmp_path)
    module = build_module(study).eval()
    load_entries(module, weights)
    assert weights["inputs.loadings"][:, 7].tolist() == [0.0, 0.0]
    row = torch.cat([torch.tensor([50.0]), weights["inputs.wide_mean"]]).unsqueeze(0)
    unknown = row.clone()
    unknown[0, 1:] = float("nan")
    torch.testing.assert_close(module.inputs(row)[0, 1:], torch.zeros(2))
    torch.testing.assert_close(module.inputs(unknown), module.inputs(row))


def test_a_hospital_tells_nothing_of_a_column_with_few_values_there(tmp_path: Path) -> None:
    def spoil(site: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        few = [{**row, "gene_00003": row["gene_00003"] if place < 4 else ""} for place, row in enumerate(rows)]
        return few if site == "west" else rows

    write_hospitals(tmp_path, GENES, change=spoil)
    study = class_study(GENES, wide={"components": 2})
    with hospitals(study, tmp_path) as (dispatcher, found):
        first_weights(study, tmp_path, dispatcher, found)
    products = torch.cat([update[3:4].abs() for update in updates(tmp_path, "west")], dim=1)
    others = torch.cat([update[3:4].abs() for update in updates(tmp_path, "north")], dim=1)
    assert products.max() == 0
    assert others.min() > 0


def updates(folder: Path, site: str) -> list[torch.Tensor]:
    """Return the products that a hospital has told."""
    return [load_file(path)["vectors"] for path in sorted((folder / "store/slots").glob(f"*/*/1/{site}/*.safetensors"))]


def test_the_same_study_asks_the_same_and_begins_with_the_same_weights(tmp_path: Path) -> None:
    write_hospitals(tmp_path, GENES)
    study = event_study(GENES, wide={"components": 3})
    with hospitals(study, tmp_path) as (dispatcher, found):
        one = first_weights(study, tmp_path, dispatcher, found)
        other = first_weights(study, tmp_path, dispatcher, found)
    assert one == other
    asked = {path.name for path in (tmp_path / "store/slots").glob("*/*/1/west/*.safetensors")}
    assert one.components is not None
    assert len(asked) == one.components.rounds  # files of the second time are those of the first
    assert len(list((tmp_path / "store/slots").iterdir())) == 2


def test_a_hospital_tells_fewer_products_than_it_has_rows(tmp_path: Path) -> None:
    write_hospitals(tmp_path, 400, sizes={"west": 20})
    study = class_study(400, wide={"components": 5})
    first, _ = fitted(study, tmp_path)
    assert first.components is not None
    assert first.components.products == 13  # of 14 training rows
    assert not all(first.components.exact)


def test_a_hospital_with_fewer_rows_than_components_takes_no_part(tmp_path: Path) -> None:
    write_hospitals(tmp_path, GENES, sizes={"west": 20})
    study = class_study(GENES, wide={"components": 14})
    with hospitals(study, tmp_path) as (dispatcher, found):
        assert not found["west"].ready
        assert found["west"].reason == (
            "site west: its 14 training rows are too few for 14 principal components: a site tells fewer products of "
            "each column than it has rows; lower data.records.wide.components, or leave the site out"
        )
        assert len(first_weights(study, tmp_path, dispatcher, found).model.weights_digest) == 64


def test_fewer_columns_that_vary_than_components_are_refused(tmp_path: Path) -> None:
    def spoil(site: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, **{f"gene_{number:05d}": 3.0 for number in range(2, 5)}} for row in rows]

    write_hospitals(tmp_path, 5, change=spoil)
    with (
        hospitals(study := class_study(5, wide={"components": 3}), tmp_path) as (dispatcher, found),
        pytest.raises(DataError, match=r"2 of 5 wide columns vary .*data.records.wide.components is 3: lower it"),
    ):
        first_weights(study, tmp_path, dispatcher, found)


def test_columns_that_say_the_same_have_fewer_components_than_are_asked_for(tmp_path: Path) -> None:
    def spoil(site: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "gene_00002": row["gene_00000"], "gene_00003": row["gene_00001"]} for row in rows]

    write_hospitals(tmp_path, 4, change=spoil)
    with (
        hospitals(study := class_study(4, wide={"components": 3}), tmp_path) as (dispatcher, found),
        pytest.raises(DataError, match=r"fewer than 3 principal components of 4 columns .*; lower data.records.wide"),
    ):
        first_weights(study, tmp_path, dispatcher, found)


def test_with_one_hospital_left_out_the_components_are_those_of_the_others(tmp_path: Path) -> None:
    write_hospitals(tmp_path, GENES)
    study = class_study(GENES, wide={"components": 2})
    with hospitals(study, tmp_path) as (dispatcher, found):
        others = {site: found[site] for site in ("east", "north")}
        first = first_weights(study, tmp_path, dispatcher, others)
    loadings = FolderStore(tmp_path / "store").get(first.model.weights_digest)["inputs.loadings"].numpy()
    east, north = (open_site_data(study, source, tmp_path / "p") for source in plan_sources(study, tmp_path)[:2])
    rows = torch.cat([east.images("train"), north.images("train")])[:, 1:].double().numpy()
    pooled = PCA(n_components=2, svd_solver="full").fit(scaled(rows))
    np.testing.assert_allclose(np.abs((loadings * pooled.components_).sum(axis=1)), 1.0, atol=1e-6)


class Changed:
    """Passes orders on, and one hospital's answers changed; None keeps them back for good."""

    def __init__(self, inner: InProcessDispatcher, change: Callable[[Answer], Answer] | None) -> None:
        self._inner, self._change = inner, change

    def submit(self, order: Order) -> Future[Answer]:
        answer = self._inner.submit(order)
        if order.site != "west":
            return answer
        changed = Future[Answer]()
        if self._change is not None:
            changed.set_result(self._change(answer.result()))
        return changed


def fit_changed(folder: Path, change: Callable[[Answer], Answer] | None, check: Callable[[], object]) -> None:
    """Fit components where one hospital's answers are changed."""
    write_hospitals(folder, GENES)
    study = class_study(GENES, wide={"components": 2})
    with hospitals(study, folder) as (dispatcher, found):
        make_first_weights(
            study, found, initialise=dispatcher.initialise, dispatcher=Changed(dispatcher, change),
            exchange=folder / "store", say=str, check=check,
        )  # fmt: skip


def test_products_over_other_rows_than_a_hospital_has_are_refused(tmp_path: Path) -> None:
    def boast(answer: Answer) -> Answer:
        assert answer.update is not None
        return answer.model_copy(update={"update": answer.update.model_copy(update={"weight": 500.0})})

    with pytest.raises(RefusedError, match="west: its products are over 500 rows, and it said it has 46"):
        fit_changed(tmp_path, boast, list)


def test_a_hospital_that_cannot_tell_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    def fail(answer: Answer) -> Answer:
        gone = {"status": "failed", "stage": "data", "reason": "no room", "update": None}
        return answer.model_copy(update=gone)

    with pytest.raises(RefusedError, match="west failed the order at 'data': 'no room'"):
        fit_changed(tmp_path, fail, list)


def test_whoever_drives_no_more_waits_for_nobody(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLostError("another process drives the study")

    with pytest.raises(LeaseLostError):
        fit_changed(tmp_path, None, lost)
