"""The site's side of a round: review, fetch, train or evaluate, submit.

A `SiteRuntime` lives as long as its process: the decoded data, the network and the journal stay warm
from order to order. It answers every order; nothing it raises leaves it but through an `Answer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from components.checks import change_norm, verify_finite
from components.data.agreement import found_at, is_open
from components.data.site_data import SiteData, open_site_data
from components.dispatch import InitialModel, Preparation, Progress, SiteSetting
from components.errors import DataError, RefusedError, WardRoundError, fit_to_leave
from components.evaluation.histograms import Booleans
from components.evaluation.subgroups import group_masks, group_names, may_be_told
from components.exchange.store import FolderStore, Slot
from components.failpoints import failpoint
from components.grown import is_grown
from components.journal import Journal
from components.rounds import Answer, Order, ScoreSums, UpdateManifest
from components.seeds import derive_seed
from components.strategies.table import STRATEGIES
from components.study import Study
from components.tracking.context import in_round
from components.training.baseline import measure_baseline
from components.training.boosting import boost_site
from components.training.evaluate import BATCH_SIZE, evaluate_site
from components.training.evaluate_survival import evaluate_survival
from components.training.exchanged_entries import exchanged_entries, read_entries
from components.training.local import SiteResult, TrainingOrder, load_entries, train_site
from components.training.memory import TOO_SMALL, fit_in_memory, is_out_of_memory
from components.training.newton import newton_site
from components.training.personal import load_personal, save_personal
from components.training.products import INSTRUCTION, multiply_site
from components.training.progress import Pace, Tell
from components.weights import Weights

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule
    from torch import Tensor

BuildModule = Callable[[Study], "LightningModule"]


def initialise(study: Study, store: FolderStore, module: LightningModule) -> InitialModel:
    """Put a freshly built module's exchanged entries into the exchange."""
    entries = exchanged_entries(module)
    weights = read_entries(module)
    digest = store.put_weights(weights)
    return InitialModel(
        weights_digest=digest,
        statistics=sorted(entries.statistics),
        normalisation=sorted(entries.normalisation),
        output=sorted(entries.output) if STRATEGIES[study.strategy.name].personal == "output" else [],
        parameters=sum(weights[name].numel() for name in entries.parameters),
    )


