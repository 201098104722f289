"""A hospital's side: enrolment, renewal, transfers that break, networks that get in the way, and what is said then."""

import hashlib
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.errors import RefusedError, ServiceError
from components.gateway.client import GatewayClient, enrol
from components.gateway.records import Activity
from components.gateway.tokens import read_token
from components.gateway.transport import Route
from components.governance.certificates import Authority, issue_server, make_authority
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate, envelope, until
from tests.components.gateway.relay import Relay, through

pytestmark = pytest.mark.timeout(60)
CONTENT = bytes(range(256)) * 40_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_enrolment_pins_everybody_and_is_one_token(gate: Gate, tmp_path: Path, south: SiteFolder) -> None:
    token, folder = gate.token("east"), SiteFolder(tmp_path / "east")
    assert enrol(token, folder).site == "east"
    pinned = folder.read_federation()
    assert pinned.coordinator.keys == gate.secrets.public
    assert pinned.peers["south"].keys == south.read_keys().public
    enrol(token, folder)  # the same keys: an answer that was lost
    with pytest.raises(RefusedError, match="it was used, or has expired"):
        enrol(token, SiteFolder(tmp_path / "thief"))


def test_a_token_shows_itself_to_its_own_gateway_only(gate: Gate, tmp_path: Path) -> None:
    token = read_token(gate.token("west"))
    other = token.invitation.model_copy(update={"authority": "0" * 64})
    forged = type(token)(other, token.id, token.secret)
    with pytest.raises(RefusedError, match="not the gateway that made this token"):
        enrol(forged.text, SiteFolder(tmp_path / "west"))
    assert not (tmp_path / "west").exists()
    assert token.secret not in repr(token)


@pytest.mark.parametrize("text", ["", "wr1.a.b", "wr2.a.b.c", "wr1.e30.0123456789abcdef.0123456789abcdef", "x" * 9999])
def test_a_damaged_token_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="copy it whole"):
        enrol(text, SiteFolder(tmp_path))


def test_a_gateway_of_another_federation_is_refused(gate: Gate, tmp_path: Path, north: SiteFolder) -> None:
    pinned = north.read_federation()
    other = make_authority("ward", tmp_path / "other").pem.decode()
    north.write_federation(pinned.model_copy(update={"ca": other}))
    try:
        with gate.client(north) as client, pytest.raises(ServiceError, match="not this federation's: if this network"):
            client.health()
    finally:
        north.write_federation(pinned)


def test_a_site_says_what_it_does_and_becomes_ready(gate: Gate, north: SiteFolder) -> None:
    with gate.client(north) as client:
        client.heartbeat(Activity(state="train", training="t1", round=2, epoch=2, epochs=5, share=0.43, left_s=312.0))
        client.doctor(passed=True, findings={"gpu": "none"})
    site = gate.sites.get("north")
    assert site is not None
    said = {"state": "train", "training": "t1", "round": 2, "epoch": 2, "epochs": 5, "share": 0.43, "left_s": 312.0}
    assert (site.status, site.activity) == ("ready", {**said, "beside": [], "waiting": 0})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"share": 0.5, "beside": [{"state": "evaluate", "training": "t2"}]}, 200),
        ({"file": "patient-7.png"}, 400),
        ({"beside": [{"state": "train", "patient": "7"}]}, 400),
        ({"state": "reading /films/patient-7.png"}, 400),
        ({"training": "/films/patient 7"}, 400),
        ({"left_s": -1.0}, 400),
        ({"share": 1.5}, 400),
        ({"beside": [{"state": "train"}] * 16}, 400),
        ({"waiting": [0] * 5_000}, 413),
    ],
)
def test_a_heartbeat_says_what_the_site_does_and_nothing_else(gate: Gate, changes: dict[str, Any], status: int) -> None:
    folder = gate.enrol("teller")
    beat = {"version": "1", "activity": {"state": "train", "training": "t1", **changes}}
    with gate.client(folder) as client, gate.http(folder) as http:
        client.heartbeat(Activity())
        assert http.post("/v1/heartbeat", json=beat).status_code == status
    site = gate.sites.get("teller")
    assert site is not None
    assert site.activity is not None
    assert site.activity["state"] == ("train" if status == 200 else "idle")


