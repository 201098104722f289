"""Objects and slots: in pieces, resumed, once, and only one's own."""

import fcntl
import hashlib
import os

import httpx
import pytest

from components.gateway.records import SlotKey
from components.gateway.slots import SealedSlots
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Gate, envelope

pytestmark = pytest.mark.timeout(60)
CONTENT = bytes(range(256)) * 8192
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def put(client: httpx.Client, slot: SlotKey, offset: int, content: bytes) -> httpx.Response:
    return client.put(f"/v1/slots/{slot.folder}/upload", params={"offset": offset}, content=content)


def submit(client: httpx.Client, slot: SlotKey, text: bytes) -> httpx.Response:
    return client.post(f"/v1/slots/{slot.folder}/submit", content=text)


def test_an_object_is_there_for_whom_it_was_granted_to(gate: Gate, north: SiteFolder, south: SiteFolder) -> None:
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["north"])
    gate.grants.allow("1" * 64, ["north"])
    with gate.http(north) as client:
        assert client.get(f"/v1/objects/{DIGEST}").content == CONTENT
        absent = client.get(f"/v1/objects/{'1' * 64}")
    with gate.http(south) as client:
        others = [client.get(f"/v1/objects/{name}") for name in (DIGEST, "2" * 64, "..", "x")]
    assert {(each.status_code, each.text) for each in [absent, *others]} == {(404, absent.text)}
    gate.grants.forbid(DIGEST)
    with gate.http(north) as client:
        assert client.get(f"/v1/objects/{DIGEST}").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-", 206, 0, None),
        ("bytes=1000000-", 206, 1000000, None),
        ("bytes=5-9", 206, 5, 10),
        ("bytes=-7", 206, -7, None),
        ("bytes=5-999999999999", 206, 5, None),
        ("bytes=0-1,3-4", 200, 0, None),
        ("bytes=9-5", 200, 0, None),
        ("bytes=-", 200, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
def test_ranges(gate: Gate, north: SiteFolder, asked: str, status: int, start: int, end: int | None) -> None:
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["north"])
    with gate.http(north) as client:
        found = client.get(f"/v1/objects/{DIGEST}", headers={"range": asked})
        head = client.head(f"/v1/objects/{DIGEST}", headers={"range": asked})
    assert (found.status_code, found.content) == (status, CONTENT[start:end])
    assert (head.status_code, head.headers["content-length"]) == (status, str(len(CONTENT[start:end])))
    if status == 206:
        first = start % len(CONTENT)
        assert found.headers["content-range"] == f"bytes {first}-{first + len(found.content) - 1}/{len(CONTENT)}"


