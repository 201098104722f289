"""New files are scored as the registered program itself scores their pixels; a site's own model as the site has it."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from rich.console import Console

from components.data import phantoms
from components.data.decode import preprocess_files
from components.data.sources import plan_sources
from components.errors import DataError, StorageError
from components.journal import read
from components.ledger import trainings
from components.study import Study
from components.sums_file import read_sums
from flows.prediction import FileScore, Scored, _read_items, predict_files
from flows.score_table import print_scores
from tests.command_line import Run, Trained, train_tiny
from tests.references.tiny_study import tiny_study
from tests.references.tiny_table import patients, table_study, write_table


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One sound film of each of the demo's hospitals: DICOM, NIfTI and PNG, from the demo's own writers."""
    folder = tmp_path_factory.mktemp("hospitals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantoms, "HOSPITALS", tuple(replace(item, patients=4) for item in phantoms.HOSPITALS))
        phantoms.write_demo_hospitals(folder, seed=3)
    return [next(folder.glob(f"{site}/films/*001_1.*")) for site in ("east", "north", "west")]


@pytest.fixture(scope="module")
def personal(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study trained with FedBN in the same home: each site keeps its own normalisation layers."""
    changes = {"study": "personal", "strategy": {"name": "FedBN"}, "rounds": {"max": 2}}
    train_tiny(tmp_path_factory.mktemp("personal"), trained.home, **changes)
    return tiny_study(**changes)


def test_scores_of_files_are_those_of_the_registered_program(
    trained: Trained, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")  # as the README says
    data = trained.outcome.study.data
    as_read = preprocess_files(data.model_copy(update={"intensity": "none"}), films).numpy()
    assert as_read.shape == (3, 1, 16, 16)
    assert as_read.max() > 100  # the units of the files, not of the network
    expected = mlflow.pyfunc.load_model("models:/tiny@champion").predict(as_read)
    scored = predict_files("models:/tiny@champion", films, home=trained.home)
    found = [list(item.scores.values()) for item in scored.files]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-4  # different films, different scores


def test_files_keep_their_order_and_are_scored_each_by_itself(trained: Trained, films: list[Path]) -> None:
    together = predict_files("models:/tiny/1", films[::-1], home=trained.home)
    assert [item.file for item in together.files] == films[::-1]
    alone = predict_files("models:/tiny/1", films[:1], home=trained.home)
    assert together.files[2].scores["ill"] == pytest.approx(alone.files[0].scores["ill"], abs=1e-6)


def test_a_version_and_its_alias_are_the_same_model(trained: Trained, films: list[Path]) -> None:
    champion = predict_files("models:/tiny@champion", films, home=trained.home)
    number = trained.outcome.result["champion"]
    assert champion == predict_files(f"models:/tiny/{number}", films, home=trained.home)
    assert champion.version == f"models:/tiny/{number}"
    assert champion.warning == ""


def test_scoring_leaves_the_home_as_it_was(trained: Trained, films: list[Path]) -> None:
    artifacts = trained.home / "artifacts"
    before = {path: path.stat().st_mtime_ns for path in artifacts.rglob("*")}
    predict_files("models:/tiny@champion", films, home=trained.home)
    assert {path: path.stat().st_mtime_ns for path in artifacts.rglob("*")} == before


def test_a_personal_model_without_its_site_comes_with_a_warning(
    personal: Study, trained: Trained, films: list[Path]
) -> None:
    scored = predict_files("models:/personal@champion", films, home=trained.home)
    assert "each site keeps its own normalisation layers" in scored.warning
    assert "--site NAME" in scored.warning


def test_a_site_scores_with_its_own_layers_as_it_was_judged(personal: Study, trained: Trained) -> None:
    """The site's test items, written as files, scored with --site: the sums that the site answered with."""
    ledger = list(trainings(read(trained.home / "trainings" / "personal" / "journal.jsonl")).values())[-1]
    folder = trained.home / "trainings" / "personal" / ledger.training
    assert ledger.tested is not None
    judged = read_sums(folder / "test.json", ledger.tested["evaluation"])["global"]
    best = ledger.rounds[ledger.tested["round"]].version
    found = {site: _mean_score(personal, trained, f"models:/personal/{best}", site) for site in judged}
    expected = {site: sum(sums.score_sums[0]) / sums.count for site, sums in judged.items()}
    assert found == pytest.approx(expected, abs=1e-5)
    shared = {site: _mean_score(personal, trained, f"models:/personal/{best}", "", items=site) for site in judged}
    assert any(abs(shared[site] - expected[site]) > 1e-3 for site in judged)


def _mean_score(study: Study, trained: Trained, model: str, site: str, items: str = "") -> float:
    """The mean score of a site's test items, written as PNG files."""
    from PIL import Image

    source = next(item for item in plan_sources(study, Path(), trained.folder) if item.name == (items or site))
    (part,) = source.parts
    with np.load(part.path) as file:
        parts = [file[f"{name}_images"] for name in ("train", "val", "test")]
    pixels, first = np.concatenate(parts), len(parts[0]) + len(parts[1])
    folder = trained.folder / f"films-of-{source.name}"
    folder.mkdir(exist_ok=True)
    files = []
    for row in part.rows or []:
        if row >= first:
            files.append(folder / f"{row}.png")
            Image.fromarray(pixels[row]).save(files[-1])
    scored = predict_files(model, files, home=trained.home, site=site)
    return float(np.mean([item.scores["ill"] for item in scored.files]))


def test_a_site_that_keeps_nothing_here_is_named_with_those_that_do(
    personal: Study, trained: Trained, films: list[Path]
) -> None:
    says = r"--site elsewhere: no layers .* there are layers of site-1, site-2, site-3"
    with pytest.raises(DataError, match=says):
        predict_files("models:/personal/1", films, home=trained.home, site="elsewhere")


@pytest.mark.parametrize("site", ["../personal/site-1", "."])
def test_a_sites_name_leads_nowhere_else(personal: Study, trained: Trained, films: list[Path], site: str) -> None:
    with pytest.raises(DataError, match="no layers that it kept"):
        predict_files("models:/personal/1", films, home=trained.home, site=site)


def test_the_command_prints_a_row_for_each_file(trained: Trained, films: list[Path], wardround: Run) -> None:
    names = [str(film) for film in films]
    finished = wardround("predict", "models:/tiny@champion", *names, "--home", str(trained.home), COLUMNS="200")
    assert (finished.code, finished.err) == (0, "")
    scored = predict_files("models:/tiny@champion", films, home=trained.home)
    for item in scored.files:
        (line,) = [line for line in finished.out.splitlines() if item.file.name in line]
        assert f"{item.scores['ill']:.4f}" in line
        assert item.decision in line
    assert "research use only" in finished.out


def test_the_command_writes_every_digit_to_a_csv(
    trained: Trained, films: list[Path], wardround: Run, tmp_path: Path
) -> None:
    file = tmp_path / "scores.csv"
    names = [str(film) for film in films]
    wardround("predict", "models:/tiny/1", *names, "--output", str(file), "--home", str(trained.home))
    rows = list(csv.DictReader(file.read_text().splitlines()))
    scored = predict_files("models:/tiny/1", films, home=trained.home)
    assert [row["file"] for row in rows] == names
    assert [float(row["score_ill"]) for row in rows] == [item.scores["ill"] for item in scored.files]
    assert {row["model"] for row in rows} == {"models:/tiny/1"}


def test_an_output_that_cannot_be_written_is_told(trained: Trained, films: list[Path], wardround: Run) -> None:
    output = str(films[0] / "scores.csv")
    finished = wardround("predict", "models:/tiny/1", str(films[0]), "-o", output, "--home", str(trained.home))
    assert finished.code == StorageError.exit_code
    assert finished.err.startswith("error: cannot write ")
    assert "a file, not a folder" in finished.err


def test_rows_that_cannot_be_scored_are_counted_and_the_first_named(tmp_path: Path) -> None:
    rows = patients("north", 20)
    for row in rows[3:11]:
        row["age"] = 300
    table = write_table(tmp_path / "p.csv", rows)
    with pytest.raises(DataError) as told:
        _read_items(table_study(), [table])
    assert str(told.value).startswith(f"8 of 20 rows cannot be scored: {table}: row 4: age is out of its range; ")
    assert ("row 8: age" in str(told.value), "row 9: age" in str(told.value)) == (True, False)
    assert str(told.value).endswith("; and 3 more; correct or leave out what is wrong")


def test_many_classes_fit_into_80_columns_as_the_three_most_probable(tmp_path: Path) -> None:
    scores = {f"finding {number}": number / 20 for number in range(14)}
    text = io.StringIO()
    scored = Scored("models:/films/1", "", [FileScore(Path("film.dcm"), scores, "finding 13")])
    print_scores(Console(file=text, width=80), scored, None)
    assert "finding 13 0.6500, finding 12 0.6000" in " ".join(text.getvalue().split()).replace("│ ", "")
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())