def test_a_renewal_is_taken_up_by_every_client_of_the_site(gate: Gate) -> None:
    folder = gate.enrol("renewer")
    with gate.client(folder) as one, gate.client(folder) as other:
        other.heartbeat(Activity())
        assert one.renew_if_due().serial == folder.read_credential().serial  # not due
        new = one.renew()
        other.heartbeat(Activity())
        site = gate.sites.get("renewer")
        assert site is not None
        assert site.serial == new.serial == folder.read_credential().serial
        assert site.not_after == new.not_after.timestamp()


def test_two_thirds_of_a_life_are_enough(build: Build) -> None:
    gate = build(credential_life_s=4.0)
    folder = gate.enrol("short")
    first = folder.read_credential()
    with gate.client(folder) as client:
        # It began a quarter of an hour ago, as the clocks may differ: so it is due at once, and expires soon.
        assert client.renew_if_due().serial != first.serial
        until(lambda: datetime.now(UTC) > folder.read_credential().not_after)
        with pytest.raises(RefusedError, match=r"expired on .*new token"):
            client.heartbeat(Activity())


def test_a_site_that_was_shut_out_is_told_what_to_do(gate: Gate) -> None:
    folder = gate.enrol("gone")
    gate.sites.revoke("gone")
    with gate.client(folder) as client, pytest.raises(RefusedError, match="it was revoked, or has left; ask the"):
        client.heartbeat(Activity())


@pytest.mark.parametrize("signed", [False, True])
def test_a_payload_arrives_whole_and_twice_is_once(gate: Gate, north: SiteFolder, tmp_path: Path, signed: bool) -> None:
    slot = gate.open_slot("north", round_number=1 + signed)
    (tmp_path / "p").write_bytes(CONTENT)
    with gate.client(north, signed=signed) as client:
        for _ in range(2):
            client.deliver(slot, tmp_path / "p", envelope(north, slot, CONTENT))
    assert (gate.exchange / "sealed" / slot.folder / "payload").read_bytes() == CONTENT


def test_the_beginning_of_another_payload_does_not_stay(gate: Gate, north: SiteFolder, tmp_path: Path) -> None:
    slot = gate.open_slot("north", round_number=3)
    (tmp_path / "old").write_bytes(b"old" * 1000)
    (tmp_path / "new").write_bytes(CONTENT)
    with gate.client(north) as client:
        client.upload(slot, tmp_path / "old")
        client.deliver(slot, tmp_path / "new", envelope(north, slot, CONTENT))
        with pytest.raises(RefusedError, match="something else there already"):
            client.deliver(slot, tmp_path / "old", envelope(north, slot, b"old" * 1000))
    assert (gate.exchange / "sealed" / slot.folder / "payload").read_bytes() == CONTENT


def test_a_slot_that_is_closed_or_too_small_is_named(gate: Gate, north: SiteFolder, tmp_path: Path) -> None:
    slot = gate.open_slot("north", round_number=4, max_bytes=10)
    (tmp_path / "p").write_bytes(CONTENT)
    with gate.client(north) as client:
        with pytest.raises(RefusedError, match="too large"):
            client.deliver(slot, tmp_path / "p", b"{}")
        gate.grants.close_slots("chest-1", 4, 1)
        with pytest.raises(RefusedError, match="the round is closed"):
            client.deliver(slot, tmp_path / "p", b"{}")


@pytest.mark.parametrize("taken", [False, True])
def test_a_delivery_whose_answer_was_lost_is_there_or_was_taken(
    gate: Gate, north: SiteFolder, tmp_path: Path, taken: bool
) -> None:
    """Taken, and the slot closed, before it is brought again: the coordinator is quick."""
    slot, lost = gate.open_slot("north", round_number=200 + taken), []
    sealed = gate.exchange / "sealed" / slot.folder
    (tmp_path / "p").write_bytes(CONTENT)

    def lose(answer: httpx.Response) -> None:
        if answer.request.url.path.endswith("/submit") and not lost:
            lost.append((sealed / "payload").read_bytes())
            if taken:
                gate.grants.close_slot(slot)
                shutil.rmtree(sealed)
            raise httpx.ReadError("the answer is lost")

    with gate.client(north) as client:
        client._wire._open().event_hooks = {"response": [lose]}
        assert client.deliver(slot, tmp_path / "p", envelope(north, slot, CONTENT)) is not taken
    assert lost == [CONTENT]


