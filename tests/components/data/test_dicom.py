"""Real DICOM files from pydicom, and objects written here."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from components.data.dicom import read_dicom
from components.data.quarantine import UnusableItemError
from components.data.transforms import orient


def real(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def write(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Write one CT object of 12 bits; elements override or add."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "CT"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, volume: np.ndarray, heights: list[float]) -> list[Path]:
    """Write an axial series; `volume` is [slices, rows, columns]."""
    return [
        write(
            folder / f"{number}.dcm", pixels, PixelSpacing=[0.5, 0.8], InstanceNumber=number + 1,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[-10, -20, height],
        )
        for number, (pixels, height) in enumerate(zip(volume, heights, strict=True))
    ]  # fmt: skip


VOLUME = np.arange(4 * 5 * 6).reshape(4, 5, 6)


def test_a_real_ct_slice_is_in_hounsfield_units() -> None:
    path = real("CT_small.dcm")
    dataset = pydicom.dcmread(path)
    expected = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    picture = read_dicom([path], modality=["CT"])
    assert picture.pixels.shape == (1, 128, 128)
    assert float(picture.pixels.min()) < -800  # air
    np.testing.assert_array_equal(picture.pixels[0], expected)


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
)
def test_the_same_scan_is_read_alike_from_every_transfer_syntax(name: str) -> None:
    np.testing.assert_array_equal(read_dicom([real(name)]).pixels, read_dicom([real("MR_small.dcm")]).pixels)


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "examples_palette.dcm", "SC_rgb_small_odd.dcm"])
def test_colour_and_palettes_become_rgb(name: str) -> None:
    picture = read_dicom([real(name)])
    assert picture.pixels.shape[0] == 3
    assert picture.pixels.std() > 0


def test_several_colour_frames_become_a_stack() -> None:
    assert read_dicom([real("SC_rgb_rle_2frame.dcm")]).pixels.shape == (3, 100, 100, 2)


def test_a_real_dose_grid_of_many_frames_is_a_volume() -> None:
    dataset = pydicom.dcmread(real("rtdose.dcm"))
    picture = read_dicom([real("rtdose.dcm")])
    assert picture.pixels.shape == (1, 10, 10, 15)
    np.testing.assert_array_equal(picture.pixels[0], dataset.pixel_array.transpose(1, 2, 0))


def test_monochrome1_is_inverted_before_the_rescale_slope(tmp_path: Path) -> None:
    pixels = np.array([[0, 4095], [1000, 95]])
    path = write(
        tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", RescaleSlope="0.5", RescaleIntercept="-10"
    )
    np.testing.assert_array_equal(read_dicom([path]).pixels[0], 0.5 * (4095 - pixels) - 10)


def test_signed_monochrome1_stays_within_its_range(tmp_path: Path) -> None:
    pixels = np.array([[-2048, 2047], [0, -1]])
    path = write(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1)
    np.testing.assert_array_equal(read_dicom([path]).pixels[0], [[2047, -2048], [-1, 0]])


def test_a_series_is_sorted_by_place_whatever_the_files_are_called(tmp_path: Path) -> None:
    paths = write_series(tmp_path, VOLUME, [30.0, 10.0, 40.0, 20.0])
    picture = read_dicom(paths[::-1])
    np.testing.assert_array_equal(picture.pixels[0], VOLUME[[1, 3, 0, 2]].transpose(1, 2, 0))
    assert picture.affine is not None
    np.testing.assert_allclose(picture.affine @ [0, 0, 0, 1], [10, 20, 10, 1])  # millimetres right, anterior, superior
    np.testing.assert_allclose(picture.affine @ [1, 1, 1, 1], [10 - 0.8, 20 - 0.5, 20, 1])


def test_an_axial_series_is_already_oriented(tmp_path: Path) -> None:
    picture = read_dicom(write_series(tmp_path, VOLUME, [0, 1, 2, 3]))
    assert picture.affine is not None
    np.testing.assert_array_equal(orient(picture.pixels, picture.affine), picture.pixels)


def test_an_enhanced_object_is_sorted_and_rescaled_by_its_frames(tmp_path: Path) -> None:
    frames, shared = [], Dataset()
    for height, slope in ((2.0, "1"), (0.0, "2"), (1.0, "3"), (3.0, "4")):
        frame, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, height]
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, "5", "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [value]
        frames.append(frame)
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    path = write(
        tmp_path / "a.dcm",
        VOLUME,
        PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=[shared],
    )
    expected = np.stack([2 * VOLUME[1], 3 * VOLUME[2], VOLUME[0], 4 * VOLUME[3]]) + 5
    np.testing.assert_array_equal(read_dicom([path]).pixels[0], expected.transpose(1, 2, 0))


def test_slices_without_a_place_go_by_their_numbers(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.dcm", VOLUME[n], InstanceNumber=9 - n) for n in range(3)]
    np.testing.assert_array_equal(read_dicom(paths).pixels[0], VOLUME[[2, 1, 0]].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("heights", "reason"),
    [([0, 1, 1, 2], "two slices at one place"), ([0, 1, 3, 4], "a slice is missing")],
)
def test_a_series_that_is_not_whole_is_refused(tmp_path: Path, heights: list[float], reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        read_dicom(write_series(tmp_path, VOLUME, heights))


def test_slices_of_two_series_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.dcm", VOLUME[n], SeriesInstanceUID=f"1.{n + 1}") for n in range(2)]
    with pytest.raises(UnusableItemError, match="several series"):
        read_dicom(paths)


def test_slices_of_two_sizes_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / "0.dcm", VOLUME[0]), write(tmp_path / "1.dcm", VOLUME[0, :3])]
    with pytest.raises(UnusableItemError, match="different sizes"):
        read_dicom(paths)


@pytest.mark.parametrize(
    ("name", "modality", "reason"),
    [
        ("MR_small.dcm", ["CR", "DX"], "modality MR instead of CR or DX"),
        ("test-SR.dcm", ["CR"], "modality SR instead of CR"),
        ("test-SR.dcm", [], r"without pixels \(modality SR\)"),
        ("rtplan.dcm", [], r"without pixels \(modality RTPLAN\)"),
    ],
)
def test_what_is_no_image_of_the_study_is_refused(name: str, modality: list[str], reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        read_dicom([real(name)], modality=modality)


def test_a_modality_that_is_free_text_is_not_repeated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", VOLUME[0], Modality="DOE JOHN")
    with pytest.raises(UnusableItemError) as caught:
        read_dicom([path], modality=["CT"])
    assert "DOE" not in caught.value.reason