class SiteRuntime:
    """One site, ready to answer orders.

    Args:
        setting: Who the site is and where its folders are.
        module: The study's network; may be shared by the sites of one process, since every order loads
            all of its floating-point entries.
        store: The exchange, if the sites of one process share it.
        tell: Is told how far a training is, about twice a second, in the thread that trains.
    """

    def __init__(
        self,
        setting: SiteSetting,
        module: Callable[[], LightningModule],
        store: FolderStore | None = None,
        tell: Callable[[Progress], None] | None = None,
    ) -> None:
        self.setting = setting
        self._tell = tell
        self._module = module
        self._data: SiteData | None = None
        self._store = store or FolderStore(setting.store)
        setting.state_folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal.open(setting.state_folder / "journal.jsonl")

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def prepare(self) -> Preparation:
        """Open the data and say what was found; an error of ours is an answer, and its whole text in the journal."""
        started = time.perf_counter()
        try:
            if is_open(self.setting.study):
                told = found_at(self.setting.study, self.setting.source)
                categories = {name: list(values) for name, values in told.categories.items()}
                return Preparation(
                    site=self.setting.site, ready=True, columns=list(told.columns), categories=categories
                )
            data = self._open_data()
        except WardRoundError as error:
            self._journal.append("not_ready", reason=str(error))
            return Preparation(site=self.setting.site, ready=False, reason=fit_to_leave(error))
        records = self.setting.study.data.records
        self._journal.append("ready", items=data.counts.model_dump(), data_digest=data.digest)
        return Preparation(
            site=self.setting.site,
            ready=True,
            items=data.counts,
            data_digest=data.digest,
            class_counts={str(split): counts for split, counts in data.class_counts.items()},
            sums=None if records is None else data.table_sums(records, binned=is_grown(self.setting.study)),
            seconds=time.perf_counter() - started,
        )

    def answer(self, order: Order) -> Answer:
        """Answer an order; the same order twice gives the same answer and trains once."""
        kept = self._kept_answer(order)
        if kept is not None:
            return kept
        with in_round(order.plan.study, order.plan.round, order.site):
            return self._work(order)

    def _work(self, order: Order) -> Answer:
        """Do what is ordered, and turn whatever goes wrong into an answer."""
        self._journal.append(f"{order.kind}_ordered", **_about(order))
        stage = "review"
        try:
            self._review(order)
            stage = "data"
            data = self._open_data()
            stage = order.kind
            answer = self._done(order, data)
        except (RefusedError, DataError) as error:
            answer = self._negative(order, "refused", stage, fit_to_leave(error))
        except Exception as error:
            # The message may hold a path or a patient's name: it stays in the site's journal.
            self._journal.append("error", stage=stage, error=repr(error)[:2000])
            reason = TOO_SMALL if is_out_of_memory(error) else fit_to_leave(error)
            answer = self._negative(order, "failed", stage, reason)
        self._journal.append(f"{order.kind}_answered", **_about(order), status=answer.status, reason=answer.reason)
        return answer

    def _done(self, order: Order, data: SiteData) -> Answer:
        """Do what is ordered."""
        if order.kind == "evaluate":
            return self._evaluate(order, data)
        return self._multiply(order, data) if order.plan.instructions.get(INSTRUCTION) else self._train(order, data)

    def _kept_answer(self, order: Order) -> Answer | None:
        """Return the answer to a training that was already submitted for this slot."""
        if order.kind != "train":
            return None
        kept = self._store.slot_answer(_slot(order))
        return kept if kept is not None and kept.nonce == order.nonce else None

    def _review(self, order: Order) -> None:
        study = self.setting.study
        if order.site != self.setting.site:
            raise RefusedError(f"the order is for {order.site}, this is {self.setting.site}")
        if order.plan.study != study.study or order.plan.study_digest != study.digest:
            raise RefusedError(f"the order is for another study or another version of {study.study}")
        if order.site not in order.plan.roster:
            raise RefusedError(f"{order.site} is not on the roster of round {order.plan.round}")

    def _open_data(self) -> SiteData:
        if self._data is None:
            self._data = open_site_data(self.setting.study, self.setting.source, self.setting.state_folder)
        return self._data

    def _load(self, order: Order) -> LightningModule:
        """Return the module with the order's weights, and with the site's personal entries over them."""
        module = self._module()
        weights = self._store.get(order.weights_digest)
        if _personal(order, module):
            before = order.plan.round + (order.kind == "evaluate")
            weights = {**weights, **load_personal(self.setting.state_folder, order.plan.training, before)}
        load_entries(module, weights)
        return module

    def _train(self, order: Order, data: SiteData) -> Answer:
        started = time.perf_counter()
        module = self._load(order)
        fetched = time.perf_counter()
        # Once more, and not with ever smaller parts: BatchNorm over a few items is another network.
        most_parts = min(2, self.setting.study.local.batch_size)
        result, parts = fit_in_memory(partial(self._fit, order, data), most_parts=most_parts)
        seconds = {"fetch": fetched - started, "train": time.perf_counter() - fetched}
        failpoint("site.trained")
        weights = self._keep_personal(order, module, result)
        self._require_sound(order, module, weights)
        return self._submit(order, data, replace(result, weights=weights), seconds, parts)

    def _multiply(self, order: Order, data: SiteData) -> Answer:
        """Tell products of the rows; no network has a part in it."""
        records = self.setting.study.data.records
        if records is None or records.wide is None or records.wide.components is None:
            raise RefusedError(f"the study {self.setting.study.study} has no principal components")
        weights = self._store.get(order.weights_digest)
        result = multiply_site(weights, data, records, number=order.plan.round)
        failpoint("site.multiplied")
        return self._submit(order, data, result, {"multiply": result.seconds}, parts=1)

    def _submit(
        self, order: Order, data: SiteData, result: SiteResult, seconds: Mapping[str, float], parts: int
    ) -> Answer:
        """Put what came out of an order into its slot."""
        begun = time.perf_counter()
        written = self._store.put_update(_slot(order), result.weights)
        answer = Answer(
            kind="train",
            site=order.site,
            round=order.plan.round,
            nonce=order.nonce,
            status="done",
            update=UpdateManifest(
                weights_digest=written.weights_digest,
                file_sha256=written.sha256,
                bytes=written.bytes,
                weight=float(result.samples),
                steps=result.steps,
                loss_sum=result.loss_sum,
            ),
            items=data.counts,
            seconds={**seconds, "submit": time.perf_counter() - begun},
            details=self._about_parts(order, parts),
        )
        self._store.submit(_slot(order), answer)
        failpoint("site.submitted")
        return answer

    def _fit(self, order: Order, data: SiteData, parts: int) -> SiteResult:
        """Train from the order's weights, with each batch in so many parts."""
        module = self._module() if parts == 1 else self._load(order)  # an attempt before this one changed them
        training, local = replace(self._training_order(order), parts=parts), self.setting.study.local
        records = self.setting.study.data.records
        smallest_cell = records.smallest_cell if records is not None else 1
        if is_grown(self.setting.study):
            return boost_site(module, data, smallest_cell=smallest_cell, seed=training.seed)
        if local.method == "newton":
            return newton_site(
                module,
                data,
                ridge=local.optimizer.weight_decay,
                lasso=local.lasso,
                seed=training.seed,
                smallest_cell=smallest_cell,
            )
        if self.setting.study.task.survival is not None:
            measure_baseline(module, data, smallest_cell)
            if self.setting.study.task.survival.needs_whole_site:
                training = replace(training, batch_size=max(1, data.size("train")))
        return train_site(module, data, training, tell=self._telling(order))

    def _telling(self, order: Order) -> Tell | None:
        """Return what is told how far the training of an order is."""
        if self._tell is None:
            return None
        return partial(_pass_on, self._tell, order)

    def _about_parts(self, order: Order, parts: int) -> dict[str, int]:
        """Return what the answer says of batches that did not fit into the GPU's memory."""
        if parts == 1:
            return {}
        self._journal.append("out_of_memory", **_about(order), kind=order.kind, batch_parts=parts)
        return {"batch_parts": parts}

    def _training_order(self, order: Order) -> TrainingOrder:
        study = self.setting.study
        return TrainingOrder(
            epochs=study.local.epochs,
            steps=study.local.steps,
            batch_size=study.local.batch_size,
            balanced=study.task.imbalance == "balanced_sampling",
            precision=study.local.precision,
            device=study.local.device,
            seed=derive_seed(study.seed, "train", order.site, order.plan.round),
            proximal_weight=float(order.plan.instructions.get("proximal_weight", 0.0)),
        )

    def _require_sound(self, order: Order, module: LightningModule, weights: Weights) -> None:
        """Refuse to submit what no coordinator would take, before anything of it leaves.

        Raises:
            RefusedError: If a value is not finite, or the trained entries changed more than the study allows.
        """
        verify_finite(weights)
        most = self.setting.study.rounds.max_change
        if most is None:
            return
        trained = {name: weights[name] for name in exchanged_entries(module).parameters if name in weights}
        norm = change_norm(trained, self._store.get(order.weights_digest))
        if norm > most:
            raise RefusedError(f"training changed the weights by a norm of {norm:.6g}; the study allows {most:g}")

    def _keep_personal(self, order: Order, module: LightningModule, result: SiteResult) -> Weights:
        """Set aside what stays at the site; return what may be submitted."""
        mine = _personal(order, module)
        if not mine:
            return result.weights
        personal = {name: tensor for name, tensor in result.weights.items() if name in mine}
        rule = self.setting.study.rounds.convergence
        keep = rule.patience + 2 if rule else None
        save_personal(self.setting.state_folder, order.plan.training, order.plan.round, personal, keep=keep)
        return {name: tensor for name, tensor in result.weights.items() if name not in mine}

    def _evaluate(self, order: Order, data: SiteData) -> Answer:
        study = self.setting.study
        started = time.perf_counter()
        module = self._load(order)
        common: dict[str, Any] = {
            "bins": study.evaluate.bins,
            "device": study.local.device,
            "masks": _masks_of(study),
            "smallest_cell": study.data.records.smallest_cell if study.data.records else 1,
        }
        score = partial(evaluate_site, module, data, order.split, threshold=study.task.threshold, **common)
        if study.task.survival is not None:
            score = partial(evaluate_survival, module, data, order.split, task=study.task.survival, **common)
        sums, parts = fit_in_memory(lambda parts: score(batch_size=BATCH_SIZE // parts), most_parts=BATCH_SIZE)
        sums = _fit_to_be_told(study, sums)
        return Answer(
            kind="evaluate",
            site=order.site,
            round=order.plan.round,
            nonce=order.nonce,
            status="done",
            sums=sums,
            items=data.counts,
            seconds={"evaluate": time.perf_counter() - started},
            details=self._about_parts(order, parts),
        )

    def _negative(self, order: Order, status: str, stage: str, reason: str) -> Answer:
        counts = self._data.counts if self._data is not None else None
        return Answer.model_validate(
            {
                "kind": order.kind,
                "site": order.site,
                "round": order.plan.round,
                "nonce": order.nonce,
                "status": status,
                "stage": stage,
                "reason": reason[:2000],
                "items": counts,
            }
        )


def _masks_of(study: Study) -> Callable[[Tensor], Mapping[str, Booleans]] | None:
    """Return what says which rows are in which subgroup; None where the study asks for none."""
    records, subgroups = study.data.records, study.evaluate.subgroups
    return partial(group_masks, records, subgroups) if records is not None and subgroups else None


def _fit_to_be_told(study: Study, sums: ScoreSums) -> ScoreSums:
    """Leave out the subgroups that too few items stand behind."""
    records = study.data.records
    if records is None or not sums.groups:
        return sums
    told: dict[str, ScoreSums] = {}
    for names in group_names(records, study.evaluate.subgroups):
        groups = {name: sums.groups[name] for name in names}
        told |= {name: groups[name] for name in may_be_told(sums, groups, records.smallest_cell)}
    return sums.model_copy(update={"groups": told})


def _personal(order: Order, module: LightningModule) -> tuple[str, ...]:
    """Return the entries that the strategy leaves at the site."""
    kind = str(order.plan.instructions.get("personal", "none"))
    return () if kind == "none" else exchanged_entries(module).personal(kind)


def _slot(order: Order) -> Slot:
    """Return the write-once place of an order's update."""
    return Slot(training=order.plan.training, round=order.plan.round, attempt=order.plan.attempt, site=order.site)


def _pass_on(tell: Callable[[Progress], None], order: Order, found: Pace) -> None:
    """Say whose training is how far."""
    plan = order.plan
    tell(Progress(site=order.site, training=plan.training, round=plan.round, **asdict(found)))


def _about(order: Order) -> dict[str, str | int]:
    """Return what the journal keeps of an order."""
    return {
        "training": order.plan.training,
        "round": order.plan.round,
        "attempt": order.plan.attempt,
        "weights_digest": order.weights_digest,
        "nonce": order.nonce,
    }
