"""Real NIfTI files from nibabel, and volumes written here."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from components.data.nifti import read_nifti
from components.data.quarantine import UnusableItemError
from components.data.transforms import orient

REAL = Path(nibabel.__file__).parent / "tests/data"


def write(path: Path, pixels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine), path)
    return path


def test_a_real_volume_keeps_its_values_and_its_place() -> None:
    path = REAL / "reoriented_anat_moved.nii"
    picture = read_nifti(path)
    image = nibabel.load(path)
    np.testing.assert_array_equal(picture.pixels[0], image.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(picture.affine, image.affine)


def test_a_real_time_series_is_refused() -> None:
    with pytest.raises(UnusableItemError, match="4 dimensions"):
        read_nifti(REAL / "functional.nii")


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR", "PIL", "ALI"])
def test_one_scan_is_the_same_array_however_its_axes_were_stored(tmp_path: Path, codes: str) -> None:
    volume = np.random.default_rng(1).integers(0, 99, (5, 6, 7)).astype(np.int16)
    stored = nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(stored.as_reoriented(change), tmp_path / "a.nii.gz")
    picture = read_nifti(tmp_path / "a.nii.gz")
    assert picture.affine is not None
    # right, anterior, superior -> rows to posterior, columns to left, slices to superior
    expected = volume[::-1, ::-1, :].transpose(1, 0, 2)
    np.testing.assert_array_equal(orient(picture.pixels, picture.affine)[0], expected)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.frombuffer((tmp_path / "a.nii").read_bytes()[352:], dtype=np.int16).reshape(2, 3, 4, order="F")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").pixels[0], 0.5 * stored - 3)


@pytest.mark.parametrize(
    ("shape", "affine", "expected"),
    [
        ((3, 4), np.diag([-1.0, -1, 1, 1]), lambda x: x.T),  # columns to the left, rows to posterior: as viewed
        ((3, 4, 1), np.eye(4), lambda x: x.T[::-1, ::-1]),  # axial, columns to the right and rows to anterior
        ((3, 1, 4), np.eye(4), lambda x: x.T[::-1, ::-1]),  # coronal: left on the right, superior on top
        ((1, 3, 4), np.eye(4), lambda x: x.T[::-1, ::-1]),  # sagittal: posterior on the right, superior on top
    ],
)
def test_a_single_slice_is_the_image_a_viewer_shows(
    tmp_path: Path, shape: tuple, affine: np.ndarray, expected: Any
) -> None:
    pixels = np.arange(12, dtype=np.int16)
    picture = read_nifti(write(tmp_path / "a.nii", pixels.reshape(shape), affine))
    assert picture.affine is None
    np.testing.assert_array_equal(picture.pixels[0], expected(pixels.reshape(3, 4)))


def test_colours_and_complex_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableItemError, match="colours or complex"):
        read_nifti(write(tmp_path / "a.nii", np.zeros((2, 3, 4), dtype=np.complex64)))
    colours = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnusableItemError, match="colours or complex"):
        read_nifti(write(tmp_path / "b.nii", colours))


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", np.zeros((2, 3, 4), dtype=np.int16))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(UnusableItemError, match="too many voxels"):
        read_nifti(path)
