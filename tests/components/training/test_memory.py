"""Work that does not fit into a GPU's memory is done again in smaller parts. With trainings: `test_site`."""

import gc
import weakref

import pytest
import torch

from components.training.memory import fit_in_memory, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_every_way_to_say_out_of_memory_is_understood(error: RuntimeError) -> None:
    asked = []

    def attempt(parts: int) -> str:
        asked.append(parts)
        if parts < 4:
            raise error
        return "done"

    assert fit_in_memory(attempt, most_parts=8) == ("done", 4)
    assert asked == [1, 2, 4]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("CUDA out of memory")]
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    asked = []

    def attempt(parts: int) -> None:
        asked.append(parts)
        raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        fit_in_memory(attempt, most_parts=8)
    assert asked == [1]


def test_nothing_of_a_failed_attempt_is_held_in_the_next() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def attempt(parts: int) -> bool:
        if parts == 1:
            tensor = torch.zeros(3)
            held.append(weakref.ref(tensor))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        gc.disable()  # it was let go of, not only collected by chance
        try:
            return held[0]() is None
        finally:
            gc.enable()

    assert fit_in_memory(attempt, most_parts=2) == (True, 2)


def test_there_is_an_end_to_it() -> None:
    def attempt(parts: int) -> None:
        raise torch.cuda.OutOfMemoryError(f"{parts} parts")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="2 parts"):
        fit_in_memory(attempt, most_parts=3)
