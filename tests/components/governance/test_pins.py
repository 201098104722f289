from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from components.errors import RefusedError
from components.exchange.keys import SealingKey, SigningKey
from components.governance.certificates import Authority
from components.governance.pins import Federation, PinnedKeys, PublicKeys, accept_peer, pin, pin_peers

FIRST, LATER = date(2026, 11, 1), date(2026, 12, 24)


def new_keys() -> PublicKeys:
    return PublicKeys(SigningKey.generate().public, SealingKey.generate().public)


NORTH, SOUTH, EAST = new_keys(), new_keys(), new_keys()


@pytest.fixture
def pinned(authority: Authority) -> Federation:
    return Federation(
        federation="fed-1",
        site="north",
        gateway="https://gateway.example:8443",
        ca=authority.pem.decode(),
        coordinator=pin(new_keys(), FIRST),
        peers={"south": pin(SOUTH, FIRST)},
    )


def test_keys_travel_as_base64() -> None:
    assert PublicKeys.from_json(NORTH.to_json()) == NORTH
    assert set(NORTH.to_json()) == {"signing", "sealing"}


GOOD = NORTH.to_json()
NOT_KEYS = [
    None,
    [],
    "text",
    {},
    {"signing": GOOD["signing"]},
    {**GOOD, "other": "x"},
    {**GOOD, "signing": None},
    {**GOOD, "sealing": GOOD["sealing"] + "\n"},
    {"signing": "AQ==", "sealing": GOOD["sealing"]},
]


@pytest.mark.parametrize("fields", NOT_KEYS)
def test_what_are_not_two_keys_is_refused(fields: Any) -> None:
    with pytest.raises(RefusedError, match=r"public keys must be|a public key cannot be used"):
        PublicKeys.from_json(fields)


def test_new_peers_are_pinned_with_the_day_and_known_ones_keep_theirs(pinned: Federation) -> None:
    later = pin_peers(pinned, {"south": SOUTH, "east": EAST}, LATER)
    assert {site: peer.first_seen for site, peer in later.peers.items()} == {"east": LATER, "south": FIRST}
    assert later.peers["east"].keys == EAST
    assert later.peers["east"].signing_fingerprint == EAST.signing.fingerprint
    assert later.coordinator == pinned.coordinator
    assert set(pinned.peers) == {"south"}


@pytest.mark.parametrize(
    "changed", [PublicKeys(NORTH.signing, SOUTH.sealing), PublicKeys(SOUTH.signing, NORTH.sealing)]
)
def test_a_peer_whose_key_changed_is_refused_and_both_fingerprints_named(
    pinned: Federation, changed: PublicKeys
) -> None:
    with pytest.raises(RefusedError, match="keys of south are not those first seen on 2026-11-01") as caught:
        pin_peers(pinned, {"east": EAST, "south": changed}, LATER)
    assert SOUTH.signing.fingerprint in str(caught.value)
    assert changed.signing.fingerprint in str(caught.value)
    assert set(pinned.peers) == {"south"}


def test_an_administrator_can_accept_new_keys(pinned: Federation) -> None:
    later = accept_peer(pinned, "south", NORTH, LATER)
    assert later.peers["south"] == pin(NORTH, LATER)
    assert pin_peers(later, {"south": NORTH}, LATER) == later
    with pytest.raises(RefusedError):
        pin_peers(later, {"south": SOUTH}, LATER)


def test_a_peer_that_is_away_stays_known(pinned: Federation) -> None:
    assert pin_peers(pinned, {}, LATER) == pinned
    with pytest.raises(RefusedError, match="keys of south"):
        pin_peers(pin_peers(pinned, {"east": EAST}, LATER), {"south": NORTH}, LATER)


def test_a_site_is_not_its_own_peer(pinned: Federation) -> None:
    assert pin_peers(pinned, {"north": NORTH}, LATER) == pinned


def test_a_peer_needs_a_name(pinned: Federation) -> None:
    with pytest.raises(ValidationError, match="peers"):
        pin_peers(pinned, {"../east": EAST}, LATER)


@pytest.mark.parametrize("field", ["signing", "sealing", "signing_fingerprint", "sealing_fingerprint"])
def test_a_fingerprint_that_people_would_compare_is_that_of_its_key(field: str) -> None:
    fields = pin(NORTH, FIRST).model_dump()
    with pytest.raises(ValidationError, match="a fingerprint is not that of its key"):
        PinnedKeys(**{**fields, field: pin(SOUTH, FIRST).model_dump()[field]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gateway", "http://gateway.example"),
        ("gateway", "https://"),
        ("gateway", "https://gateway.example/path"),
        ("gateway", "https://user@gateway.example"),
        ("gateway", "https://gateway.example\n"),
        ("federation", "a b"),
        ("site", ""),
        ("ca", "nonsense"),
        ("extra", 1),
    ],
)
def test_what_cannot_be_used_is_not_pinned(pinned: Federation, field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        Federation(**{**dict(pinned), field: value})
