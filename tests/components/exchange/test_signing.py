import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RefusedError
from components.exchange.keys import SigningKey
from components.exchange.signing import MAX_BODY_BYTES, Signed, canonical, read_signed, sign, verify

KEY = SigningKey.generate()
OTHER = SigningKey.generate()
RECORD = {"site": "north", "round": 3, "loss": 0.1, "ok": True, "none": None, "list": [1, {"ä": "ö"}]}
BODY = '{"list":[1,{"ä":"ö"}],"loss":0.1,"none":null,"ok":true,"round":3,"site":"north"}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def signed_by_hand(kind: str, body: str, key: SigningKey = KEY) -> Signed:
    """A true signature over a body that `sign` might never write."""
    message = b"wardround/" + kind.encode() + b"/v1\x00" + body.encode()
    signature = base64.b64encode(key.sign(message)).decode()
    return Signed(kind=kind, body=body, key=key.public.fingerprint, signature=signature)


def test_what_is_signed_is_the_prefix_and_the_canonical_record() -> None:
    signed = sign("update", RECORD, KEY)
    assert signed == signed_by_hand("update", BODY)
    assert verify("update", signed, KEY.public) == RECORD


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_every_record_comes_back_as_it_was(record: dict[str, Any]) -> None:
    travelled = read_signed(sign("update", record, KEY).model_dump_json())
    found = verify("update", travelled, KEY.public)
    assert json.dumps(found, sort_keys=True) == json.dumps(record, sort_keys=True)
    assert canonical(found) == canonical(dict(reversed(record.items())))


@pytest.mark.parametrize("at", [0, 1, 10, 40, -1])
def test_a_changed_body_is_refused(at: int) -> None:
    body = bytearray(BODY.encode())
    body[at] ^= 1
    signed = sign("update", RECORD, KEY).model_copy(update={"body": body.decode(errors="replace")})
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        verify("update", signed, KEY.public)


def test_a_changed_signature_is_refused() -> None:
    signed = sign("update", RECORD, KEY)
    raw = bytearray(base64.b64decode(signed.signature))
    raw[5] ^= 1
    changed = signed.model_copy(update={"signature": base64.b64encode(raw).decode()})
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        verify("update", changed, KEY.public)


@pytest.mark.parametrize("signature", ["*" * 88, "A" * 87 + "\n", "A" * 88])
def test_a_signature_in_another_spelling_is_refused(signature: str) -> None:
    signed = sign("update", RECORD, KEY).model_copy(update={"signature": signature})
    with pytest.raises(RefusedError, match=r"signature of this update cannot be used: it is not .*base64"):
        verify("update", signed, KEY.public)


def test_a_record_of_another_kind_is_refused_also_when_it_is_renamed() -> None:
    signed = sign("plan", RECORD, KEY)
    with pytest.raises(RefusedError, match="a signed 'plan' was offered where 'update' is expected"):
        verify("update", signed, KEY.public)
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        verify("update", signed.model_copy(update={"kind": "update"}), KEY.public)


def test_another_key_is_refused_also_when_it_is_renamed() -> None:
    signed = sign("update", RECORD, OTHER)
    with pytest.raises(RefusedError, match=f"signed with key {OTHER.public.fingerprint}, expected"):
        verify("update", signed, KEY.public)
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        verify("update", signed.model_copy(update={"key": KEY.public.fingerprint}), KEY.public)


NOT_CANONICAL = {
    "blank": '{"a": 1}',
    "order": '{"b":1,"a":2}',
    "key twice": '{"a":1,"a":2}',
    "another spelling of a number": '{"a":1.00}',
    "exponent": '{"a":1E2}',
    "escape": '{"a":"\\u0041"}',
    "line end": '{"a":1}\n',
    "list": "[1]",
    "text": '"a"',
    "NaN": '{"a":NaN}',
    "infinity": '{"a":1e999}',
    "half a pair": '{"a":"\\ud800"}',
    "cut": '{"a":1',
    "empty": "",
    "deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "long number": '{"a":' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("body", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_a_record_that_could_be_read_in_two_ways_is_refused_although_truly_signed(body: str) -> None:
    with pytest.raises(RefusedError, match=r"a signed update is not (JSON|an object in canonical JSON)"):
        verify("update", signed_by_hand("update", body), KEY.public)


def test_nothing_is_parsed_before_the_signature_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.exchange.signing._parse", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(RefusedError, match="the signature is not"):
        verify("update", sign("update", RECORD, KEY).model_copy(update={"body": "{}"}), KEY.public)


def test_a_record_is_as_long_as_is_allowed_and_no_longer() -> None:
    longest = {"a": "x" * (MAX_BODY_BYTES - len('{"a":""}'))}
    signed = sign("update", longest, KEY)
    assert verify("update", signed, KEY.public) == longest
    with pytest.raises(RefusedError, match=f"has {MAX_BODY_BYTES} bytes, at most 100 are accepted"):
        verify("update", signed, KEY.public, max_bytes=100)
    with pytest.raises(ValueError, match="too long to sign"):
        sign("update", {"a": longest["a"] + "x"}, KEY)
    with pytest.raises(RefusedError, match="not a signed record: body"):
        read_signed(json.dumps({**signed.model_dump(), "body": signed.body + "x"}))


def test_length_is_counted_in_bytes() -> None:
    signed = sign("update", {"a": "é" * 100}, KEY)
    with pytest.raises(RefusedError, match="has 208 bytes"):
        verify("update", signed, KEY.public, max_bytes=207)


@pytest.mark.parametrize(
    "record",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": b"bytes"},
        {1: "a"},
        {"a": {None: 1}},
        {"a": [{True: 1}]},
        {"a": "\ud800"},
        {"a": {1, 2}},
    ],
)
def test_what_is_no_json_cannot_be_signed(record: Any) -> None:
    with pytest.raises(ValueError, match="the record cannot be written as JSON"):
        sign("update", record, KEY)


@pytest.mark.parametrize("kind", ["", "Update", "a/b", "a\0", "a\n", "1a", "a" * 64, "ä"])
def test_a_kind_is_a_plain_word(kind: str) -> None:
    with pytest.raises(ValueError, match="kind must be lower-case letters"):
        sign(kind, RECORD, KEY)


GOOD = sign("update", RECORD, KEY).model_dump()
NOT_SIGNED = {
    "no JSON": "{",
    "a list": "[]",
    "a field too few": json.dumps({key: value for key, value in GOOD.items() if key != "key"}),
    "a field too many": json.dumps({**GOOD, "x" * 500: 1}),
    "a number for text": json.dumps({**GOOD, "body": 1}),
    "a kind with a line end": json.dumps({**GOOD, "kind": "update\n"}),
    "a key in capitals": json.dumps({**GOOD, "key": GOOD["key"].upper() + "A"}),
    "a short signature": json.dumps({**GOOD, "signature": ""}),
}


@pytest.mark.parametrize("text", NOT_SIGNED.values(), ids=NOT_SIGNED.keys())
def test_what_is_no_signed_record_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(RefusedError, match="this is not a signed record") as caught:
        read_signed(text)
    assert len(str(caught.value)) < 300


def test_two_ends_can_compare_what_they_were_given() -> None:
    one, same = sign("plan", RECORD, KEY), sign("plan", dict(reversed(RECORD.items())), KEY)
    assert one.sha256 == same.sha256
    assert len({one.sha256, sign("update", RECORD, KEY).sha256, sign("plan", {**RECORD, "round": 4}, KEY).sha256}) == 3
