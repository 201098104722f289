"""Objects by their digest, whole or from any byte on: what a site may read, it may read in pieces and resume."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from components.gateway.refusals import RefusalError

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", flags=re.ASCII)


def object_response(path: Path, digest: str, *, range_field: str | None, if_range: str | None, head: bool) -> Response:
    """Return an object, or the part of it that was asked for.

    Args:
        path: Where it lies.
        digest: Its digest, and so its entity tag.
        range_field: The header ``Range``. Several ranges, or what is not understood, get the whole object.
        if_range: The header ``If-Range``.
        head: Whether only the headers are wanted.

    Raises:
        RefusalError: If it is not there (404), or has not the bytes asked for (416).
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RefusalError(404, f"object {digest} is granted, but cannot be read: {error.strerror}") from error
    wanted = None if if_range not in (None, f'"{digest}"') else parse_range(range_field, size)
    start, end = wanted or (0, size)
    headers = {"accept-ranges": "bytes", "etag": f'"{digest}"', "content-length": str(end - start)}
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if head:
        return Response(status_code=200 if wanted is None else 206, headers=headers)
    return StreamingResponse(
        _pieces(path, start, end), 200 if wanted is None else 206, headers, "application/octet-stream"
    )


def parse_range(field: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte that is wanted and the one after the last; None for all of them.

    >>> parse_range("bytes=2-4", 10), parse_range("bytes=-3", 10), parse_range("bytes=8-99", 10)
    ((2, 5), (7, 10), (8, 10))

    Raises:
        RefusalError: If there is no such byte (416).
    """
    match = _RANGE.fullmatch(field or "")
    if match is None or not (match[1] or match[2]):
        return None
    if match[1] and match[2] and int(match[2]) < int(match[1]):
        return None
    start = int(match[1]) if match[1] else max(0, size - int(match[2]))
    end = min(size, int(match[2]) + 1) if match[1] and match[2] else size
    if start >= end:
        raise RefusalError(416, f"bytes from {start} of {size}", headers={"content-range": f"bytes */{size}"})
    return start, end


async def _pieces(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    """Yield some bytes of a file."""
    descriptor = await run_in_threadpool(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while start < end:
            piece = await run_in_threadpool(os.pread, descriptor, min(_PIECE, end - start), start)
            if not piece:
                return
            start += len(piece)
            yield piece
    finally:
        os.close(descriptor)
