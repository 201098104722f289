import base64
import hashlib
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from components.errors import RefusedError, StorageError
from components.exchange.keys import SealingKey, SealingPublicKey, SigningKey, TlsKey, VerifyKey, decode_base64

PRIVATE = [SigningKey, SealingKey, TlsKey]
PUBLIC = [VerifyKey, SealingPublicKey]

# RFC 8032, section 7.1, TEST 2
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC_KEY = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signing_is_that_of_rfc_8032() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(SECRET))
    assert key.public.raw.hex() == PUBLIC_KEY
    assert key.sign(b"\x72").hex() == SIGNATURE
    key.public.verify(b"\x72", bytes.fromhex(SIGNATURE))


def test_sealing_keys_are_those_of_rfc_7748() -> None:
    """Section 6.1, the public key of Alice."""
    secret = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    key = SealingKey(X25519PrivateKey.from_private_bytes(secret))
    assert key.public.raw.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


@pytest.mark.parametrize("kind", PUBLIC)
def test_fingerprint_and_base64_are_of_the_raw_bytes(kind: Any) -> None:
    key = kind(bytes.fromhex(PUBLIC_KEY))
    assert key.fingerprint == hashlib.sha256(key.raw).hexdigest()
    assert base64.b64decode(key.base64) == key.raw
    assert kind.from_base64(key.base64) == key


@pytest.mark.parametrize(("data", "flip"), [(b"\x73", None), (b"", None), (b"\x72", 0), (b"\x72", 63)])
def test_another_text_or_signature_is_refused(data: bytes, flip: int | None) -> None:
    signature = bytearray.fromhex(SIGNATURE)
    if flip is not None:
        signature[flip] ^= 1
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        VerifyKey(bytes.fromhex(PUBLIC_KEY)).verify(data, bytes(signature))


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(RefusedError, match="the signature is not that of key"):
        VerifyKey(bytes.fromhex(PUBLIC_KEY)).verify(b"\x72", signature)


TEXT = base64.b64encode(bytes.fromhex(PUBLIC_KEY)).decode()
WRONG = {
    "empty": "",
    "line end": TEXT + "\n",
    "blank before": " " + TEXT,
    "no padding": TEXT.rstrip("="),
    "31 bytes": base64.b64encode(b"x" * 31).decode(),
    "33 bytes": base64.b64encode(b"x" * 33).decode(),
    "URL alphabet": base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode(),
    "last bits not zero": TEXT[:-2] + chr(ord(TEXT[-2]) + 1) + "=",
    "not ASCII": "ä" + TEXT[1:],
}


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_key_has_one_spelling(kind: Any, text: str) -> None:
    with pytest.raises(RefusedError, match=r"a public key cannot be used: it is not .*base64"):
        kind.from_base64(text)


def test_the_wrong_last_bits_are_wrong_for_that_alone() -> None:
    assert base64.b64decode(WRONG["last bits not zero"]) == bytes.fromhex(PUBLIC_KEY)
    assert decode_base64(TEXT, 32) == bytes.fromhex(PUBLIC_KEY)


# Edwards curve of RFC 8032, section 5.1, in affine coordinates: slow and plain.
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
BASE = (15112221349535400772501151409588531511454012693041857206046113283949847762202, 4 * pow(5, -1, P) % P)


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    product = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def times(number: int, point: tuple[int, int]) -> tuple[int, int]:
    result = (0, 1)
    for bit in bin(number)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


def with_y(y: int) -> tuple[int, int] | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    for factor in (1, pow(2, (P - 1) // 4, P)):
        x = pow(square, (P + 3) // 8, P) * factor % P
        if x * x % P == square:
            return x, y
    return None


def small_order_points() -> set[tuple[int, int]]:
    draw, found = random.Random(1), set()
    while len(found) < 8:
        point = with_y(draw.randrange(P))
        if point is not None:
            found.add(times(ORDER, point))
    return found


def test_all_eight_points_of_small_order_are_refused_in_every_spelling() -> None:
    assert times(ORDER, BASE) == (0, 1)
    heights = {y for _, y in small_order_points()}
    spellings = {y + add_p for y in heights for add_p in (0, P) if y + add_p < 2**255}
    assert len(spellings) == 7
    for y in spellings:
        for sign_bit in (0, 0x80):
            raw = bytearray(y.to_bytes(32, "little"))
            raw[31] |= sign_bit
            with pytest.raises(ValueError, match="small order"):
                VerifyKey(bytes(raw))
            with pytest.raises(RefusedError, match="small order"):
                VerifyKey.from_base64(base64.b64encode(raw).decode())


def test_such_a_point_would_accept_one_signature_for_many_texts() -> None:
    """Why they are refused: the library itself does not."""
    identity = (1).to_bytes(32, "little")
    key = object.__new__(VerifyKey)
    object.__setattr__(key, "raw", identity)
    for text in (b"yes", b"no"):
        key.verify(text, identity + bytes(32))


@pytest.mark.parametrize("u", [0, 1, P - 1, P, P + 1])
def test_a_sealing_key_to_which_everybody_could_open_is_refused(u: int) -> None:
    with pytest.raises(ValueError, match="small order"):
        SealingPublicKey(u.to_bytes(32, "little"))


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize("raw", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_what_is_no_raw_key_is_a_mistake(kind: Any, raw: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        kind(raw)


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_key_comes_back_from_its_file(kind: Any, tmp_path: Path) -> None:
    key, path = kind.generate(), tmp_path / "keys" / "a.key"
    assert key.save(path)
    assert kind.load(path).public == key.public
    assert kind.from_pem(key.to_pem()).to_pem() == key.to_pem()
    assert key.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize("kind", PRIVATE)
def test_every_new_key_is_another(kind: Any) -> None:
    assert kind.generate().public != kind.generate().public


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_key_made_once_is_never_replaced(kind: Any, tmp_path: Path) -> None:
    first, path = kind.generate(), tmp_path / "keys" / "a.key"
    assert first.save(path, once=True)
    assert not kind.generate().save(path, once=True)
    assert kind.load(path).public == first.public


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_private_key_shows_in_no_text_and_no_pickle(kind: Any) -> None:
    key = kind.generate()
    assert repr(key) == f"{kind.__name__}()"
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(key)


def locked(key: Any) -> bytes:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))


def bare(private: Any) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", PRIVATE)
def test_what_is_no_key_of_this_kind_is_refused(kind: Any, tmp_path: Path) -> None:
    others = [other.generate().to_pem() for other in PRIVATE if other is not kind]
    path = tmp_path / "keys" / "a.key"
    for pem in [b"", b"nonsense", kind.generate().to_pem()[:-40], locked(kind.generate()), *others]:
        with pytest.raises(ValueError, match="a private key"):
            kind.from_pem(pem)
        path.unlink(missing_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(pem)
        with pytest.raises(StorageError, match=r"keys/a\.key cannot be used: .*backup"):
            kind.load(path)


def test_a_tls_key_is_on_p_256() -> None:
    with pytest.raises(ValueError, match="must be on the curve P-256, this one is on secp384r1"):
        TlsKey.from_pem(bare(ec.generate_private_key(ec.SECP384R1())))


def test_a_tls_key_signs_with_ecdsa() -> None:
    key = TlsKey.generate()
    key.public.verify(key.sign(b"text"), b"text", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_key_that_others_may_read_is_not_used(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    kind.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(StorageError, match="Run: chmod 600"):
        kind.load(path)
