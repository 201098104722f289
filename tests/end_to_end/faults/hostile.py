"""A hospital that has its own credential and its own keys, and does not do what the product does."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from components.errors import RefusedError
from components.exchange.codec import read_weights, write_weights
from components.exchange.keys import SealingKey, SealingPublicKey
from components.exchange.sealing import SealedFile, seal_file
from components.exchange.signed import UPDATE, UpdateEnvelope, update_context
from components.exchange.signing import sign
from components.exchange.site_request import SiteRequest
from components.gateway.client import GatewayClient
from components.gateway.records import Work, slot_of_order
from components.governance.identity_files import SiteFolder
from components.rounds import Answer, Order, ScoreSums, UpdateManifest
from components.weights import Entry, Weights, header
from tests.end_to_end.faults.trained import Disturbed


@dataclass(frozen=True)
class Crafted:
    """What a hostile hospital brings.

    Attributes:
        file: The content of its update.
        manifest: What it states of it.
        sealed_to: Whom it seals it to.
        sealed_for: The order it seals it for.
        nonce: Of the order that it says it answers.
        details: What it says besides.
    """

    file: Path
    manifest: UpdateManifest
    sealed_to: SealingPublicKey
    sealed_for: Order
    nonce: str
    details: dict[str, Any]


class Hostile:
    """Whoever has the folder of a hospital, with the product's own client and its own keys.

    Args:
        folder: The hospital's folder.
        scratch: A folder to write in.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.identity = SiteFolder(folder)
        self.client, self.keys = GatewayClient(self.identity), self.identity.read_keys()
        self._scratch, self.bins = scratch, 0

    def close(self) -> None:
        self.client.close()

    def orders(self) -> list[Order]:
        """Return what the site is asked for now."""
        found = Work.model_validate_json(self.client._wire.send("GET", "/v1/work", params={"rung": 0}).content)
        requests = [SiteRequest.model_validate_json(item.request) for item in found.items]
        self.bins = next((request.study.evaluate.bins for request in requests), 0)
        return [Order.model_validate(json.loads(r.call.body)["order"]) for r in requests if r.kind != "prepare"]

    def base(self, order: Order) -> Weights:
        """Return the weights that an order begins with."""
        path = self._scratch / f"{order.weights_digest}.safetensors"
        self.client.fetch_object(order.weights_digest, path)
        return {name: value.clone() for name, value in read_weights(path, expected_digest=order.weights_digest).items()}

    def honest(self, order: Order) -> Crafted:
        """Return an update that would be taken: the weights it begins with."""
        return self.made_of(order, self.base(order))

    def made_of(self, order: Order, weights: Weights) -> Crafted:
        """Return an update of some weights, of which everything is true."""
        path = self._scratch / "update.safetensors"
        written = write_weights(path, weights)
        manifest = UpdateManifest(
            weights_digest=written.sha256, file_sha256=written.sha256, bytes=written.bytes, weight=10.0, steps=1,
            loss_sum=1.0,
        )  # fmt: skip
        coordinator = self.client.pinned.coordinator.keys.sealing
        return Crafted(path, manifest, coordinator, order, order.nonce, {})

    def of_bytes(self, crafted: Crafted, content: bytes) -> Crafted:
        """Return an update with another content, of which everything that is stated is true."""
        import hashlib

        path, digest = self._scratch / "bytes", hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        stated = {"weights_digest": digest, "file_sha256": digest, "bytes": len(content)}
        return replace(crafted, file=path, manifest=crafted.manifest.model_copy(update=stated))

    def deliver(self, order: Order, crafted: Crafted) -> bytes:
        """Seal, sign and bring it; return the envelope."""
        sealed_path = self._scratch / "sealed"
        context = update_context(self.client.pinned.federation, crafted.sealed_for)
        sealed = seal_file(crafted.file, sealed_path, crafted.sealed_to, context)
        answer = Answer(
            kind="train", site=order.site, round=order.plan.round, nonce=crafted.nonce, status="done",
            update=crafted.manifest,
        )  # fmt: skip
        envelope = self.envelope(order, answer, sealed, crafted.details)
        self.client.deliver(slot_of_order(order), sealed_path, envelope)
        return envelope

    def envelope(
        self, order: Order, answer: Answer, sealed: SealedFile | None, details: Mapping[str, Any] = MappingProxyType({})
    ) -> bytes:
        """Sign an answer to an order with the site's own key; with details of any depth."""
        plan, update = order.plan, answer.update
        made = UpdateEnvelope(
            federation=self.client.pinned.federation, study_digest=plan.study_digest, training=plan.training,
            round=plan.round, attempt=plan.attempt, site=order.site, nonce=answer.nonce,
            parent_digest=order.weights_digest, payload_digest=update.file_sha256 if update else None,
            sealed_sha256=sealed.sha256 if sealed else None, sealed_bytes=sealed.bytes if sealed else None,
            answer=answer,
        )  # fmt: skip
        fields = made.model_dump()
        fields["answer"]["details"] = dict(details)
        return sign(UPDATE, fields, self.keys.signing).model_dump_json().encode()

    def boast(self, order: Order) -> None:
        """Answer an evaluation with 10^9 items, all of them right; consistent in itself."""
        half, bins = 500_000_000, self.bins
        least, most = [half, *[0] * (bins - 1)], [*[0] * (bins - 1), half]
        sums = ScoreSums(
            bins=bins, positives=[most], negatives=[least], score_sums=[[0.0] * (bins - 1) + [float(half)]],
            squared_error=[0.0], confusion=[[half, 0], [0, half]], loss=0.0, count=2 * half,
        )  # fmt: skip
        answer = Answer(
            kind="evaluate", site=order.site, round=order.plan.round, nonce=order.nonce, status="done", sums=sums
        )
        self.client.deliver(slot_of_order(order), None, self.envelope(order, answer, None))

    def decline(self, order: Order) -> None:
        """Answer that an order failed, as anybody may."""
        kind = order.kind
        failed = Answer(kind=kind, site=order.site, round=order.plan.round, nonce=order.nonce, status="failed")
        self.client.deliver(slot_of_order(order), None, self.envelope(order, failed, None))


