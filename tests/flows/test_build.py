import pytest
import torch

from components.errors import StudyError
from flows.build import build_module, check_network
from tests.references.tiny_study import tiny_study


def test_the_same_study_builds_the_same_weights() -> None:
    first, second = build_module(tiny_study()), build_module(tiny_study())
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_another_seed_builds_other_weights() -> None:
    first, other = next(build_module(tiny_study()).parameters()), next(build_module(tiny_study(seed=2)).parameters())
    assert not torch.equal(first, other)


def test_building_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    build_module(tiny_study())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("check", [check_network, build_module])
def test_a_network_argument_that_is_unknown_is_named_with_the_nearest(check: object) -> None:
    study = tiny_study(network={"name": "CNN", "arguments": {"width": [4, 8]}})
    with pytest.raises(StudyError, match="widths") as caught:
        check(study)  # type: ignore[operator]
    assert caught.value.field == "network.arguments"
