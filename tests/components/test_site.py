"""What a site says when something of its own goes wrong: enough to go on, and nothing of its folders."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.rounds import Order, RoundPlan
from components.site import SiteRuntime, initialise
from components.site_source import SiteSource, SourcePart
from flows.build import build_module
from tests.references.tiny_study import tiny_study, write_films

STUDY = tiny_study()
MARK = "ward-7-Smith"  # part of every path of the site


class Ward:
    """A site in folders whose names must not leave it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / MARK
        self.folder.mkdir()
        part = SourcePart(site="north", kind="npz", path=str(write_films(self.folder)))
        setting = SiteSetting(
            study=STUDY, source=SiteSource(name="north", parts=[part]),
            state=str(self.folder / "state"), store=str(self.folder / "store"),
        )  # fmt: skip
        self.module = build_module(STUDY)
        self.site = SiteRuntime(setting, lambda: self.module)

    def order(self, digest: str, **changes: Any) -> Order:
        plan = RoundPlan(
            study=STUDY.study, study_digest=STUDY.digest, training="t", round=1, base_digest=digest,
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
