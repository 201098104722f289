"""What a hospital checks of a request before anything of its data is read."""

from __future__ import annotations

from pathlib import Path

from components.analytics.plan import AnalysisStudy
from components.errors import RefusedError, SeenRoundError
from components.exchange.questions import QuestionCall, QuestionRequest, verify_question
from components.exchange.signed import require_newer, verify_order, verify_plan
from components.exchange.site_request import Call, SiteRequest, verify_call
from components.governance.acceptances import Acceptance, Acceptances
from components.governance.architecture import architecture_digest
from components.governance.hospital_settings import (
    HospitalSettings,
    Policy,
    read_settings,
    review_analysis,
    review_roster,
    review_study,
)
from components.governance.pins import Federation
from components.journal import Journal
from components.rounds import Order, RoundPlan
from components.study import Study


class Review:
    """The checks of one hospital.

    Args:
        folder: The hospital's folder, whose policy is read anew each time.
        journal: Its journal: what was approved and accepted is written there before it is acted on.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder, self._journal = folder, journal
        self._acceptances = Acceptances(folder)
        self._plans: dict[str, RoundPlan | None] = {}

    def call(self, request: SiteRequest, pinned: Federation) -> Call:
        """Return what a request to prepare asks for.

        Raises:
            NoDataError: If the hospital names no data for the study, whatever its policy says.
            RefusedError: If the coordinator did not sign it, or the policy does not allow the study.
        """
        call = verify_call(request, pinned.coordinator.keys.signing, federation=pinned.federation)
        review_study(self._with_data(request.study.study, call.site).policy, request.study)
        return call

    def question(self, request: QuestionRequest, pinned: Federation) -> QuestionCall:
        """Return the question of a request.

        Raises:
            NoDataError: If the hospital names no data for the study, whatever its policy says.
            RefusedError: If the coordinator did not sign it, the administrator has not accepted the analysis, or the
                policy does not allow it or its sites.
        """
        call = verify_question(request, pinned.coordinator.keys.signing, federation=pinned.federation)
        study = request.study
        policy = self._with_data(study.study, call.site).policy
        accepted = self._acceptances.analysis(study.study, study.digest)
        review_analysis(policy, study, accepted=accepted is not None)
        review_roster(policy, call.roster)
        self._note_analysis(study, accepted)
        return call

    def order(self, request: SiteRequest, pinned: Federation) -> Order:
        """Return the order of a request, and accept its plan.

        Raises:
            RefusedError: If the coordinator did not sign order or plan, the policy does not allow study or
                roster, or the architecture is not the approved one.
            SeenRoundError: If the round is older than the last one, and the administrator has not accepted that.
        """
        assert request.plan is not None  # the request's own check
        policy = self._policy()
        review_study(policy, request.study)
        plan = verify_plan(
            request.plan,
            pinned.coordinator.keys.signing,
            federation=pinned.federation,
            study_digest=request.study.digest,
            architectures=[self._approved_architecture(request.study)],
            sealing_key=pinned.coordinator.keys.sealing,
        )
        order = verify_order(request.call, pinned.coordinator.keys.signing, plan=plan, site=pinned.site)
        if (order.kind, order.plan.training) != (request.kind, request.training):
            raise RefusedError("the order is of another kind or training than its request")
        if order.kind == "train":
            review_roster(policy, order.plan.roster)
            self._accept(order.plan)
        return order

    def _with_data(self, study: str, site: str) -> HospitalSettings:
        """Return the hospital's settings, which name data for a study; none of it is looked at."""
        settings = read_settings(self._folder)
        settings.source_of(study, site)
        return settings

    def _policy(self) -> Policy:
        return read_settings(self._folder).policy

    def _approved_architecture(self, study: Study) -> str:
        """Return the architecture this hospital approved for a study: the first it was shown under that name."""
        digest = architecture_digest(study)
        first = self._journal.last("architecture_approved", study=study.study)
        if first is None:
            self._journal.append("architecture_approved", study=study.study, architecture=digest)
            return digest
        return str(first.data["architecture"])

    def _note_analysis(self, study: AnalysisStudy, accepted: Acceptance | None) -> None:
        """Write once into the journal that a study's questions are answered, and who accepted that."""
        if self._journal.last("analysis_allowed", study=study.study, digest=study.digest) is None:
            given = accepted.model_dump() if accepted is not None else {}
            self._journal.append("analysis_allowed", study=study.study, digest=study.digest, **given)

    def _accept(self, plan: RoundPlan) -> None:
        """Take a plan that is newer than the last one of its training, or that very one."""
        if plan.training not in self._plans:
            last = self._journal.last("plan_accepted", training=plan.training)
            self._plans[plan.training] = RoundPlan.model_validate(last.data["plan"]) if last else None
        known = self._plans[plan.training]
        try:
            require_newer(plan, known)
        except SeenRoundError:
            accepted = self._acceptances.take(plan.training)
            if known is None or accepted is None:
                raise
            given = {"reason": accepted.reason, "by": accepted.by, "given": accepted.given}
            self._journal.append(
                "older_plan_allowed", training=plan.training, round=plan.round, seen=known.round, **given
            )
        if plan != known:
            self._journal.append("plan_accepted", training=plan.training, plan=plan.model_dump())
            self._plans[plan.training] = plan