def test_a_range_beyond_the_end_and_one_of_another_object(gate: Gate, north: SiteFolder) -> None:
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["north"])
    with gate.http(north) as client:
        beyond = client.get(f"/v1/objects/{DIGEST}", headers={"range": f"bytes={len(CONTENT)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
        other = client.get(f"/v1/objects/{DIGEST}", headers={"range": "bytes=5-", "if-range": '"other"'})
        assert (other.status_code, other.content) == (200, CONTENT)


def test_a_payload_comes_in_parts_that_fit(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=10)
    with gate.http(north) as client:
        assert put(client, slot, 0, b"abc").json() == {"bytes": 3, "submitted": False}
        hole = put(client, slot, 4, b"x")
        assert (hole.status_code, hole.json()["bytes"]) == (409, 3)
        assert put(client, slot, 2, b"CDE").json()["bytes"] == 5
        assert put(client, slot, 0, b"12").json()["bytes"] == 2
        for offset in ("-1", "x", "01", "1e3", ""):
            refused = client.put(f"/v1/slots/{slot.folder}/upload", params={"offset": offset}, content=b"x")
            assert refused.status_code == 400
    assert SealedSlots(gate.exchange / "sealed").payload(slot).read_bytes() == b"12"


def test_a_slot_is_sealed_once(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=11)
    first, second = envelope(north, slot, b"abc"), envelope(north, slot, b"abc", nonce="other")
    with gate.http(north) as client:
        put(client, slot, 0, b"abc")
        assert submit(client, slot, first).json() == {"bytes": 3, "submitted": True}
        assert submit(client, slot, first).status_code == 200
        assert submit(client, slot, second).status_code == 409
        assert put(client, slot, 0, b"evil").status_code == 409
        gate.grants.close_slots("chest-1", 11, 1)
        assert submit(client, slot, first).status_code == 200
        assert submit(client, slot, second).status_code == 404
    slots = SealedSlots(gate.exchange / "sealed")
    assert (slots.payload(slot).read_bytes(), slots.envelope(slot)) == (b"abc", first)
    slots.discard(slot)
    assert not (gate.exchange / "sealed" / slot.folder).exists()


def test_an_envelope_states_what_lies_there(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=12)
    with gate.http(north) as client:
        assert submit(client, slot, envelope(north, slot, b"abc")).json()["bytes"] == 0
        put(client, slot, 0, b"ab")
        short = submit(client, slot, envelope(north, slot, b"abc"))
        assert (short.status_code, short.json()["bytes"]) == (409, 2)
        put(client, slot, 2, b"X")
        wrong = submit(client, slot, envelope(north, slot, b"abc"))
        assert (wrong.status_code, wrong.json()["bytes"]) == (409, 0)
        put(client, slot, 0, b"abc")
        assert submit(client, slot, envelope(north, slot, b"abc")).status_code == 200


def test_an_answer_without_an_update_needs_no_payload(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=13)
    with gate.http(north) as client:
        assert submit(client, slot, envelope(north, slot, None)).json() == {"bytes": 0, "submitted": True}


@pytest.mark.parametrize(
    "changes", [{"site": "south"}, {"round": 99}, {"federation": "other"}, {"protocol": 2}, {"training": "../x"}]
)
def test_an_envelope_for_something_else_is_refused(gate: Gate, north: SiteFolder, changes: dict[str, object]) -> None:
    slot = gate.open_slot("north", round_number=14)
    with gate.http(north) as client:
        put(client, slot, 0, b"abc")
        assert submit(client, slot, envelope(north, slot, b"abc", **changes)).status_code == 400


def test_an_envelope_of_another_key_is_refused(gate: Gate, north: SiteFolder, south: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=15)
    with gate.http(north) as client:
        put(client, slot, 0, b"abc")
        assert submit(client, slot, envelope(south, slot, b"abc")).status_code == 400
        altered = envelope(north, slot, b"abc").replace(b'\\"nonce\\":\\"n\\"', b'\\"nonce\\":\\"m\\"')
        assert submit(client, slot, altered).status_code == 400


def test_only_open_slots_take_anything(gate: Gate, north: SiteFolder) -> None:
    closed = gate.open_slot("north", round_number=16)
    gate.grants.close_slots("chest-1", 16, 1)
    others = ["17/1/train", "0/1/train", "x/1/train", "1/01/train", "1/1/other", "99999999999/1/train", "16/1/test"]
    paths = [closed.folder, *(f"chest-1/{other}/north" for other in others)]
    with gate.http(north) as client:
        answers = [client.put(f"/v1/slots/{path}/upload?offset=0", content=b"x") for path in paths]
        answers.append(client.get(f"/v1/slots/{closed.folder}/upload"))
    assert {each.status_code for each in answers} == {404}
    assert not (gate.exchange / "sealed" / closed.folder).exists()


def test_while_another_request_writes_a_slot_is_busy(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=18)
    with gate.http(north) as client:
        put(client, slot, 0, b"ab")
        with SealedSlots(gate.exchange / "sealed").payload(slot).open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            busy = put(client, slot, 2, b"c")
        assert (busy.status_code, busy.json()["busy"]) == (409, True)
        assert put(client, slot, 2, b"c").json()["bytes"] == 3


def test_a_link_in_the_place_of_a_payload_is_not_followed(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=19)
    target = gate.folder / "secret"
    target.write_bytes(b"s")
    path = SealedSlots(gate.exchange / "sealed").payload(slot)
    path.parent.mkdir(parents=True)
    os.symlink(target, path)
    with gate.http(north) as client:
        assert put(client, slot, 0, b"abc").status_code == 507
    assert target.read_bytes() == b"s"


def test_a_signed_part_whose_bytes_were_changed_leaves_nothing(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=20)
    with gate.http(north, signed=True) as client:
        request = client.build_request("PUT", f"/v1/slots/{slot.folder}/upload?offset=0", content=b"a" * 3_000_000)
        assert put(client, slot, 0, b"12").json()["bytes"] == 2
        auth = client.auth
        assert auth is not None
        signed = next(auth.sync_auth_flow(request))
        signed.stream = httpx.ByteStream(b"b" * 3_000_000)
        assert client.send(signed, auth=None).status_code == 401
        assert client.get(f"/v1/slots/{slot.folder}/upload").json()["bytes"] == 0
