r"""Files sealed to one public key: nobody without its private half reads them, and no byte of them can be changed.

::

    "WRSEAL" | version 1 | suite 1 | sealed file key (80 bytes) | chunk 0 | chunk 1 | ... | last chunk

A fresh 32-byte file key is sealed with HPKE (base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
ChaCha20-Poly1305) whose `info` is ``b"wardround/seal/v1\0"``, the first 8 bytes of the file and the context.
The content is cut into chunks of 1 MiB, each encrypted with ChaCha20-Poly1305 under the file key and the nonce
(11 bytes: number of the chunk) | (1 byte: 1 for the last, else 0): the STREAM construction. A file key is used
for one file, so no nonce is used twice.

Guarantees (`open_file`): what is returned is all of one file that was sealed to this key, for this context
(federation, training, round, attempt, site). Chunks that were cut off, repeated, reordered or taken from another
file, a changed header and another context are refused, and nothing of a refused file is left behind. Memory does
not grow with the file.

Not guaranteed: who sealed it. Everybody can seal to a public key; the signed envelope
(`components.exchange.signed`) names the site and holds the digest. Nor that kept files stay secret once the
private key is lost, or against a quantum computer: delete sealed updates when they were aggregated, as is the
default. Sizes are not hidden.

References:
    HPKE: Barnes et al., RFC 9180. STREAM: Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption
    and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015. ChaCha20-Poly1305: RFC 8439.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from components.errors import RefusedError
from components.exchange.keys import SealingKey, SealingPublicKey
from components.files import make_folder, replace_file, shown, storage_errors, temporary_file, write_all

MAGIC = b"WRSEAL"
VERSION = 1
CHUNK = 1 << 20  # bytes of content in a chunk
_SUITE_NUMBER = 1
_PREFIX = MAGIC + bytes([VERSION, _SUITE_NUMBER])
_TAG = 16
_SEALED_KEY = 32 + 32 + _TAG  # HPKE's encapsulated key, and the encrypted file key
HEADER = len(_PREFIX) + _SEALED_KEY  # bytes before the first chunk


@dataclass(frozen=True)
class SealedFile:
    """A sealed file that was written.

    Attributes:
        sha256: SHA-256 of the sealed file.
        bytes: Size of the sealed file.
    """

    sha256: str
    bytes: int


def sealed_size(content_bytes: int) -> int:
    """Return the size of the sealed file for so many bytes of content.

    >>> sealed_size(0), sealed_size(1 << 20), sealed_size((1 << 20) + 1)
    (104, 1048680, 1048697)
    """
    return HEADER + content_bytes + _TAG * max(1, -(-content_bytes // CHUNK))


def seal_file(
    source: Path,
    target: Path,
    recipient: SealingPublicKey,
    context: bytes,
    *,
    beside: Callable[[bytes], None] | None = None,
) -> SealedFile:
    """Seal a file; the sealed one is there whole or not at all. After a power cut it is sealed anew.

    Args:
        source: What to seal; nothing may write to it meanwhile.
        target: Where the sealed file goes; its folder is made if need be, a file there is replaced.
        recipient: Who can open it.
        context: What it is for, for example federation, training, round, attempt and site in canonical JSON
            (`components.exchange.signed.update_context`). It is not stored: whoever opens must know it.
        beside: Takes every piece of the sealed file too, in order, in the thread of the caller.

    Raises:
        StorageError: If the source cannot be read or the target not written; what lay there is then unharmed.
    """
    state = hashlib.sha256()
    with storage_errors("read", source), source.open("rb") as file, storage_errors("write", target):
        make_folder(target.parent)
        with temporary_file(target.parent) as (temporary, descriptor), ThreadPoolExecutor(1) as writer:

            def keep(piece: bytes) -> int:
                state.update(piece)
                write_all(descriptor, piece)
                return len(piece)

            def kept() -> Iterator[Future[int]]:
                for piece in _seal(file, source, recipient, context):
                    yield writer.submit(keep, piece)
                    if beside is not None:
                        beside(piece)

            size = sum(_one_ahead(kept()))
            temporary.replace(target)
    return SealedFile(sha256=state.hexdigest(), bytes=size)


def open_file(source: Path, target: Path, key: SealingKey, context: bytes, max_bytes: int) -> int:
    """Open a sealed file; the content is there whole and verified or not at all, and only its owner may read it.

    Args:
        source: The sealed file.
        target: Where the content goes (mode 0600); its folder is made if need be, a file there is replaced.
        key: The key it was sealed to.
        context: The context it was sealed for.
        max_bytes: Most content that is accepted; checked before anything is decrypted.

    Returns:
        Bytes of content.

    Raises:
        RefusedError: If it is no sealed file, of another version, longer than `max_bytes`, sealed to another
            key or for another context, or was changed in any way.
        StorageError: If the source cannot be read or the target not written.
    """
    with storage_errors("read", source), source.open("rb") as file, storage_errors("write", target):
        _require_size(file, source, max_bytes)
        cipher = _opened_key(file, source, key, context)
        make_folder(target.parent)
        with temporary_file(target.parent) as (temporary, descriptor), ThreadPoolExecutor(1) as writer:
            os.fchmod(descriptor, 0o600)

            def keep(content: bytes) -> int:
                write_all(descriptor, content)
                return len(content)

            opened = (
                _opened(cipher, piece, number, last=last, source=source)
                for number, (piece, last) in enumerate(_pieces(file, source, CHUNK + _TAG))
            )
            size = sum(_one_ahead(writer.submit(keep, content) for content in opened))
            replace_file(temporary, descriptor, target)
    return size


def _seal(file: BinaryIO, source: Path, recipient: SealingPublicKey, context: bytes) -> Iterator[bytes]:
    """Yield the parts of a sealed file."""
    file_key = ChaCha20Poly1305.generate_key()
    yield _PREFIX
    yield _suite().encrypt(file_key, recipient.public, info=_info(context))
    cipher = ChaCha20Poly1305(file_key)
    for number, (piece, last) in enumerate(_pieces(file, source, CHUNK)):
        yield cipher.encrypt(_nonce(number, last=last), piece, None)


def _one_ahead(work: Iterable[Future[int]]) -> Iterator[int]:
    """Yield what work comes to, each while the next is being prepared."""
    before: Future[int] | None = None
    for this in work:
        if before is not None:
            yield before.result()
        before = this
    if before is not None:
        yield before.result()


def _pieces(file: BinaryIO, source: Path, size: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the rest of a file in pieces, each with whether it is the last; of an empty one, one empty piece."""
    piece = _read(file, source, size)
    while True:
        following = _read(file, source, size)
        yield piece, not following
        if not following:
            return
        piece = following


