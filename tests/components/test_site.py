"""What a site says when something of its own goes wrong: enough to go on, and nothing of its folders."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.rounds import Order, RoundPlan
from components.site import SiteRuntime, initialise
from components.site_source import SiteSource, SourcePart
from components.study import Study
from components.training.local import train_site
from components.weights import digest as weights_digest
from flows.build import build_module
from tests.references.tiny_study import tiny_study, write_films

STUDY = tiny_study()
MARK = "ward-7-Smith"  # part of every path of the site


class Ward:
    """A site in folders whose names must not leave it."""

    def __init__(self, folder: Path, study: Study = STUDY) -> None:
        self.folder = folder / MARK
        self.folder.mkdir()
        part = SourcePart(site="north", kind="npz", path=str(write_films(self.folder)))
        setting = SiteSetting(
            study=study, source=SiteSource(name="north", parts=[part]),
            state=str(self.folder / "state"), store=str(self.folder / "store"),
        )  # fmt: skip
        self.study, self.module = study, build_module(study)
        self.site = SiteRuntime(setting, lambda: self.module)

    def order(self, digest: str, **changes: Any) -> Order:
        plan = RoundPlan(
            study=self.study.study, study_digest=self.study.digest, training="t", round=1, base_digest=digest,
            roster=["north"], quorum=1, deadline_s=60.0,
        )  # fmt: skip
        fields = {"kind": "train", "site": "north", "plan": plan, "weights_digest": digest, "nonce": "n", **changes}
        return Order(**fields)

    def journal(self) -> list[dict[str, Any]]:
        lines = (self.folder / "state" / "journal.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path)
    yield made
    made.site.close()


def test_a_disk_that_fails_at_the_start_is_told_without_its_path(ward: Ward) -> None:
    (ward.folder / "state" / "cache").write_text("a file where the cache's folder should be")
    found = ward.site.prepare()
    assert (found.ready, found.reason) == (False, "StorageError; see the hospital's own log")
    assert "make room on the disk" in ward.journal()[-1]["data"]["reason"]  # the hospital's people are told more


def test_a_disk_that_fails_in_a_round_is_told_without_its_path(ward: Ward) -> None:
    answer = ward.site.answer(ward.order("0" * 64))
    assert (answer.status, answer.stage) == ("failed", "train")
    assert answer.reason == "StorageError; see the hospital's own log"
    assert any(MARK in json.dumps(line) for line in ward.journal())


def test_data_that_is_gone_is_told_without_its_path(ward: Ward) -> None:
    (ward.folder / "films.npz").unlink()
    found = ward.site.prepare()
    assert not found.ready
    assert "films.npz is not there" in found.reason
    assert MARK not in found.reason


def test_an_order_that_is_refused_says_why(ward: Ward) -> None:
    digest = initialise(STUDY, FolderStore(ward.folder / "store"), ward.module).weights_digest
    answer = ward.site.answer(ward.order(digest, site="south"))
    assert (answer.status, answer.reason) == ("refused", "the order is for south, this is north")
    assert ward.site.answer(ward.order(digest)).status == "done"


def test_an_update_that_changes_too_much_never_leaves(tmp_path: Path) -> None:
    for most, status in ((1e-6, "refused"), (1e6, "done")):
        folder = tmp_path / status
        folder.mkdir()
        ward = Ward(folder, tiny_study(rounds={"max_change": most}))
        digest = initialise(ward.study, FolderStore(ward.folder / "store"), ward.module).weights_digest
        answer = ward.site.answer(ward.order(digest))
        ward.site.close()
        assert (answer.status, answer.update is None) == (status, status == "refused")
        assert ("the study allows 1e-06" in answer.reason) == (status == "refused")


def behave_like_a_small_gpu(module: Any, room: int, *, calls: int = 0) -> list[int]:
    """Have a network fail as on a GPU, after so many batches, for more than `room` items; return what it is given."""
    forward, given = module.forward, []

    def limited(images: torch.Tensor) -> torch.Tensor:
        given.append(len(images))
        if len(given) > calls and len(images) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(images)  # type: ignore[no-any-return]

    module.forward = limited
    return given


@pytest.mark.parametrize("calls", [0, 3])
def test_a_training_that_does_not_fit_is_made_again_with_half_the_batch(ward: Ward, calls: int) -> None:
    """To the bit what it is with halves from the start: nothing of the attempt that failed is left."""
    digest = initialise(STUDY, FolderStore(ward.folder / "store"), ward.module).weights_digest
    order = ward.order(digest)
    training = replace(ward.site._training_order(order), parts=2)
    expected = train_site(build_module(STUDY), ward.site._open_data(), training)

    given = behave_like_a_small_gpu(ward.module, 4, calls=calls)
    answer = ward.site.answer(order)

    assert answer.status == "done"
    assert given[: calls + 1] == [8] * (calls + 1)
    assert max(given[calls + 1 :]) == 4
    assert answer.details == {"batch_parts": 2}
    assert answer.update is not None
    assert answer.update.weights_digest == weights_digest(expected.weights)
    assert (answer.update.steps, answer.update.loss_sum) == (expected.steps, expected.loss_sum)
    assert [line["event"] for line in ward.journal()][-2:] == ["out_of_memory", "train_answered"]


def test_a_training_that_fits_says_nothing_of_memory(ward: Ward) -> None:
    digest = initialise(STUDY, FolderStore(ward.folder / "store"), ward.module).weights_digest
    assert ward.site.answer(ward.order(digest)).details == {}


def test_a_training_that_does_not_fit_in_halves_either_fails_with_what_to_do(ward: Ward) -> None:
    digest = initialise(STUDY, FolderStore(ward.folder / "store"), ward.module).weights_digest
    behave_like_a_small_gpu(ward.module, 3)
    answer = ward.site.answer(ward.order(digest))
    assert (answer.status, answer.stage, answer.details) == ("failed", "train", {})
    assert "lower local.batch_size" in answer.reason


def test_an_evaluation_takes_batches_that_fit(ward: Ward) -> None:
    digest = initialise(STUDY, FolderStore(ward.folder / "store"), ward.module).weights_digest
    whole = ward.site.answer(ward.order(digest, kind="evaluate", split="test"))
    given = behave_like_a_small_gpu(ward.module, 20)
    halved = ward.site.answer(ward.order(digest, kind="evaluate", split="test"))
    assert given == [48, 48, 48, 32, 16, 16, 16]  # batches of 256, 128, 64, 32 and 16 from 48 items
    assert halved.details == {"batch_parts": 16}
    assert whole.sums is not None
    assert halved.sums is not None
    assert halved.sums.confusion == whole.sums.confusion
    assert halved.sums.loss == pytest.approx(whole.sums.loss, rel=1e-6)
