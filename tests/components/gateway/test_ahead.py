"""What is sealed is on its way already; whatever happens to it there, the delivery afterwards makes it whole."""

from pathlib import Path

import pytest

from components.exchange.keys import SealingKey
from components.exchange.sealing import SealedFile, open_file, seal_file
from components.gateway.ahead import UploadAhead
from components.gateway.client import PART_BYTES, GatewayClient
from components.gateway.records import SlotKey
from components.gateway.transport import Route
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Gate, envelope
from tests.components.gateway.relay import Relay, through

pytestmark = pytest.mark.timeout(120)
CONTENT = bytes(range(256)) * (9 << 13)  # 18 MiB: two parts
KEY = SealingKey.generate()


def seal(folder: Path, client: GatewayClient, slot: SlotKey) -> SealedFile:
    """Seal while it is sent."""
    (folder / "plain").write_bytes(CONTENT)
    with UploadAhead(client, slot) as upload:
        return seal_file(folder / "plain", folder / "sealed", KEY.public, b"context", beside=upload.take)


def arrived(gate: Gate, slot: SlotKey) -> Path:
    return gate.exchange / "sealed" / slot.folder / "payload"


def test_it_is_there_when_it_is_sealed(gate: Gate, north: SiteFolder, tmp_path: Path) -> None:
    slot = gate.open_slot("north", round_number=301, max_bytes=32 << 20)
    arrived(gate, slot).parent.mkdir(parents=True)
    arrived(gate, slot).write_bytes(b"left by another" * (2 << 20))
    with gate.client(north) as client:
        sealed = seal(tmp_path, client, slot)
        assert arrived(gate, slot).read_bytes() == (tmp_path / "sealed").read_bytes()
        assert client.deliver(slot, tmp_path / "sealed", envelope(north, slot, (tmp_path / "sealed").read_bytes()))
    assert sealed.bytes > PART_BYTES
    open_file(arrived(gate, slot), tmp_path / "opened", KEY, b"context", len(CONTENT))
    assert (tmp_path / "opened").read_bytes() == CONTENT


def test_it_breaks_off_and_the_delivery_goes_on(
    gate: Gate, north: SiteFolder, tmp_path: Path, relays: list[Relay]
) -> None:
    slot = gate.open_slot("north", round_number=302, max_bytes=32 << 20)
    relays.append(Relay(gate.running.port, cut=PART_BYTES + 500_000))
    behind = through(north, relays[0], tmp_path)
    with GatewayClient(behind, Route(patience_s=0)) as client:
        seal(tmp_path, client, slot)
    content = (tmp_path / "sealed").read_bytes()
    assert PART_BYTES <= arrived(gate, slot).stat().st_size < len(content)
    with GatewayClient(behind) as client:
        assert client.deliver(slot, tmp_path / "sealed", envelope(north, slot, content))
    assert arrived(gate, slot).read_bytes() == content


def test_a_slot_that_takes_nothing_does_not_disturb_the_sealing(gate: Gate, north: SiteFolder, tmp_path: Path) -> None:
    slot = gate.open_slot("north", round_number=303, max_bytes=PART_BYTES + 10)
    with gate.client(north) as client:
        seal(tmp_path, client, slot)
        gate.grants.close_slot(slot)
        seal(tmp_path, client, slot)
    assert open_file(tmp_path / "sealed", tmp_path / "opened", KEY, b"context", len(CONTENT)) == len(CONTENT)
    assert arrived(gate, slot).stat().st_size == PART_BYTES
