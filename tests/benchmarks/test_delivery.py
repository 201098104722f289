"""A small update goes both ways through real servers, and is judged by its share."""

import pytest

from benchmarks.delivery import Delivery, measure, report
from tests.references.open_folder import open_folder


def test_the_share_is_of_bytes_per_second_over_all_steps() -> None:
    found = Delivery(bytes=400, send_s=3.0, open_s=1.0, store_s=2.0, load=0.5)
    assert found.share == 0.5
    line = next(line for line in report([found]).text.splitlines() if "over the store's" in line)
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["0.500", "0.50-0.50", ">= 0.6", "no"]


@pytest.mark.timeout(200)
def test_an_update_reaches_the_coordinator_and_the_store() -> None:
    with open_folder() as folder:
        part = measure(folder, repeats=1, millions=1.0)
        stored = [path for path in (folder / "store" / "artifacts").rglob("update.safetensors")]
        assert [path.stat().st_size for path in stored] == [(folder / "update.safetensors").stat().st_size] * 2
        assert not list((folder / "federation" / "exchange" / "sealed").rglob("*.sealed"))
    (found,) = part.data["deliveries"]
    assert found["bytes"] > 4e6
    assert all(found[key] > 0 for key in ("send_s", "open_s", "store_s"))
