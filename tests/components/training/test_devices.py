import pytest
import torch

from components.errors import RefusedError
from components.training.devices import check_precision, choose_device


def test_auto_takes_what_there_is() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_is_not_replaced_in_silence() -> None:
    with pytest.raises(RefusedError, match="no usable GPU"):
        choose_device("cuda")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        choose_device("tpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'64'"):
        check_precision("64", torch.device("cpu"))


def test_half_precision_needs_a_gpu() -> None:
    check_precision("16-mixed", torch.device("cuda"))
    check_precision("bf16-mixed", torch.device("cpu"))
    with pytest.raises(RefusedError, match="needs a CUDA GPU"):
        check_precision("16-mixed", torch.device("cpu"))