@pytest.mark.parametrize("cut", [2_000, 3_000_000, 9_000_000])
def test_transfers_go_on_where_they_broke_off(
    gate: Gate, north: SiteFolder, tmp_path: Path, relays: list[Relay], cut: int
) -> None:
    relays.append(Relay(gate.running.port, cut=cut))
    slot = gate.open_slot("north", round_number=5 + cut % 97)
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["north"])
    (tmp_path / "p").write_bytes(CONTENT)
    with GatewayClient(through(north, relays[0], tmp_path), Route(patience_s=10)) as client:
        client.deliver(slot, tmp_path / "p", envelope(north, slot, CONTENT))
        relays[0].cut = cut
        client.fetch_object(DIGEST, tmp_path / "got" / "object")
    assert relays[0].asked > 2
    assert (gate.exchange / "sealed" / slot.folder / "payload").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["object"]
    assert (tmp_path / "got" / "object").read_bytes() == CONTENT


def test_what_was_fetched_before_is_not_fetched_again_and_damage_is_found(
    gate: Gate, north: SiteFolder, tmp_path: Path
) -> None:
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["north"])
    part = tmp_path / f"{DIGEST}.part"
    with gate.client(north) as client:
        for begun in (CONTENT[:1000], CONTENT, b"damaged", CONTENT + b"more"):
            part.write_bytes(begun)
            client.fetch_object(DIGEST, tmp_path / "object")
            assert (tmp_path / "object").read_bytes() == CONTENT
        with pytest.raises(RefusedError, match="more than 1000 bytes"):
            client.fetch_object(DIGEST, tmp_path / "object", max_bytes=1000)
        gate.put_object(DIGEST, CONTENT[:-1] + b"!")
        part.unlink()
        with pytest.raises(RefusedError, match="changed or damaged"):
            client.fetch_object(DIGEST, tmp_path / "new")
        with pytest.raises(RefusedError, match="nothing there for this site"):
            client.fetch_object("3" * 64, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_proxy_is_used(gate: Gate, north: SiteFolder, relays: list[Relay], monkeypatch: pytest.MonkeyPatch) -> None:
    relays.append(Relay(gate.running.port, connects=True))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{relays[0].port}")
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with gate.client(north) as client:
        client.heartbeat(Activity())
    assert relays[0].asked == 1


def middlebox(gate: Gate, folder: Path) -> tuple[Authority, tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Return the authority of a middlebox, and its two sides of TLS."""
    authority = make_authority("middlebox", folder)
    server = issue_server(authority, [], ["127.0.0.1"])
    (folder / "m.key").write_bytes(server.key.to_pem())
    (folder / "m.pem").write_bytes(server.pem)
    near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    near.load_cert_chain(folder / "m.pem", folder / "m.key")
    far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    far.check_hostname = False
    far.load_verify_locations(cadata=gate.secrets.authority.pem.decode())
    return authority, (near, far)


def test_where_a_middlebox_ends_tls_requests_are_signed(
    gate: Gate, north: SiteFolder, tmp_path: Path, relays: list[Relay]
) -> None:
    authority, inspect = middlebox(gate, tmp_path / "box")
    relays.append(Relay(gate.running.port, inspect=inspect))
    folder = through(north, relays[0], tmp_path)
    with GatewayClient(folder, Route(patience_s=2)) as client, pytest.raises(ServiceError, match="inspects TLS"):
        client.heartbeat(Activity())
    (tmp_path / "box.pem").write_bytes(authority.pem)
    unsigned, signed = Route(tmp_path / "box.pem", patience_s=2), Route(tmp_path / "box.pem", signed=True)
    with GatewayClient(folder, unsigned) as client, pytest.raises(RefusedError):
        client.heartbeat(Activity())
    slot = gate.open_slot("north", round_number=70)
    (tmp_path / "p").write_bytes(CONTENT)
    with GatewayClient(folder, signed) as client:
        client.heartbeat(Activity())
        client.deliver(slot, tmp_path / "p", envelope(north, slot, CONTENT))
        client.renew()


def test_a_gateway_that_is_away_is_named_after_a_while(north: SiteFolder) -> None:
    pinned = north.read_federation()
    north.write_federation(pinned.model_copy(update={"gateway": "https://127.0.0.1:9"}))
    try:
        with (
            GatewayClient(north, Route(patience_s=0.5)) as client,
            pytest.raises(ServiceError, match="cannot be reached"),
        ):
            client.health()
    finally:
        north.write_federation(pinned)
