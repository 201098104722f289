import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from components.data.cache import CachedImages, cache_file, load_images, store_images, sweep
from components.errors import StorageError


def stored(folder: Path) -> Path:
    path = cache_file(folder, "k")
    store_images(path, CachedImages(torch.arange(24.0).reshape(2, 1, 3, 4), {1: "empty file"}))
    return path


def test_images_and_reasons_come_back_as_they_were(tmp_path: Path) -> None:
    cached = load_images(stored(tmp_path / "cache"))
    assert cached is not None
    assert torch.equal(cached.images, torch.arange(24.0).reshape(2, 1, 3, 4))
    assert cached.reasons == {1: "empty file"}


def test_no_images_at_all_can_be_kept(tmp_path: Path) -> None:
    store_images(tmp_path / "k.safetensors", CachedImages(torch.empty(0, 1, 3, 4), {0: "empty file"}))
    cached = load_images(tmp_path / "k.safetensors")
    assert cached is not None
    assert cached.images.shape == (0, 1, 3, 4)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "header", "foreign"])
def test_a_damaged_cache_is_not_used(tmp_path: Path, damage: str) -> None:
    path = stored(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-7]
    elif damage == "flipped":
        content[-3] ^= 1
    elif damage == "empty":
        content = bytearray()
    elif damage == "header":
        content[:8] = b"\xff" * 8
    else:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        del header["__metadata__"]
        text = json.dumps(header).encode()
        content = bytearray(len(text).to_bytes(8, "little") + text + content[8 + length :])
    path.write_bytes(content)
    assert load_images(path) is None


def test_a_missing_cache_is_none(tmp_path: Path) -> None:
    assert load_images(tmp_path / "k.safetensors") is None


WRITE_FOR_EVER = """
import sys, torch
from pathlib import Path
from components.data.cache import CachedImages, store_images
print("started", flush=True)
while True:
    store_images(Path(sys.argv[1]), CachedImages(torch.ones(64, 1, 64, 64), {}))
"""


def test_a_process_killed_while_writing_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    path = cache_file(tmp_path, "k")
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        limit = time.monotonic() + 60
        while not path.exists() and time.monotonic() < limit:
            time.sleep(0.001)
        process.kill()
    cached = load_images(path)
    assert cached is not None
    assert bool((cached.images == 1).all())
    sweep(tmp_path, {path})
    assert list(tmp_path.iterdir()) == [path]


def test_other_caches_are_swept_but_not_what_a_living_process_writes(tmp_path: Path) -> None:
    path = stored(tmp_path)
    old, writing = tmp_path / "old.safetensors", tmp_path / f".x.safetensors.{os.getpid()}"
    old.touch()
    writing.touch()
    sweep(tmp_path, {path})
    assert sorted(tmp_path.iterdir()) == sorted([path, writing])


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(StorageError, match="make room on the disk") as caught:
        stored(tmp_path / "cache")
    assert str(tmp_path) not in str(caught.value)
