"""Nothing is believed: what a site answers is checked before it is used.

Pure functions that return nothing if all is well and raise `RefusedError` naming what differs. What a site
sent is shown in messages shortened and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from components.errors import RefusedError, SeenRoundError
from components.rounds import SEEN, Answer, Order, UpdateManifest
from components.weights import Entry, describe, is_finite

_SHOWN_NAMES = 5
_SHOWN_CHARACTERS = 300


def expected_entries(weights: Mapping[str, Tensor], left_out: Iterable[str] = ()) -> dict[str, Entry]:
    """Return the entries an update must have: those of `weights` less those that stay at the sites.

    >>> expected_entries({"conv": torch.zeros(2), "norm": torch.zeros(2)}, left_out=["norm"])
    {'conv': Entry(dtype=torch.float32, shape=(2,))}
    """
    kept = weights.keys() - set(left_out)
    return describe({name: tensor for name, tensor in weights.items() if name in kept})


def verify_answer(
    answer: Answer, order: Order, *, most_samples: float | None = None, most_bytes: int | None = None
) -> None:
    """Check that an answer answers the order, that the work was done, and that what it states can be.

    Args:
        answer: What came back.
        order: What was asked.
        most_samples: Largest weight of an update that is believed, for example the items the site stated
            before the first round; no limit if None.
        most_bytes: Largest file that is accepted; no limit if None.

    Raises:
        RefusedError: If kind, site, round or nonce are not the order's; if the site refused or failed; if
            what was asked for is missing, or something else came with it; or as `verify_manifest`.
        SeenRoundError: If the site refused because it has seen this round, or a later one, before.
    """
    stated = {"kind": answer.kind, "site": answer.site, "round": answer.round, "nonce": answer.nonce}
    asked = {"kind": order.kind, "site": order.site, "round": order.plan.round, "nonce": order.nonce}
    for field, value in asked.items():
        if stated[field] != value:
            raise RefusedError(
                f"{order.site}: the answer's {field} is {_shown(stated[field])}, the order's is {value!r}"
            )
    if answer.status != "done":
        seen = answer.status == "refused" and answer.stage == SEEN
        kind = SeenRoundError if seen else RefusedError
        raise kind(f"{order.site} {answer.status} the order at {_shown(answer.stage)}: {_shown(answer.reason)}")
    wanted, other = ("update", "sums") if order.kind == "train" else ("sums", "update")
    if getattr(answer, wanted) is None:
        raise RefusedError(f"{order.site}: the answer says done but has no {wanted}")
    if getattr(answer, other) is not None:
        raise RefusedError(f"{order.site}: the answer to {order.kind!r} must not have {other}")
    if answer.update is not None:
        verify_manifest(answer.update, most_samples=most_samples, most_bytes=most_bytes)


def verify_manifest(
    manifest: UpdateManifest, *, most_samples: float | None = None, most_bytes: int | None = None
) -> None:
    """Check the numbers that a site states about its update.

    Raises:
        RefusedError: If the weight is not above zero, not finite or above `most_samples`; if the loss is
            not finite; if the file is larger than `most_bytes`; or if the two digests differ: the digest of
            weights is the SHA-256 of their file.
    """
    if not 0 < manifest.weight < math.inf:
        raise RefusedError(f"an update's weight must be above 0 and finite, this one states {manifest.weight}")
    if most_samples is not None and manifest.weight > most_samples:
        raise RefusedError(
            f"an update states {manifest.weight:g} samples, the site can have {most_samples:g} at the most"
        )
    if not math.isfinite(manifest.loss_sum):
        raise RefusedError(
            f"an update's loss must be finite, this one states {manifest.loss_sum}: did training diverge?"
        )
    if most_bytes is not None and manifest.bytes > most_bytes:
        raise RefusedError(f"an update states {manifest.bytes} bytes, at most {most_bytes} are accepted")
    if manifest.weights_digest != manifest.file_sha256:
        raise RefusedError("an update states a weights_digest that is not its file_sha256; they are one and the same")


def verify_entries(found: Mapping[str, Entry], expected: Mapping[str, Entry]) -> None:
    """Check names, dtypes and shapes; values are not needed, so a file's header is enough.

    Raises:
        RefusedError: If names are missing or unknown, or an entry has another dtype or shape.

    >>> verify_entries({"w": Entry(torch.float32, (2,))}, {"w": Entry(torch.float32, (3,))})
    Traceback (most recent call last):
    ...
    components.errors.RefusedError: entry 'w' has shape (2,), expected (3,)
    """
    for names, what in ((expected.keys() - found.keys(), "lacks"), (found.keys() - expected.keys(), "has unknown")):
        if names:
            shown = ", ".join(_shown(name) for name in sorted(names)[:_SHOWN_NAMES])
            raise RefusedError(f"the update {what} {len(names)} of {len(expected)} entries: {shown}")
    for name in sorted(expected):
        if found[name].dtype != expected[name].dtype:
            raise RefusedError(f"entry {name!r} is {found[name].dtype}, expected {expected[name].dtype}")
        if found[name].shape != expected[name].shape:
            raise RefusedError(f"entry {name!r} has shape {found[name].shape}, expected {expected[name].shape}")


def verify_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        RefusedError: Naming the first entry, in the order of names, that has one.
    """
    for name in sorted(weights):
        if not is_finite(weights[name]):
            raise RefusedError(f"entry {_shown(name)} has values that are NaN or infinite: did training diverge?")


def change_norm(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    r"""Return :math:`\lVert w - w_t \rVert_2` over the entries that both have, in double precision.

    >>> change_norm({"a": torch.tensor([3.0]), "b": torch.tensor([5.0])}, {"a": torch.zeros(1), "b": torch.ones(1)})
    5.0
    """
    names = sorted(weights.keys() & base.keys())
    return math.hypot(
        *(float(torch.linalg.vector_norm(weights[name].double() - base[name].double())) for name in names)
    )


def verify_update(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Entry],
    *,
    base: Mapping[str, Tensor] | None = None,
    most_change: float | None = None,
) -> None:
    """Check an update's entries and values.

    Args:
        weights: What the site sent.
        expected: What it must have; see `expected_entries`.
        base: The entries whose change counts for `most_change`: the trained ones of the global model.
        most_change: Largest L2 norm of the change from `base`; needs `base`. No limit if None.

    Raises:
        RefusedError: As `verify_entries` and `verify_finite`, or if the update is too far from `base`.
        ValueError: If `most_change` is given without `base`, or is not above zero.
    """
    if most_change is not None and (base is None or not most_change > 0):
        raise ValueError(
            f"most_change must be above 0 and come with base, given {most_change} and base {base is not None}"
        )
    verify_entries(describe(weights), expected)
    verify_finite(weights)
    if most_change is not None and base is not None:
        norm = change_norm(weights, base)
        if norm > most_change:
            raise RefusedError(f"the update's change has norm {norm:.6g}, at most {most_change:g} is accepted")


def _shown(value: object) -> str:
    """Return what a site sent as one short line that cannot break a log."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
