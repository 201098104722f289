"""What a slot's payload hashes to, as it is written and as it lies there."""

import hashlib
import os
from pathlib import Path

import pytest

from components.gateway import slots as module
from components.gateway.records import SlotKey
from components.gateway.refusals import RefusalError
from components.gateway.slots import SealedSlots

SLOT = SlotKey(training="t", round=1, attempt=1, site="north")
PARTS = [b"a" * 1000, b"b" * 500, b"c" * 7]
WHOLE = b"".join(PARTS)


def bring(slots: SealedSlots, part: bytes, offset: int) -> None:
    with slots.receive(SLOT, offset, length=len(part), max_bytes=1 << 20, whole=False) as open_part:
        open_part.write(part)


def submit(slots: SealedSlots, content: bytes) -> bool:
    stated = hashlib.sha256(content).hexdigest()
    return slots.submit(SLOT, b"{}", sealed_sha256=stated, sealed_bytes=len(content))


def bring_all(slots: SealedSlots) -> None:
    bring(slots, PARTS[0], 0)
    bring(slots, PARTS[1], 1000)
    bring(slots, PARTS[2], 1500)


def test_a_payload_that_came_in_parts_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = SealedSlots(tmp_path)
    monkeypatch.setattr(module, "_hash", lambda _: pytest.fail("it was read"))
    bring_all(slots)
    assert submit(slots, WHOLE)


def test_one_that_begins_anew_is_hashed_anew(tmp_path: Path) -> None:
    slots = SealedSlots(tmp_path)
    bring(slots, b"x" * 1500, 0)
    bring(slots, PARTS[0], 0)
    bring(slots, PARTS[1] + PARTS[2], 1000)
    with pytest.raises(RefusalError):
        submit(slots, b"x" * len(WHOLE))
    bring_all(slots)
    assert submit(slots, WHOLE)


def test_a_part_that_is_brought_again_counts_once(tmp_path: Path) -> None:
    slots = SealedSlots(tmp_path)
    bring_all(slots)
    bring(slots, PARTS[2], 1500)
    assert submit(slots, WHOLE)


def test_what_another_gateway_wrote_is_read(tmp_path: Path) -> None:
    one, other = SealedSlots(tmp_path), SealedSlots(tmp_path)
    bring(one, PARTS[0], 0)
    bring(other, PARTS[1], 1000)
    bring(one, PARTS[2], 1500)
    assert submit(one, WHOLE)


def test_bytes_that_were_changed_since_they_came_are_noticed(tmp_path: Path) -> None:
    slots = SealedSlots(tmp_path)
    bring_all(slots)
    file = slots.payload(SLOT)
    file.write_bytes(b"z" * len(WHOLE))
    os.utime(file, ns=(1, 1))
    with pytest.raises(RefusalError, match="not as stated"):
        submit(slots, WHOLE)