@contextmanager
def taken_over(
    row: Disturbed, site: str, scratch: Path, evaluate: Callable[[Hostile, Order], None] | None = None
) -> Iterator[tuple[Hostile, Order]]:
    """Have somebody else act for a hospital from round 2 on, with its order to train; at the end it is itself again.

    Args:
        row: The training.
        site: The hospital.
        scratch: A folder to write in.
        evaluate: How round 1's evaluation is answered; it is declined by default.
    """
    with row.asleep(site), contextlib.closing(Hostile(row.ward.hospital(site), scratch)) as hostile:
        yield hostile, row.ward.until(lambda: _order_of_round_2(row, hostile, evaluate or Hostile.decline))


def _order_of_round_2(row: Disturbed, hostile: Hostile, evaluate: Callable[[Hostile, Order], None]) -> Order | None:
    """Return the order to train in round 2, once it is there; what round 1 still asks for is answered."""
    for order in hostile.orders():
        if order.plan.training != row.training:
            continue
        if (order.kind, order.plan.round) == ("train", 2):
            return order
        with contextlib.suppress(RefusedError):  # answered before, and closed
            evaluate(hostile, order)
    return None


# What it brings -> the attack. Each returns what is delivered; all of it is sealed and signed by the hospital itself.
Craft = Callable[[Hostile, Order], Crafted]


def not_a_number(hostile: Hostile, order: Order) -> Crafted:
    weights = hostile.base(order)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    return hostile.made_of(order, weights)


def another_shape(hostile: Hostile, order: Order) -> Crafted:
    weights = hostile.base(order)
    name = min(weights)
    return hostile.made_of(order, {**weights, name: torch.zeros(7)})


def another_dtype(hostile: Hostile, order: Order) -> Crafted:
    weights = hostile.base(order)
    return hostile.made_of(order, {name: value.double() for name, value in weights.items()})


def one_more(hostile: Hostile, order: Order) -> Crafted:
    return hostile.made_of(order, {**hostile.base(order), "backdoor": torch.zeros(1)})


def one_less(hostile: Hostile, order: Order) -> Crafted:
    weights = hostile.base(order)
    del weights[min(weights)]
    return hostile.made_of(order, weights)


def a_terabyte(hostile: Hostile, order: Order) -> Crafted:
    return hostile.of_bytes(hostile.honest(order), header({"w": Entry(torch.float32, (1 << 38,))}))


def a_header_without_end(hostile: Hostile, order: Order) -> Crafted:
    return hostile.of_bytes(hostile.honest(order), (1 << 62).to_bytes(8, "little") + b"{}")


def a_pickle(hostile: Hostile, order: Order) -> Crafted:
    return hostile.of_bytes(hostile.honest(order), pickle.dumps({"w": [0.0]}))


def a_thousand_million_samples(hostile: Hostile, order: Order) -> Crafted:
    honest = hostile.honest(order)
    return replace(honest, manifest=honest.manifest.model_copy(update={"weight": 1e9}))


def sealed_to_somebody_else(hostile: Hostile, order: Order) -> Crafted:
    return replace(hostile.honest(order), sealed_to=SealingKey.generate().public)


def sealed_for_another_round(hostile: Hostile, order: Order) -> Crafted:
    before = order.model_copy(update={"plan": order.plan.model_copy(update={"round": 1})})
    return replace(hostile.honest(order), sealed_for=before)


def another_digest(hostile: Hostile, order: Order) -> Crafted:
    honest = hostile.honest(order)
    stated = {"weights_digest": "0" * 64, "file_sha256": "0" * 64}
    return replace(honest, manifest=honest.manifest.model_copy(update=stated))


def another_nonce(hostile: Hostile, order: Order) -> Crafted:
    return replace(hostile.honest(order), nonce="0" * 32)


def a_deep_answer(hostile: Hostile, order: Order) -> Crafted:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    return replace(hostile.honest(order), details={"deep": deep})
