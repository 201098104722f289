from pathlib import Path

import pytest

from components.data.quarantine import Quarantined, summarise, write_quarantine
from components.errors import StorageError


def test_the_list_is_replaced_whole(tmp_path: Path) -> None:
    write_quarantine(tmp_path / "state", [Quarantined("a,b.png", "empty file"), Quarantined("c", "missing label")])
    path = write_quarantine(tmp_path / "state", [Quarantined("a,b.png", "empty file")])
    assert path.read_text().splitlines() == ["file,reason", '"a,b.png",empty file']
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["quarantine.csv"]


def test_a_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    path = write_quarantine(tmp_path, [Quarantined("\udcff.png", "file is missing")])
    assert b"\xff.png,file is missing" in path.read_bytes()


def test_the_most_frequent_reasons_come_first() -> None:
    items = [Quarantined("x", reason) for reason in "abbcccddddef"]
    assert summarise(items, most=2) == "4 x d, 3 x c, 5 more"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write quarantine.csv"):
        write_quarantine(tmp_path / "file/state", [])
