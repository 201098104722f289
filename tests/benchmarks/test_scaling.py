"""The sizes that are measured are the sizes that are named."""

import math
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import Cost
from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from models.networks import build_network


@pytest.mark.parametrize("millions", [0.1, 1.0, 10.0])
def test_networks_have_so_many_parameters(millions: float) -> None:
    network = build_network(
        "CNN",
        {"widths": scaling.widths(millions)},
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        spatial_size=[8, 8],
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(millions * 1e6, rel=0.02)


def test_every_site_has_items_of_both_classes_in_every_split(tmp_path: Path) -> None:
    study = scaling.study_of(16, 0.1, scaling.write_items(16, tmp_path / "items.npz"))
    sources = plan_sources(study, tmp_path)
    assert len(sources) == 16
    for source in sources:
        assert all(
            min(counts) > 0 for counts in open_site_data(study, source, tmp_path / "state").class_counts.values()
        )


def test_a_size_that_would_fill_the_disk_is_refused_with_a_reason(tmp_path: Path) -> None:
    assert scaling.refusal(3, 0.1, tmp_path) == ""
    assert "GB of updates" in scaling.refusal(1_000_000, 100.0, tmp_path)


def test_slopes_are_milliseconds_between_neighbouring_sizes() -> None:
    costs = [Cost(3, 1.0, beyond_s=0.1), Cost(16, 1.0, beyond_s=0.36), Cost(64, 1.0, beyond_s=0.84)]
    assert scaling.slope_ms(costs, 1.0) == pytest.approx((20.0, 10.0))
    assert scaling.slope_ms([*costs[:2], Cost(64, 1.0, skipped="too large")], 1.0) is None


def test_the_report_names_what_was_skipped() -> None:
    costs = [Cost(sites, 1.0, beyond_s=0.01 * sites, load=0.5) for sites in scaling.SITES[:2]]
    text = scaling.report([*costs, Cost(64, 1.0, skipped="9 GB of updates")], {4: 10**8, 64: 10**8}).text
    assert "Skipped: 64 sites with 1 M parameters (9 GB of updates)." in text
    assert "not measured" in text
    assert math.isnan(Cost(64, 1.0, skipped="x").beyond_s)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to read memory from")
def test_aggregating_sixteen_sites_takes_no_more_memory_than_four(tmp_path: Path) -> None:
    few, many = (scaling.aggregation_bytes(sites, tmp_path / "work", millions=4.0) for sites in (4, 16))
    update = 4e6 * 4
    assert few > 2 * update  # the sum in double precision: what is measured is the aggregation
    assert many < few + update
