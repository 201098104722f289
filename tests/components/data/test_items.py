from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data.hashes import FileHashes
from components.data.items import SiteItems, find_items
from components.data.listing import Row
from components.study import Task

TASK = Task(classes=["normal", "sick"])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "series").mkdir(parents=True)
    for name in ("a", "b", "series/1", "series/2", "series/.hidden"):
        (folder / name).write_text(f"content of {name}")
    (folder / "copy").write_text("content of a")
    (folder / "empty").touch()
    (tmp_path / "outside").write_text("x")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "link_inside").symlink_to(folder / "b")
    (folder / "linked_folder").symlink_to(tmp_path)
    return folder


@pytest.fixture
def find(site: Path) -> Callable[..., SiteItems]:
    def of(*rows: Row) -> SiteItems:
        return find_items(rows, site, TASK, FileHashes(site / "cache").of)

    return of


def row(file: str, label: Any = 1, patient: str = "P1", split: str = "") -> Row:
    return Row(file, (file,), label, patient, split)


def test_a_sound_row_becomes_an_item(find: Callable[..., SiteItems], site: Path) -> None:
    (item,) = find(row("a", "sick", split="val")).items
    assert (item.files, item.label, item.patient, item.split) == ((site / "a",), 1, "P1", "validation")


def test_a_folder_is_a_series_of_its_files(find: Callable[..., SiteItems], site: Path) -> None:
    (item,) = find(row("series")).items
    assert item.files == (site / "series/1", site / "series/2")


def test_a_link_may_stay_inside_the_folder(find: Callable[..., SiteItems]) -> None:
    assert len(find(row("link_inside")).items) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (row("a", None), "missing label"),
        (row("a", 7), "label is none of the study's classes"),
        (row("a", patient=""), "missing patient"),
        (row("a", split="tuning"), "split is none of train, validation and test"),
        (row(""), "no file named"),
        (row("c"), "file is missing"),
        (row("empty"), "empty file"),
        (row("../outside"), "path leads out of the site's folder"),
        (row("series/../../outside"), "path leads out of the site's folder"),
        (row("/etc/hostname"), "path leads out of the site's folder"),
        (row("link"), "path leads out of the site's folder"),
        (row("linked_folder"), "path leads out of the site's folder"),
        (row("linked_folder/outside"), "path leads out of the site's folder"),
        (row("a\0b"), "file cannot be opened"),
        (row("a" * 5000), "file cannot be opened"),
    ],
)
def test_a_broken_row_has_its_reason(find: Callable[..., SiteItems], broken: Row, reason: str) -> None:
    found = find(row("b", patient="P2"), broken)
    assert [item.name for item in found.items] == ["b"]
    assert [(item.file, item.reason) for item in found.quarantined] == [(broken.name, reason)]


def test_an_empty_series_folder_has_its_reason(find: Callable[..., SiteItems], site: Path) -> None:
    (site / "none").mkdir()
    assert find(row("none")).quarantined[0].reason == "series folder without slices"


@pytest.mark.parametrize("again", ["a", "./a", "copy"])
def test_an_item_listed_twice_counts_once(find: Callable[..., SiteItems], again: str) -> None:
    found = find(row("a"), row(again))
    assert [item.name for item in found.items] == ["a"]
    assert [item.reason for item in found.quarantined] == ["listed twice"]


@pytest.mark.parametrize("other", [row("copy", 0), row("copy", patient="P2"), row("copy", split="test")])
def test_contradicting_entries_are_not_used_at_all(find: Callable[..., SiteItems], other: Row) -> None:
    found = find(row("a"), other)
    assert found.items == []
    assert len(found.quarantined) == 2


def test_a_patient_in_two_splits_is_not_used(find: Callable[..., SiteItems]) -> None:
    found = find(row("a", split="train"), row("b", split="test"), row("series", patient="P2", split="test"))
    assert [item.name for item in found.items] == ["series"]
    assert {item.reason for item in found.quarantined} == {"patient is in more than one split"}
