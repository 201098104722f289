import re
import typing
from typing import Any

import pytest

from components.study import TABULAR, NetworkName
from models.network_arguments import ARGUMENTS, check_arguments
from models.networks import NETWORKS


def test_the_tables_and_the_study_name_the_same_networks() -> None:
    assert list(ARGUMENTS) == list(typing.get_args(NetworkName))
    assert list(NETWORKS) == [name for name in ARGUMENTS if name not in TABULAR]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Densenet", {}, "did you mean 'DenseNet'"),
        ("resnet-fancy", {}, "there are: CNN, DenseNet"),
        ("DenseNet", {"grow_rate": 8}, "did you mean 'growth_rate'"),
        ("CNN", {"zzz": 8}, "no argument 'zzz'. It takes: widths, dropout"),
        ("CNN", {"dropout": "0.1"}, "dropout: input should be a valid number, given '0.1'"),
        ("CNN", {"dropout": True}, "dropout: input should be a valid number, given True"),
        ("CNN", {"dropout": 1.0}, "dropout: input should be less than 1, given 1.0"),
        ("CNN", {"widths": 16}, "widths: input should be a valid list, given 16"),
        ("CNN", {"widths": [16, "32"]}, "widths.1: input should be a valid integer, given '32'"),
        ("CNN", {"widths": []}, "widths: list should have at least 1 item"),
        ("ResNet", {"layers": [1, 1]}, "layers: list should have at least 4 items"),
        ("ResNet", {"variant": "resnet19"}, "variant: input should be 'resnet10'"),
        ("ResNet", {"variant": "resnet18", "layers": [1, 1, 1, 1]}, "not both"),
        ("DenseNet", {"variant": "densenet121", "growth_rate": 8}, "not both"),
        ("ViT", {"hidden_size": 10, "num_heads": 3}, "must be a multiple of num_heads 3"),
        ("DenseNet", {"pretrained": True}, "'pretrained' is not allowed"),
        ("EfficientNet", {"pretrained": False}, "'pretrained' is not allowed"),
    ],
)
def test_wrong_arguments_are_refused_with_a_clear_message(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_arguments(name, arguments)
    assert "\n" not in str(caught.value)


def test_defaults_are_filled_in() -> None:
    assert check_arguments("DenseNet", {"block_config": [2, 2]}).model_dump()["growth_rate"] == 32
