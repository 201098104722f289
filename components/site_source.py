"""Where one site's items are, as one process tells another; light, so that a hospital's worker can read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.rounds import Name, Record


class SourcePart(Record):
    """One site's part of one folder or npz file.

    Attributes:
        site: The site whose items these are; patients are told apart and split within it.
        kind: ``folder`` or ``npz``.
        path: The folder or file, absolute.
        rows: Which rows of its list (or arrays), ascending; None takes all.
    """

    site: Name
    kind: Literal["folder", "npz"]
    path: str
    rows: list[Annotated[int, Field(ge=0)]] | None = None


class SiteSource(Record):
    """Where one site's items are; JSON, so that it can be handed to another process of this machine.

    Attributes:
        name: The site.
        parts: One for a site; several for a pooled source.
    """

    name: Name
    parts: Annotated[list[SourcePart], Field(min_length=1)]
