import pytest

from components.dispatch import Preparation
from components.errors import DataError
from flows.readiness import reasons_text, require_metric, require_quorum
from tests.references.tiny_study import tiny_study


def ready(site: str, *validation: int) -> Preparation:
    return Preparation(site=site, ready=True, class_counts={"validation": list(validation)})


def unready(site: str, reason: str) -> Preparation:
    return Preparation(site=site, ready=False, reason=reason)


def test_a_quorum_that_is_ready_passes() -> None:
    require_quorum(tiny_study(rounds={"quorum": 2}), {"a": ready("a"), "b": ready("b"), "c": unready("c", "away")})


def test_too_few_ready_sites_are_named_each_reason_once() -> None:
    found = {"a": unready("a", "site a: no items"), "b": unready("b", "site b: no items"), "c": ready("c")}
    with pytest.raises(DataError, match=r"1 of 3 sites are ready, a round needs 2\. a, b: no items\. Mend"):
        require_quorum(tiny_study(rounds={"quorum": 2}), found)
    with pytest.raises(DataError, match=r"no items\. Looked for a\.csv: not in /data\. Mend"):
        require_quorum(tiny_study(rounds={"quorum": 2}), found, "a.csv: not in /data")


def test_classes_may_be_spread_over_the_sites() -> None:
    require_metric(tiny_study(), {"a": ready("a", 3, 0), "b": ready("b", 0, 1), "c": unready("c", "away")})


@pytest.mark.parametrize("counts", [(5, 0), (0, 5), (0, 0)])
def test_a_metric_without_its_items_is_refused_before_anything_is_trained(counts: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=rf"auroc cannot be watched: .* {counts[0]} of normal, {counts[1]} of ill"):
        require_metric(tiny_study(), {"a": ready("a", *counts)})


def test_a_metric_that_needs_no_second_class_may_be_watched() -> None:
    watched = {"convergence": {"metric": "accuracy", "mode": "max", "patience": 3, "min_delta": 0.0}}
    require_metric(tiny_study(rounds=watched), {"a": ready("a", 5, 0)})


def test_a_class_nobody_has_is_named() -> None:
    study = tiny_study(task={"kind": "multiclass", "classes": ["normal", "ill", "worse"]})
    with pytest.raises(DataError, match=r"class worse: .*0 of worse"):
        require_metric(study, {"a": ready("a", 4, 4, 0)})


def test_a_label_that_no_item_has_is_named_where_an_item_may_have_several() -> None:
    study = tiny_study(task={"kind": "multilabel", "classes": ["nodule", "effusion"]})
    require_metric(study, {"a": ready("a", 4, 2)})
    with pytest.raises(DataError, match="class effusion"):
        require_metric(study, {"a": ready("a", 4, 0)})


def test_reasons_keep_what_differs() -> None:
    assert reasons_text({"b": "b refused it", "a": "late"}) == "a: late; b: refused it"
