from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.data.npz import array_reasons, decode_arrays, read_arrays, read_column
from components.errors import DataError
from components.study import Study, Task

TASK = Task(classes=["normal", "sick"])


def arrays(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(1)
    content = {
        f"{part}_{what}": value
        for part, rows in (("train", 6), ("val", 2), ("test", 3))
        for what, value in (
            ("images", random.integers(0, 255, (rows, 8, 8), dtype=np.uint8)),
            ("labels", random.integers(0, 2, (rows, 1), dtype=np.uint8)),
        )
    }
    content.update(changes)
    return {name: value for name, value in content.items() if value is not None}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        np.savez_compressed(tmp_path / "a.npz", **arrays(**changes))
        return tmp_path / "a.npz"

    return write


def test_parts_are_read_one_after_the_other(save: Callable[..., Path]) -> None:
    read = read_arrays(save())
    assert read.splits == ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
    assert read.names[6] == "val_images[0]"
    assert len(set(read.patients)) == 11
    assert read.labels.shape == (11, 1)


def test_patients_come_from_the_file_if_it_names_them(save: Callable[..., Path]) -> None:
    path = save(train_source=np.array(list("aabbcc")), test_source=np.array(list("def")))
    assert read_arrays(path).patients == [*"aabbcc", "val_images[0]", "val_images[1]", *"def"]


def test_a_column_is_read_over_all_parts(save: Callable[..., Path]) -> None:
    path = save(train_ward=np.arange(6), val_ward=np.arange(2), test_ward=np.arange(3))
    assert read_column(path, "ward") == [*"012345", *"01", *"012"]


def test_chosen_rows_are_decoded_without_monai(save: Callable[..., Path], make_study: Callable[..., Study]) -> None:
    path = save()
    cached = decode_arrays(path, [0, 7], make_study(spatial_size=[8, 8]).data)
    with np.load(path) as file:
        expected = np.stack([file["train_images"][0], file["val_images"][1]]).astype(np.float32)
    low, high = expected.min((1, 2), keepdims=True), expected.max((1, 2), keepdims=True)
    torch.testing.assert_close(cached.images[:, 0], torch.from_numpy((expected - low) / (high - low)))


@pytest.mark.parametrize(
    ("shape", "size", "channels", "expected"),
    [
        ((8, 8, 3), [8, 8], 3, (1, 3, 8, 8)), ((8, 8, 3), [4, 4], 1, (1, 1, 4, 4)), ((8, 8), [8, 8], 3, (1, 3, 8, 8)),
        ((8, 9, 7), [6, 6, 6], 1, (1, 1, 6, 6, 6)), ((8, 9, 7, 1), [8, 9, 7], 1, (1, 1, 8, 9, 7)),
    ],
)  # fmt: skip
def test_grey_colour_and_volumes(
    save: Callable[..., Path], make_study: Callable[..., Study], shape: Any, size: Any, channels: int, expected: Any
) -> None:
    images = {f"{part}_images": np.random.default_rng(1).random((n, *shape)) for part, n in (("train", 6), ("val", 2))}
    path = save(**images, test_images=None, test_labels=None)
    data = make_study(spatial_size=size, channels=channels).data
    assert decode_arrays(path, [0], data).images.shape == expected


def test_pixels_that_are_not_finite_are_set_aside(save: Callable[..., Path], make_study: Callable[..., Study]) -> None:
    images = np.random.default_rng(1).random((6, 8, 8))
    images[1, 2, 3], images[4, 0, 0] = np.nan, np.inf
    path = save(train_images=images, **{f"{p}_{w}": None for p in ("val", "test") for w in ("images", "labels")})
    cached = decode_arrays(path, [0, 1, 4, 5], make_study().data)
    assert cached.reasons == {1: "pixel values that are not finite", 2: "pixel values that are not finite"}
    assert torch.equal(cached.images[1], decode_arrays(path, [5], make_study().data).images[0])


def test_labels_that_cannot_be_used_have_their_reason(save: Callable[..., Path]) -> None:
    read = read_arrays(save(train_labels=np.array([0, 1, 2, np.nan, -1, 0.5])[:, None]))
    assert array_reasons(read, range(6), TASK) == {
        2: "label is none of the study's classes",
        3: "missing label",
        4: "label is none of the study's classes",
        5: "label is none of the study's classes",
    }


def test_several_classes_need_one_column_each(save: Callable[..., Path]) -> None:
    several = Task(kind="multilabel", classes=["a", "b", "c"])
    labels = {"train_labels": np.eye(6, 3), "val_labels": np.ones((2, 3)), "test_labels": np.array([[2, 0, 0]] * 3)}
    assert set(array_reasons(read_arrays(save(**labels)), range(11), several)) == {8, 9, 10}
    with pytest.raises(DataError, match="multilabel task needs a 0 or 1 for each of its 3"):
        array_reasons(read_arrays(save()), range(2), several)
    with pytest.raises(DataError, match="one label per row"):
        array_reasons(read_arrays(save(**labels)), range(2), TASK)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_labels": None}, "no array train_labels; MedMNIST's keys"),
        ({"train_images": None}, "lacks images"),
        ({"train_labels": np.array([{}] * 6, dtype=object)}, "none are unpickled"),
        ({"train_labels": np.array(list("abcdef"))}, "labels must be numbers"),
        ({"val_labels": np.zeros((2, 3))}, "different shapes"),
        ({"val_images": np.zeros((2, 9, 9))}, "all of one shape"),
        ({"train_images": np.zeros((5, 8, 8))}, "10 images, but 11 labels"),
        ({"train_images": np.array(["x"] * 6)}, "must be numbers"),
        (
            {f"{part}_images": np.zeros((n, 8, 8, 2)) for part, n in (("train", 6), ("val", 2), ("test", 3))},
            "do not fit",
        ),
        ({f"{part}_images": np.zeros((n, 0, 8)) for part, n in (("train", 6), ("val", 2), ("test", 3))}, "no pixels"),
        ({"train_source": np.arange(4)}, "one entry for each"),
    ],
)
def test_an_npz_that_is_not_as_expected_is_refused(
    save: Callable[..., Path], make_study: Callable[..., Study], changes: dict[str, Any], says: str
) -> None:
    path = save(**changes)
    with pytest.raises(DataError, match=says):
        decode_arrays(path, range(len(read_arrays(path).names)), make_study().data)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz is damaged, or not an npz"):
        read_arrays(tmp_path / "a.npz")


def test_a_single_array_or_nothing_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="not an npz file"):
        read_arrays(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"correct data.path"):
        read_arrays(tmp_path / "b.npz")


def test_a_damaged_member_is_refused(save: Callable[..., Path]) -> None:
    path = save()
    content = bytearray(path.read_bytes())
    place = content.index(b"train_labels.npy") + 40
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz is damaged"):
        read_arrays(path)
