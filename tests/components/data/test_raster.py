from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.raster import read_raster

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_grey_png_keeps_its_rows_and_columns(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    pixels = read_raster(tmp_path / "a.png").pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, GREY[None])


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    values = GREY.astype(np.uint16) * 200
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png").pixels[0], values)


def test_colour_has_its_channels_first_and_loses_its_alpha(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY + 1, GREY + 2, np.full_like(GREY, 9)], axis=-1)
    Image.fromarray(colour, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png").pixels, colour[..., :3].transpose(2, 0, 1))


def test_palettes_become_colours_and_bits_become_grey(tmp_path: Path) -> None:
    Image.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    assert read_raster(tmp_path / "p.png").pixels.shape == (3, 3, 4)
    Image.fromarray(GREY > 100).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "1.png").pixels[0], 255 * (GREY > 100))


def test_a_turned_jpeg_is_set_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: the camera's top is the picture's right
    Image.new("L", (32, 16), 128).save(tmp_path / "a.jpg", exif=exif)
    assert read_raster(tmp_path / "a.jpg").pixels.shape == (1, 32, 16)


def test_another_format_under_this_name_is_not_opened(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(Exception, match="cannot identify"):
        read_raster(tmp_path / "a.png")
