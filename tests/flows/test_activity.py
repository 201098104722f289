"""What a hospital says it does, and how it is shown."""

from components.dispatch import Progress
from components.gateway.records import Activity
from flows.activity import TOLD, Activities, describe_activity


def progress(training: str = "t1", **changes: object) -> Progress:
    told = {"round": 3, "epoch": 2, "epochs": 5, "share": 0.43, "left_s": 312.0, **changes}
    return Progress.model_validate({"site": "north", "training": training, **told})


def test_a_training_is_told_with_how_far_it_is() -> None:
    activities = Activities()
    with activities.piece("train", "t1") as piece:
        piece.begin()
        activities.progressed(progress())
        told = activities.now()
        assert (told.state, told.training, told.round, told.epoch, told.epochs) == ("train", "t1", 3, 2, 5)
        assert (told.share, told.left_s, told.beside, told.waiting) == (0.43, 312.0, [], 0)
        assert describe_activity(told.model_dump()) == "training, 43 % of epoch 2 of 5, 312 s left"
    assert activities.now() == Activity(state="idle")


def test_progress_belongs_to_the_training_that_makes_it() -> None:
    activities = Activities()
    with activities.piece("train", "t1") as one, activities.piece("train", "t2") as other:
        one.begin()
        activities.progressed(progress("t2"))  # it waits: that is of the attempt before
        other.begin()
        activities.progressed(progress("t1", share=0.1))
        activities.progressed(progress("t3", share=0.9))
        assert [(doing.training, doing.share) for doing in (activities.now(), *activities.now().beside)] == [
            ("t1", 0.1), ("t2", None),
        ]  # fmt: skip


def test_what_waits_is_counted_and_a_training_comes_first() -> None:
    activities = Activities()
    with (
        activities.piece("evaluate", "t1") as first,
        activities.piece("train", "t2") as second,
        activities.piece("prepare", "t3"),
    ):
        first.begin()
        assert (activities.now().state, activities.now().waiting) == ("evaluate", 2)
        second.begin()
        assert describe_activity(activities.now().model_dump()) == "training; evaluating; 1 waiting"
        first.wait()
        assert describe_activity(activities.now().model_dump()) == "training; 2 waiting"


def test_a_site_with_much_to_do_still_says_a_bounded_record() -> None:
    activities, kept = Activities(), []
    for number in range(2 * TOLD):
        kept.append(activities.piece("train", f"t{number}"))
        kept[-1].__enter__().begin()
    told = activities.now()
    assert len(told.beside) == TOLD - 1
    assert len(Activity.model_validate_json(told.model_dump_json()).model_dump_json()) < 8 << 10


def test_what_another_version_says_is_shown_as_far_as_it_is_known() -> None:
    assert describe_activity({"state": "compressing", "speed": 3}) == "compressing"
    assert describe_activity(None) == ""
    assert describe_activity({}) == "idle"
