from collections.abc import Callable
from pathlib import Path

import pytest

from components.data.sources import plan_sources, pooled_source
from components.errors import DataError
from components.site_source import SiteSource
from components.study import Study


def rows_of(source: SiteSource) -> list[int]:
    return source.parts[0].rows or []


def test_sites_that_are_folders_come_in_the_order_of_their_names(
    tmp_path: Path, make_study: Callable[..., Study]
) -> None:
    study = make_study(sites=[{"name": "west", "path": "../w"}, {"name": "east", "path": "e"}])
    sources = plan_sources(study, tmp_path / "study")
    assert [source.name for source in sources] == ["east", "west"]
    assert [source.parts[0].path for source in sources] == [str(tmp_path / "study/e"), str(tmp_path / "w")]


def test_a_source_survives_the_way_through_json(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    (source,) = plan_sources(make_study(), tmp_path)
    assert SiteSource.model_validate_json(source.model_dump_json()) == source


def test_one_folder_is_cut_into_virtual_sites_by_patient(hospital: Path, make_study: Callable[..., Study]) -> None:
    study = make_study(sites={"count": 3, "partition": "iid"}, path="north")
    sources = plan_sources(study, hospital.parent)
    assert [source.name for source in sources] == ["site-1", "site-2", "site-3"]
    rows = [rows_of(source) for source in sources]
    assert sorted(row for part in rows for row in part) == list(range(40))
    patients = [{row // 2 for row in part} for part in rows]
    assert sum(map(len, patients)) == 20
    assert plan_sources(study, hospital.parent) == sources


def test_names_of_many_sites_sort(hospital: Path, make_study: Callable[..., Study]) -> None:
    sources = plan_sources(make_study(sites={"count": 12}, path="north"), hospital.parent)
    assert [source.name for source in sources][::11] == ["site-01", "site-12"]


def test_broken_rows_go_somewhere_too(
    hospital: Path, make_study: Callable[..., Study], add_row: Callable[..., None]
) -> None:
    add_row("gone.png", "", "P3")
    sources = plan_sources(make_study(sites={"count": 2}, path="north"), hospital.parent)
    assert sorted(row for source in sources for row in rows_of(source)) == list(range(41))


def test_a_column_names_the_sites(hospital: Path, make_study: Callable[..., Study]) -> None:
    text = (hospital / "items.csv").read_text().splitlines()
    wards = ["ward", *["B" if row % 4 < 2 else "A" for row in range(40)]]
    (hospital / "items.csv").write_text("\n".join(f"{line},{ward}" for line, ward in zip(text, wards, strict=True)))
    sources = plan_sources(make_study(sites={"partition": "column:ward"}, path="north"), hospital.parent)
    assert [(source.name, len(rows_of(source))) for source in sources] == [("A", 20), ("B", 20)]
    with pytest.raises(DataError, match=r"column:beds: no such column.*'ward'"):
        plan_sources(make_study(sites={"partition": "column:beds"}, path="north"), hospital.parent)
    with pytest.raises(DataError, match=r"gives 2 sites, but sites.count is 3"):
        plan_sources(make_study(sites={"partition": "column:ward", "count": 3}, path="north"), hospital.parent)


def test_a_missing_folder_is_said(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    with pytest.raises(DataError, match=r"data.path: its folder is not there"):
        plan_sources(make_study(sites={"count": 2}, path="nowhere"), tmp_path)


def test_the_pooled_source_holds_every_part(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    study = make_study(sites=[{"name": "west", "path": "w"}, {"name": "east", "path": "e"}])
    pooled = pooled_source(plan_sources(study, tmp_path))
    assert (pooled.name, [part.site for part in pooled.parts]) == ("pooled", ["east", "west"])


def test_real_cells_are_cut_by_smear(public_data: Path, make_study: Callable[..., Study]) -> None:
    task = {"kind": "multiclass", "classes": ["RBC", "WBC", "Platelets"]}
    sites = {"count": 4, "partition": "dirichlet:0.5"}
    study = make_study(task=task, sites=sites, source="npz", path="bccd_cells", spatial_size=[28, 28], channels=3)
    sources = plan_sources(study, Path(), public_data)
    assert sorted(row for source in sources for row in rows_of(source)) == list(range(4886))
    assert len({len(rows_of(source)) for source in sources}) > 1
