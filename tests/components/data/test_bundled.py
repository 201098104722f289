"""Tables that come with another package."""

import csv
from pathlib import Path

import pytest

from components.data.bundled import bundled_table
from components.errors import DataError


def test_gbsg2_is_written_once_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lifelines", reason="the table comes with lifelines")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = bundled_table("lifelines:GBSG2")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 686
    assert sum(row["horTh"] == "yes" for row in rows) == 246
    written = file.stat().st_mtime_ns
    assert bundled_table("lifelines:GBSG2") == file
    assert file.stat().st_mtime_ns == written


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="no such table of lifelines' here; there are GBSG2"):
        bundled_table("lifelines:rossi")