def _read(file: BinaryIO, source: Path, size: int) -> bytes:
    """Read up to so many bytes; an error names the source, although the target is open too."""
    with storage_errors("read", source):
        return file.read(size)


def _suite() -> Suite:
    """Return the ciphers of HPKE."""
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _info(context: bytes) -> bytes:
    """Return what the file key is bound to."""
    return b"wardround/seal/v1\0" + _PREFIX + context


def _nonce(number: int, *, last: bool) -> bytes:
    """Return the nonce of a chunk."""
    return number.to_bytes(11, "big") + bytes([last])


def _require_size(file: BinaryIO, source: Path, max_bytes: int) -> None:
    """Refuse a file that states, by its size, more content than is accepted."""
    size = os.fstat(file.fileno()).st_size
    if size > sealed_size(max_bytes):
        raise RefusedError(f"{shown(source)} has {size} bytes sealed, at most {sealed_size(max_bytes)} are accepted")


def _opened_key(file: BinaryIO, source: Path, key: SealingKey, context: bytes) -> ChaCha20Poly1305:
    """Return the cipher of a file from its header."""
    head = file.read(HEADER)
    if len(head) < HEADER or not head.startswith(MAGIC):
        raise RefusedError(f"{shown(source)} is not a sealed file, or was cut short")
    if not head.startswith(_PREFIX):
        version, suite = head[len(MAGIC)], head[len(MAGIC) + 1]
        raise RefusedError(
            f"{shown(source)} is sealed in version {version}, suite {suite}; this end opens version {VERSION}, "
            f"suite {_SUITE_NUMBER}: update the older of the two ends"
        )
    try:
        return ChaCha20Poly1305(_suite().decrypt(head[len(_PREFIX) :], key.private, info=_info(context)))
    except (InvalidTag, ValueError) as error:
        raise RefusedError(
            f"{shown(source)} was sealed to another key than {key.public.fingerprint}, for another context "
            "(federation, training, round, attempt, site), or its header was changed"
        ) from error


def _opened(cipher: ChaCha20Poly1305, piece: bytes, number: int, *, last: bool, source: Path) -> bytes:
    """Return the content of a chunk."""
    try:
        return cipher.decrypt(_nonce(number, last=last), piece, None)
    except InvalidTag as error:
        raise RefusedError(
            f"{shown(source)} was changed, cut or put together: chunk {number} is not the one"
        ) from error
