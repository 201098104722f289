"""The way from a hospital to its gateway, as it was given when the hospital enrolled, kept in the hospital's folder.

::

    <folder>/route.json       whether there is an authority of the network's own, and whether requests are signed
    <folder>/network-ca.pem   that authority: a copy, so that the file it came from may move
"""

from __future__ import annotations

import ssl
from pathlib import Path

from pydantic import ValidationError

from components.errors import StorageError
from components.exchange.secret_files import read_secret, write_secret
from components.files import storage_errors
from components.gateway.transport import Route
from components.rounds import Record

FILE, AUTHORITY_FILE = "route.json", "network-ca.pem"
_AUTHORITY_BYTES = 1 << 20  # a network's bundle of authorities has a few hundred kilobytes


class _Kept(Record):
    """What the file says."""

    own_authority: bool
    signed: bool


def given_route(authority: Path | None, *, signed: bool) -> Route:
    """Return the way that an administrator gave.

    Raises:
        StorageError: If the file of the authority cannot be used.
    """
    if authority is not None:
        _read_authority(authority)
    return Route(authority_file=authority, signed=signed)


def keep_route(folder: Path, route: Route) -> None:
    """Keep the way for later commands, with a copy of its authority.

    Raises:
        StorageError: If it cannot be written.
    """
    if route.authority_file is not None:
        write_secret(folder / AUTHORITY_FILE, _read_authority(route.authority_file))
    kept = _Kept(own_authority=route.authority_file is not None, signed=route.signed)
    write_secret(folder / FILE, kept.model_dump_json().encode())


def read_route(folder: Path) -> Route:
    """Return the way that was kept; the plain one if none was.

    Raises:
        StorageError: If what was kept is damaged, or others may change it.
    """
    if not (folder / FILE).exists():
        return Route()
    try:
        kept = _Kept.model_validate_json(read_secret(folder / FILE, public=True))
    except ValidationError as error:
        raise StorageError(
            f"{FILE} is damaged: remove it, and enroll again if this network inspects TLS (--ca, --signed)"
        ) from error
    authority = folder / AUTHORITY_FILE if kept.own_authority else None
    if authority is not None:
        read_secret(authority, public=True)
    return Route(authority_file=authority, signed=kept.signed)


def _read_authority(path: Path) -> bytes:
    """Return a file of authorities after it was looked at."""
    with storage_errors("read", path), path.open("rb") as file:
        content = file.read(_AUTHORITY_BYTES + 1)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
        if len(content) > _AUTHORITY_BYTES:
            raise ValueError("too large")
    except (ssl.SSLError, ValueError) as error:
        raise StorageError(
            f"{path} holds no certificate authority in PEM: ask whoever runs this network's proxy for its "
            "certificate in that form (it begins with -----BEGIN CERTIFICATE-----)"
        ) from error
    return content
