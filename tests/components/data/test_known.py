from pathlib import Path

import pytest

from components.data.known import KNOWN, default_data_root, find_npz
from components.errors import DataError


def test_a_known_data_set_is_taken_from_the_disk(public_data: Path, tmp_path: Path) -> None:
    found = find_npz("pneumoniamnist", study_folder=tmp_path, data_root=public_data)
    assert found == public_data / "pneumoniamnist/pneumoniamnist.npz"


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KNOWN["pneumoniamnist"].file
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="is not the published pneumoniamnist"):
        find_npz("pneumoniamnist", study_folder=tmp_path, data_root=tmp_path)


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nobody answers
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    with pytest.raises(
        DataError, match=r"could not be downloaded from https://zenodo.org.*offline\?.*set WARDROUND_DATA"
    ):
        find_npz("pneumoniamnist", study_folder=tmp_path, data_root=tmp_path)


def test_a_set_without_a_home_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bccd_cells.*cannot be downloaded"):
        find_npz("bccd_cells", study_folder=tmp_path, data_root=tmp_path)


def test_a_path_is_below_the_data_root_or_beside_the_study_or_absolute(tmp_path: Path) -> None:
    root, study = tmp_path / "root", tmp_path / "study"
    for folder in (root, study):
        folder.mkdir()
        (folder / f"{folder.name}.npz").touch()
    for name in ("root.npz", "study.npz", str(study / "study.npz")):
        assert find_npz(name, study_folder=study, data_root=root).is_file()
    with pytest.raises(DataError, match=r"no such file.*bccd_cells, pneumoniamnist"):
        find_npz("neither.npz", study_folder=study, data_root=root)


def test_the_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDROUND_DATA", "/somewhere")
    assert default_data_root() == Path("/somewhere")
    monkeypatch.delenv("WARDROUND_DATA")
    assert default_data_root() == Path("../shared/data")
