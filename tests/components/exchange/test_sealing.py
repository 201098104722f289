import hashlib
import hmac
import os
import stat
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from components.errors import RefusedError, StorageError
from components.exchange.keys import SealingKey
from components.exchange.sealing import CHUNK, HEADER, open_file, seal_file, sealed_size

KEY = SealingKey.generate()
CONTEXT = b'{"round":1,"site":"north"}'
STEP = CHUNK + 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "update.safetensors"
    path.write_bytes(os.urandom(3 * CHUNK + 1000))
    return path


@pytest.fixture
def sealed(source: Path) -> Path:
    seal_file(source, source.with_name("sealed"), KEY.public, CONTEXT)
    return source.with_name("sealed")


def refused(data: bytes, folder: Path, match: str) -> None:
    """Opening these bytes is refused, and leaves nothing."""
    (folder / "changed").write_bytes(data)
    before = sorted(folder.iterdir())
    with pytest.raises(RefusedError, match=match):
        open_file(folder / "changed", folder / "opened", KEY, CONTEXT, 1 << 30)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("size", [0, 1, 15, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_every_size_comes_back_as_it_was(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "plain").write_bytes(content)
    written = seal_file(tmp_path / "plain", tmp_path / "a" / "sealed", KEY.public, CONTEXT)
    data = (tmp_path / "a" / "sealed").read_bytes()
    assert (written.sha256, written.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert written.bytes == sealed_size(size)
    assert open_file(tmp_path / "a" / "sealed", tmp_path / "b" / "opened", KEY, CONTEXT, size) == size
    assert (tmp_path / "b" / "opened").read_bytes() == content


def hkdf_extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), material, "sha256")


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    block, result = b"", b""
    while len(result) < length:
        block = hmac.digest(key, block + info + bytes([len(result) // 32 + 1]), "sha256")
        result += block
    return result[:length]


def labelled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + suite + label + material)


def labelled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return hkdf_expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def hpke_open(data: bytes, key: SealingKey, info: bytes) -> bytes:
    """RFC 9180, sections 4.1 and 5.1, base mode, with suite (0x0020, 0x0001, 0x0003); written from the text."""
    encapsulated, text = data[:32], data[32:]
    shared = key.private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    kem = b"KEM" + (0x0020).to_bytes(2, "big")
    secret = labelled_expand(
        kem,
        labelled_extract(kem, b"", b"eae_prk", shared),
        b"shared_secret",
        encapsulated + key.public.raw,
        32,
    )
    suite = b"HPKE" + b"\x00\x20" + b"\x00\x01" + b"\x00\x03"
    context = b"\x00" + labelled_extract(suite, b"", b"psk_id_hash", b"")
    context += labelled_extract(suite, b"", b"info_hash", info)
    schedule = labelled_extract(suite, secret, b"secret", b"")
    cipher = ChaCha20Poly1305(labelled_expand(suite, schedule, b"key", context, 32))
    return cipher.decrypt(labelled_expand(suite, schedule, b"base_nonce", context, 12), text, b"")


def test_the_file_is_as_its_description_says(source: Path, sealed: Path) -> None:
    """A second, naive opener, written from RFC 9180 and the module's docstring."""
    data = sealed.read_bytes()
    assert data[:8] == b"WRSEAL\x01\x01"
    file_key = hpke_open(data[8:88], KEY, b"wardround/seal/v1\x00" + data[:8] + CONTEXT)
    chunks = [data[start : start + STEP] for start in range(88, len(data), STEP)]
    content = b""
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        nonce = number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
        content += ChaCha20Poly1305(file_key).decrypt(nonce, chunk, None)
    assert content == source.read_bytes()


def test_the_same_content_is_sealed_differently_each_time(source: Path, sealed: Path) -> None:
    again = source.with_name("again")
    seal_file(source, again, KEY.public, CONTEXT)
    one, two = sealed.read_bytes(), again.read_bytes()
    assert one[8:40] != two[8:40]
    assert one[HEADER : HEADER + 64] != two[HEADER : HEADER + 64]
    assert source.read_bytes()[:64] not in one


@pytest.mark.parametrize("at", range(HEADER))
def test_every_byte_of_the_header_counts(tmp_path: Path, at: int) -> None:
    (tmp_path / "plain").write_bytes(b"content")
    seal_file(tmp_path / "plain", tmp_path / "sealed", KEY.public, CONTEXT)
    data = bytearray((tmp_path / "sealed").read_bytes())
    data[at] ^= 0x80
    refused(bytes(data), tmp_path, "not a sealed file|is sealed in version|sealed to another key")


@pytest.mark.parametrize("at", [HEADER, HEADER + CHUNK, HEADER + STEP, HEADER + 3 * STEP, -17, -1])
def test_every_byte_of_the_content_counts(sealed: Path, at: int) -> None:
    data = bytearray(sealed.read_bytes())
    data[at] ^= 1
    refused(bytes(data), sealed.parent, r"changed, cut or put together: chunk \d")


@pytest.mark.parametrize(
    "size", [HEADER + 15, HEADER + 16, HEADER + STEP, HEADER + 2 * STEP, HEADER + 3 * STEP, HEADER + 2 * STEP + 1, -1]
)
def test_a_file_cut_short_is_refused(sealed: Path, size: int) -> None:
    refused(sealed.read_bytes()[:size], sealed.parent, "changed, cut or put together")


@pytest.mark.parametrize("size", [0, 5, 8, HEADER - 1, HEADER])
def test_a_file_without_content_is_refused(sealed: Path, size: int) -> None:
    refused(sealed.read_bytes()[:size], sealed.parent, "cut short|cut or put together")


@pytest.mark.parametrize(
    "order", [[1, 0, 2, 3], [0, 2, 1, 3], [0, 0, 2, 3], [0, 2, 3], [0, 1, 2, 2, 3], [0, 1, 2, 3, 3], [3], [0, 1, 3]]
)
def test_chunks_in_another_order_are_refused(sealed: Path, order: list[int]) -> None:
    data = sealed.read_bytes()
    chunks = [data[start : start + STEP] for start in range(HEADER, len(data), STEP)]
    refused(data[:HEADER] + b"".join(chunks[n] for n in order), sealed.parent, "cut or put together")


def test_chunks_of_another_file_are_refused(source: Path, sealed: Path) -> None:
    seal_file(source, source.with_name("again"), KEY.public, CONTEXT)
    one, two = sealed.read_bytes(), source.with_name("again").read_bytes()
    at = HEADER + STEP
    for data in (one[:at] + two[at:], two[:HEADER] + one[HEADER:], one[:at] + two[at : at + STEP] + one[at + STEP :]):
        refused(data, sealed.parent, "cut or put together")


@pytest.mark.parametrize("extra", [b"\0", bytes(16), bytes(STEP)])
def test_what_is_appended_is_refused(sealed: Path, extra: bytes) -> None:
    refused(sealed.read_bytes() + extra, sealed.parent, "cut or put together")


@pytest.mark.parametrize("context", [b"", CONTEXT + b" ", CONTEXT.replace(b"1", b"2"), CONTEXT.replace(b"n", b"s")])
def test_another_context_is_refused(sealed: Path, context: bytes) -> None:
    with pytest.raises(RefusedError, match="for another context"):
        open_file(sealed, sealed.with_name("opened"), KEY, context, 1 << 30)


def test_another_key_is_refused_and_named(sealed: Path) -> None:
    other = SealingKey.generate()
    with pytest.raises(RefusedError, match=f"sealed to another key than {other.public.fingerprint}"):
        open_file(sealed, sealed.with_name("opened"), other, CONTEXT, 1 << 30)


def test_another_version_names_both(sealed: Path) -> None:
    data = bytearray(sealed.read_bytes())
    data[6] = 2
    refused(bytes(data), sealed.parent, "sealed in version 2, suite 1; this end opens version 1, suite 1: update")


def test_content_beyond_the_limit_is_refused_before_it_is_decrypted(
    source: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = source.stat().st_size
    assert open_file(sealed, source.with_name("opened"), KEY, CONTEXT, size) == size
    monkeypatch.setattr("components.exchange.sealing._opened_key", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(RefusedError, match=f"has {sealed_size(size)} bytes sealed, at most {sealed_size(size - 1)}"):
        open_file(sealed, source.with_name("opened"), KEY, CONTEXT, size - 1)


def test_only_the_owner_may_read_what_was_opened(sealed: Path) -> None:
    before = os.umask(0)
    try:
        open_file(sealed, sealed.with_name("opened"), KEY, CONTEXT, 1 << 30)
    finally:
        os.umask(before)
    assert stat.S_IMODE(sealed.with_name("opened").stat().st_mode) == 0o600


def test_a_refused_file_leaves_what_lay_there(sealed: Path) -> None:
    target = sealed.with_name("opened")
    target.write_bytes(b"before")
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(RefusedError):
        open_file(sealed, target, KEY, CONTEXT, 1 << 30)
    assert target.read_bytes() == b"before"


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*none: it is not there"):
        seal_file(tmp_path / "none", tmp_path / "sealed", KEY.public, CONTEXT)
    with pytest.raises(StorageError, match=r"cannot read .*none: it is not there"):
        open_file(tmp_path / "none", tmp_path / "opened", KEY, CONTEXT, 1)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(bytes(24 * CHUNK))
    tracemalloc.start()
    try:
        seal_file(tmp_path / "plain", tmp_path / "sealed", KEY.public, CONTEXT)
        open_file(tmp_path / "sealed", tmp_path / "opened", KEY, CONTEXT, 24 * CHUNK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * CHUNK
