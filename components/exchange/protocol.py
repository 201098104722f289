"""The version of what hospitals and the coordinator say to each other.

It covers every record and file that crosses the wire: requests to the gateway, plans, orders, envelopes and
sealed files. It is raised when one of them changes so that an older end would misread it.
"""

from __future__ import annotations

from components.errors import RefusedError

PROTOCOL = 1


def require_protocol(theirs: object, who: str = "the other end") -> None:
    """Refuse an end that speaks another version of the protocol.

    Args:
        theirs: What the other end says it speaks; it came over the wire and may be anything.
        who: Who says so, for the message.

    Raises:
        RefusedError: If it is not `PROTOCOL`. The message names both versions and who has to update.

    >>> require_protocol(1)
    """
    if type(theirs) is int and theirs == PROTOCOL:
        return
    if type(theirs) is not int or theirs < 1:
        stated = repr(theirs)[:40]
        raise RefusedError(f"{who} states {stated} as its protocol version; this end speaks version {PROTOCOL}")
    older = "this end" if theirs > PROTOCOL else who
    raise RefusedError(
        f"{who} speaks protocol version {theirs}, this end speaks version {PROTOCOL}: update WardRound at {older}"
    )
