import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from components.data.decode import decode, preprocess_files
from components.data.quarantine import DAMAGED, UnusableItemError
from components.errors import DataError
from components.study import Study


def real(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def test_the_format_is_told_by_the_content(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    data = make_study().data
    shutil.copy(real("CT_small.dcm"), tmp_path / "IM0001")
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "film")
    nibabel.save(nibabel.Nifti1Image(np.eye(9, dtype=np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    files = [tmp_path / "IM0001", tmp_path / "film", tmp_path / "b.nii.gz"]
    assert preprocess_files(data, files).shape == (3, 1, 16, 16)


def test_one_volume_is_the_same_from_nifti_and_from_a_dicom_series(
    tmp_path: Path, make_study: Callable[..., Study], write_series: Callable[..., None]
) -> None:
    volume = np.random.default_rng(2).integers(0, 4000, (6, 10, 8)).astype(np.int16)  # slices, rows, columns
    write_series(tmp_path / "series", volume)
    affine = np.diag([-0.8, -0.5, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / "a.nii.gz")
    data = make_study(spatial_size=[8, 8, 8]).data
    series, nifti = preprocess_files(data, [tmp_path / "series", tmp_path / "a.nii.gz"])
    torch.testing.assert_close(series, nifti)


def truncated(source: Path, target: Path) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def test_truncated_files_of_every_format_are_set_aside(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(random.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "a.jpg")
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(random.integers(0, 99, (64, 64)).astype(np.int16), np.eye(4)), tmp_path / name)
    whole = [tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "a.nii", tmp_path / "a.nii.gz"]
    for path in [*whole, real("CT_small.dcm"), real("MR_small_RLE.dcm")]:
        decode([path], make_study().data)
        with pytest.raises(UnusableItemError, match="truncated, damaged") as caught:
            decode([truncated(path, tmp_path / f"half_{path.name}")], make_study().data)
        assert caught.value.reason == DAMAGED


def test_pydicoms_own_truncated_file_is_set_aside(make_study: Callable[..., Study]) -> None:
    with pytest.raises(UnusableItemError, match="truncated, damaged"):
        decode([real("MR_truncated.dcm")], make_study().data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"), (b"hello", "not a DICOM, NIfTI"), (b"\x1f\x8b\x00rest", "truncated, damaged"),
        (b"\x89PNG\r\n\x1a\nrest", "truncated, damaged"), (b"\0" * 128 + b"DICM" + b"\xff" * 500, "truncated"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_set_aside(
    tmp_path: Path, make_study: Callable[..., Study], content: bytes, reason: str
) -> None:
    (tmp_path / "film").write_bytes(content)
    with pytest.raises(UnusableItemError, match=reason):
        decode([tmp_path / "film"], make_study().data)


def test_a_missing_file_is_named_as_such(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    with pytest.raises(UnusableItemError, match="file is missing"):
        decode([tmp_path / "a.png"], make_study().data)


def test_a_new_file_that_cannot_be_scored_is_named(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    with pytest.raises(DataError, match=r"test-SR.dcm: DICOM without pixels"):
        preprocess_files(make_study().data, [real("test-SR.dcm")])
    with pytest.raises(DataError, match="name at least one"):
        preprocess_files(make_study().data, [])
