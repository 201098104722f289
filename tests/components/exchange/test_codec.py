import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RefusedError, StorageError
from components.exchange.codec import ReadLimits, iterate_weights, read_entries, read_weights, write_weights
from components.weights import DTYPES, Entry, Weights, describe, digest

WEIGHTS = {"conv": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([-0.0, float("nan")])}


def every_kind() -> Weights:
    """Random bits in every dtype and several shapes, NaNs with payloads included."""
    generator, weights = random.Random(1), {}
    for code, dtype in DTYPES.items():
        for shape in [(), (0,), (3, 0), (5,), (2, 3, 4), (1001,)]:
            data = bytearray(generator.randbytes(Entry(dtype, shape).bytes))
            tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            weights[f"{code}.{shape}\u00e4"] = tensor.reshape(shape)
    return weights


def same_bits(left: Weights, right: Weights) -> bool:
    return describe(left) == describe(right) and digest(left) == digest(right)


def raw(fields: Any, data: bytes = b"", *, length: int | None = None, pad: bool = True) -> bytes:
    """A file with any header."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Sequence[Any] = (2,), offsets: Sequence[int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weights = every_kind()
    written = write_weights(tmp_path / "w.safetensors", weights)
    assert same_bits(read_weights(tmp_path / "w.safetensors", expected_digest=written.sha256), weights)


@given(
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_any_weights_come_back(shapes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    weights = {name: torch.ones(shape, dtype=DTYPES[code]) for name, (code, shape) in shapes.items()}
    written = write_weights(path, weights)
    assert same_bits(read_weights(path, expected_digest=written.weights_digest), weights)


def test_the_file_is_what_the_library_writes_and_reads(tmp_path: Path) -> None:
    weights, path = every_kind(), tmp_path / "w.safetensors"
    write_weights(path, weights)
    assert path.read_bytes() == safetensors.torch.save(weights)
    assert same_bits(safetensors.torch.load_file(path), weights)


def test_what_is_written_is_what_is_stated(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "w.safetensors"
    written = write_weights(path, WEIGHTS)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == digest(WEIGHTS)
    assert written.bytes == path.stat().st_size
    assert [one.name for one in path.parent.iterdir()] == ["w.safetensors"]


def test_tensors_that_are_not_contiguous_are_written_in_their_own_order(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    written = write_weights(tmp_path / "w", {"w": matrix.T})
    assert torch.equal(read_weights(tmp_path / "w", expected_digest=written.sha256)["w"], matrix.T)


def test_tensors_are_memory_mapped_and_changes_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "w"
    written = write_weights(path, WEIGHTS)
    weights = read_weights(path, expected_digest=written.sha256)
    weights["conv"] += 1
    assert torch.equal(weights["conv"], WEIGHTS["conv"] + 1)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == written.sha256


def test_tensors_outlive_the_file_they_were_read_from(tmp_path: Path) -> None:
    path = tmp_path / "w"
    weights = read_weights(path, expected_digest=write_weights(path, WEIGHTS).sha256)
    path.unlink()
    assert same_bits(weights, WEIGHTS)


def test_entries_come_one_at_a_time_in_the_order_of_the_layout(tmp_path: Path) -> None:
    path, weights = tmp_path / "w", every_kind()
    written = write_weights(path, weights)
    assert same_bits(dict(iterate_weights(path, expected_digest=written.sha256)), weights)
    first, _ = next(iterate_weights(path, expected_digest=written.sha256))
    assert first.startswith("I64")


def test_the_header_alone_says_what_is_in_a_file(tmp_path: Path) -> None:
    write_weights(tmp_path / "w", WEIGHTS)
    assert read_entries(tmp_path / "w") == describe(WEIGHTS)


HEADERS = {
    "empty file": b"",
    "seven bytes": b"\x08" + b"\0" * 6,
    "a header beyond the end": raw({"w": entry()}, length=1 << 20),
    "a header of 2**63 bytes": raw({"w": entry()}, length=1 << 63),
    "no JSON": raw(b"not json"),
    "a list": raw([]),
    "a number": raw(b"3       "),
    "deep nesting": raw(b"[" * 100_000),
    "a huge number": raw(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
    "an entry that is no object": raw({"w": 3}),
    "no dtype": raw({"w": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "no offsets": raw({"w": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "an unknown dtype": raw({"w": entry("F8_E4M3", (8,))}, b"\0" * 8),
    "a dtype that is a list": raw({"w": entry(["F32"])}, b"\0" * 8),
    "a pickle's dtype": raw({"w": entry("O")}, b"\0" * 8),
    "a shape that is a number": raw({"w": {**entry(), "shape": 2}}, b"\0" * 8),
    "a negative axis": raw({"w": entry(shape=(-2,))}, b"\0" * 8),
    "two negative axes": raw({"w": entry(shape=(-1, -2))}, b"\0" * 8),
    "a fraction of an axis": raw({"w": entry(shape=(2.0,))}, b"\0" * 8),
    "a truth value as axis": raw({"w": entry(shape=(True, 2))}, b"\0" * 8),
    "one terabyte": raw({"w": entry(shape=(1 << 38,), offsets=(0, 1 << 40))}, b"\0" * 8),
    "more than can be counted": raw({"w": entry(shape=(1 << 62, 1 << 62), offsets=(0, 8))}, b"\0" * 8),
    "nothing, but huge": raw({"w": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}),
    "many axes": raw({"w": entry(shape=(1,) * 100, offsets=(0, 4))}, b"\0" * 4),
    "offsets outside of the file": raw({"w": entry(offsets=(8, 16))}, b"\0" * 8),
    "offsets too short for the shape": raw({"w": entry(offsets=(0, 4))}, b"\0" * 4),
    "offsets the wrong way round": raw({"w": entry(offsets=(8, 0))}, b"\0" * 8),
    "entries that overlap": raw({"v": entry(), "w": entry(offsets=(4, 12))}, b"\0" * 12),
    "entries at the same place": raw({"v": entry(), "w": entry()}, b"\0" * 8),
    "a hole": raw({"v": entry(), "w": entry(offsets=(12, 20))}, b"\0" * 20),
    "a name twice": raw(b'{"w":%s,"w":%s}' % ((json.dumps(entry(), separators=(",", ":")).encode(),) * 2), b"\0" * 8),
    "another order": raw({"w": entry(), "v": entry(offsets=(8, 16))}, b"\0" * 16),
    "a further field": raw({"w": {**entry(), "extra": 1}}, b"\0" * 8),
    "metadata": raw({"__metadata__": {"format": "pt"}, "w": entry()}, b"\0" * 8),
    "bytes after the values": raw({"w": entry()}, b"\0" * 9),
    "values cut short": raw({"w": entry()}, b"\0" * 7),
    "no padding": raw({"w": entry()}, b"\0" * 8, pad=False),
    "UTF-16": raw('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.encode("utf-16-le"), b"\0" * 8),
    "half a character": raw(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "not UTF-8": raw(b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_file_that_is_not_as_it_must_be_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(HEADERS[case])
    right = hashlib.sha256(HEADERS[case]).hexdigest()
    for read in (lambda: read_entries(path), lambda: read_weights(path, expected_digest=right)):
        with pytest.raises(RefusedError, match=r"w\.safetensors"):
            read()
    with pytest.raises(RefusedError, match=r"w\.safetensors"):
        next(iterate_weights(path, expected_digest=right))


def test_the_cases_above_differ_from_a_good_file_only_in_what_they_name(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(raw({"v": entry(), "w": entry(offsets=(8, 16))}, b"\0" * 16))
    assert set(read_entries(path)) == {"v", "w"}


def test_limits_hold_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w"
    size = write_weights(path, WEIGHTS).bytes
    read_entries(path, limits=ReadLimits(file_bytes=size))
    with pytest.raises(RefusedError, match=f"has {size} bytes, at most {size - 1}"):
        read_entries(path, limits=ReadLimits(file_bytes=size - 1))
    with pytest.raises(RefusedError, match="states a header"):
        read_entries(path, limits=ReadLimits(header_bytes=8))


def test_a_sparse_terabyte_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(raw({"w": entry(shape=(1 << 38,), offsets=(0, 1 << 40))}))
    os.truncate(path, path.stat().st_size + (1 << 40))
    with pytest.raises(RefusedError, match="at most"):
        read_weights(path, expected_digest="0" * 64)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_bit_that_flips_is_found(place: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    written = write_weights(path, WEIGHTS)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(RefusedError):
        read_weights(path, expected_digest=written.sha256)
    with pytest.raises(RefusedError):
        list(iterate_weights(path, expected_digest=written.sha256))


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*missing.*not there"):
        read_weights(tmp_path / "missing", expected_digest="0" * 64)


@pytest.mark.parametrize("bad", [{"w": torch.tensor([True])}, {"__metadata__": torch.zeros(1)}])
def test_what_cannot_be_written_leaves_the_old_file(bad: Weights, tmp_path: Path) -> None:
    path = tmp_path / "w"
    written = write_weights(path, WEIGHTS)
    with pytest.raises(ValueError, match=r"bool|__metadata__"):
        write_weights(path, bad)
    assert same_bits(read_weights(path, expected_digest=written.sha256), WEIGHTS)
    assert list(tmp_path.iterdir()) == [path]
