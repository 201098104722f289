from pathlib import Path

import pytest

from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Gate, envelope

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("signed", [False, True])
def test_a_payload_arrives_whole_and_twice_is_once(gate: Gate, north: SiteFolder, tmp_path: Path, signed: bool) -> None:
    slot = gate.open_slot("north", round_number=1 + signed)
    payload = bytes(range(256)) * 40_000
    (tmp_path / "p").write_bytes(payload)
    with gate.client(north, signed=signed) as client:
        for _ in range(2):
            client.deliver(slot, tmp_path / "p", envelope(north, slot, payload))
    assert (gate.exchange / "sealed" / slot.folder / "payload").read_bytes() == payload
