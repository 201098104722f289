"""The version of what hospitals and the coordinator say to each other.

It covers every record and file that crosses the wire: requests to the gateway, plans, orders, envelopes and
sealed files. It is raised when one of them changes so that an older end would misread it.
"""

from __future__ import annotations

from components.errors import RefusedError

PROTOCOL = 1


def speaks_otherwise(theirs: int | None, version: str | None, *, own: str) -> str:
    """Say that a hospital and this coordinator do not understand each other; empty where nothing is known of that.

    Args:
        theirs: The protocol the hospital last said it speaks; None if it never did.
        version: The WardRound it last said it runs.
        own: The WardRound that runs here.

    >>> speaks_otherwise(1, "0.1.0", own="0.2.0")
    ''
    >>> speaks_otherwise(2, "0.2.0", own="0.1.0")
    'it runs WardRound 0.2.0 (protocol 2), this coordinator 0.1.0 (protocol 1): update the coordinator'
    """
    if theirs is None or theirs == PROTOCOL:
        return ""
    older = "the coordinator" if theirs > PROTOCOL else "the hospital"
    return (
        f"it runs WardRound {version or 'unknown'} (protocol {theirs}), this coordinator {own} (protocol {PROTOCOL}): "
        f"update {older}"
    )


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
