"""The command line: help, options, and what each command prints; bad input is in tests/end_to_end/test_bad_input.py."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import flows
from components.journal import verify
from flows import cli
from flows.version import code_version
from tests.command_line import Run, Trained
from tests.references.tiny_study import write_films, write_study

ROOT = Path(flows.__file__).resolve().parent.parent
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the command line, with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.fixture
def study(tmp_path: Path) -> str:
    write_films(tmp_path)
    return str(write_study(tmp_path))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_in_80_columns(words: tuple[str, ...], wardround: Run) -> None:
    finished = wardround(*words, "--help")
    assert finished.code == 0
    assert f"Usage: wardround{''.join(f' {word}' for word in words)}" in finished.out
    assert all(len(line) <= 80 for line in finished.out.splitlines())
    assert not CONTROL.search(finished.out)
    assert "\n" not in (COMMANDS[words].help or "").replace("\n\n", "")  # lines end where the terminal does


@pytest.mark.parametrize(
    "words", [words for words, command in COMMANDS.items() if words and not hasattr(command, "commands")], ids=" ".join
)
def test_every_command_has_examples_that_it_takes(words: tuple[str, ...], wardround: Run) -> None:
    text = wardround(*words, "--help", COLUMNS="200").out
    _, _, examples = text.partition("Examples")
    given = [line.strip() for line in examples.splitlines() if line.strip()]
    assert given
    for line in given:
        arguments = shlex.split(line.split(" > ")[0])
        assert arguments[: len(words) + 1] == ["wardround", *words]
        COMMANDS[words].make_context("wardround", arguments[len(words) + 1 :])  # raises where an option is unknown


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_and_argument_is_explained(words: tuple[str, ...]) -> None:
    unexplained = [parameter.name for parameter in COMMANDS[words].params if not getattr(parameter, "help", "")]
    assert unexplained == []


def test_alone_it_lists_its_commands(wardround: Run) -> None:
    finished = wardround()
    assert all(name in finished.out for name in ("demo", "simulate", "check", "schema", "ui", "predict", "journal"))
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["simulat"], "Did you mean 'simulate'?"),
        (["journal", "verfy"], "Did you mean 'verify'?"),
        (["simulate", "x.yaml", "--round", "3"], "--rounds"),
        (["simulate", "x.yaml", "--rounds", "three"], "'--rounds'"),
        (["ui", "--mlflow-port", "http"], "'--mlflow-port'"),
        (["simulate"], "Missing argument 'STUDY'"),
        (["predict", "models:/tiny/1"], "Missing argument 'FILES"),
    ],
)
def test_what_is_mistyped_is_named_with_what_was_meant(typed: list[str], meant: str, wardround: Run) -> None:
    finished = wardround(*typed)
    assert finished.code == 2
    assert meant in finished.err
    assert "Traceback" not in finished.err


def test_version_is_that_of_the_code(wardround: Run) -> None:
    assert wardround("--version").out == f"wardround {code_version()}\n"


def test_check_says_that_a_study_is_sound_and_makes_nothing(study: str, wardround: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    finished = wardround("check", study)
    assert (finished.code, finished.err) == (0, "")
    assert re.fullmatch(r".*tiny\.yaml is a sound study: tiny, digest [0-9a-f]{12}\n", finished.out)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["demo", "pneumonia"])
def test_the_studies_that_come_along_are_sound(name: str, wardround: Run) -> None:
    assert wardround("check", str(ROOT / "studies" / f"{name}.yaml")).code == 0


def test_check_says_what_a_sound_study_needs_and_is_not_here(
    study: str, wardround: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films.npz").unlink(missing_ok=True)
    trained = wardround("check", study)
    assert (trained.code, "on this machine it lacks films.npz: not beside the study" in trained.out) == (0, True)
    monkeypatch.setattr("components.analytics.sources.find_spec", lambda _: None)
    analysed = wardround("check", str(ROOT / "studies" / "trial.yaml"))
    assert (analysed.code, "not installed here: pip install lifelines" in analysed.out) == (0, True)


def test_check_lists_every_mistake_with_its_line(tmp_path: Path, wardround: Run) -> None:
    study = write_study(tmp_path, rounds={"max": 0, "maxx": 1}, local={"batch_size": "many"})
    finished = wardround("check", str(study))
    assert finished.code == 2
    assert finished.out == ""
    named = re.findall(r"tiny\.yaml:\d+: ([a-z_.]+): ", finished.err)
    assert sorted(named) == ["local.batch_size", "rounds.max", "rounds.maxx"]


def test_check_tells_an_absent_file_of_features_and_the_other_mistakes(tmp_path: Path, wardround: Run) -> None:
    text = (ROOT / "studies" / "heart.yaml").read_text().replace("max: 40", "max: 0").replace("bins: 200", "bins: 2")
    (tmp_path / "heart.yaml").write_text(text)
    finished = wardround("check", str(tmp_path / "heart.yaml"))
    assert finished.code == 2
    named = re.findall(r"heart\.yaml:\d+: ([a-z_.]+): ", finished.err)
    assert named == ["data.records.features", "rounds.max", "evaluate.bins"]


def test_an_analysis_has_no_rounds(wardround: Run) -> None:
    trial = str(ROOT / "studies" / "trial.yaml")
    finished = wardround("simulate", trial, "--rounds", "3", "--strategy", "FedAvg", "--compare", "--seed", "2")
    assert finished.code == 2
    assert finished.err.startswith("error: --rounds, --strategy, --compare: ")
    assert "analyses: it has no rounds" in finished.err


def test_schema_is_json_that_names_the_sections(wardround: Run) -> None:
    schema = json.loads(wardround("schema").out)
    assert {"study", "task", "network", "data", "sites", "strategy", "rounds", "local"} <= set(schema["properties"])


def test_simulate_takes_options_over_the_study(trained: Trained, wardround: Run, tmp_path: Path) -> None:
    write_films(tmp_path)
    study = write_study(tmp_path, study="options", sites={"partition": "sizes:0.5,0.5"})
    options = "--sites 5 --partition dirichlet:0.9 --rounds 1 --strategy FedProx --seed 3 --dispatcher in-process"
    finished = wardround("simulate", str(study), *options.split(), "--home", str(trained.home))
    assert (finished.code, finished.err) == (0, "")
    assert re.search(r"^round   1  auroc [01]\.\d{4} +\d+\.\d s  version   1  5 sites$", finished.out, re.MULTILINE)
    assert all(f"site-{number}" in finished.out for number in range(1, 6))
    assert not CONTROL.search(finished.out)
    started = verify(trained.home / "trainings" / "options" / "journal.jsonl")
    assert started.entries > 0
    shown = wardround("journal", "show", "options", "--full", "--home", str(trained.home)).out
    recorded = json.loads(next(line for line in shown.splitlines() if "training_started" in line).split(maxsplit=3)[3])
    found = recorded["study"]
    assert found["sites"] == {"count": 5, "partition": "dirichlet:0.9"}
    assert (found["rounds"]["max"], found["strategy"]["name"], found["seed"]) == (1, "FedProx", 3)


def test_home_as_an_option_comes_before_the_variable(wardround: Run, tmp_path: Path) -> None:
    finished = wardround("journal", "show", "nothing", "--home", str(tmp_path / "mine"))
    assert str(tmp_path / "mine") in finished.err


def test_journal_show_has_a_line_for_each_event_in_words(trained: Trained, wardround: Run) -> None:
    finished = wardround("journal", "show", "tiny", "--home", str(trained.home))
    path = trained.home / "trainings" / "tiny" / "journal.jsonl"
    lines = finished.out.splitlines()
    assert len(lines) == verify(path).entries
    events = [line.split()[2] for line in lines]
    assert (events[0], events[-1], events.count("committed")) == ("training_started", "training_finished", 2)
    assert re.search(r"committed +round 1, training tiny-\S+, version 1$", finished.out, re.MULTILINE)
    assert "{" not in finished.out


@pytest.mark.parametrize("named", ["by study", "by folder", "by file", "a site's"])
def test_journal_verify_finds_a_journal_however_it_is_named(named: str, trained: Trained, wardround: Run) -> None:
    folder = trained.home / "trainings" / "tiny"
    names = {
        "by study": "tiny",
        "by folder": str(folder),
        "by file": str(folder / "journal.jsonl"),
        "a site's": str(trained.home / "sites" / "tiny" / "site-1"),
    }
    finished = wardround("journal", "verify", names[named], "--home", str(trained.home))
    assert finished.code == 0
    assert re.search(r"journal\.jsonl: \d+ entries, the chain holds, [0-9a-f]{16}", finished.out)


def test_an_error_of_our_own_making_keeps_its_traceback_in_a_file(
    study: str, wardround: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this was not foreseen")

    monkeypatch.setattr("flows.api.load", fail)
    finished = wardround("check", study)
    log = tmp_path / "home" / "internal-error.log"
    assert finished.code == cli.INTERNAL
    assert finished.err.startswith("internal error: RuntimeError: this was not foreseen.")
    assert str(log) in finished.err
    assert "Traceback" not in finished.out + finished.err
    assert "Traceback" in log.read_text()


def test_a_disk_error_from_anywhere_is_told_in_words(
    study: str, wardround: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "/far/away/file")

    monkeypatch.setattr("flows.api.load", fail)
    finished = wardround("check", study)
    assert finished.code == 6
    assert finished.err.startswith("error: cannot use /far/away/file: the disk is full: free space")


def test_ctrl_c_before_anything_runs_is_one_message(
    study: str, wardround: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.api.load", interrupt)
    finished = wardround("check", study)
    assert finished.code == cli.INTERRUPTED
    assert "Traceback" not in finished.err


def test_help_waits_for_no_heavy_import() -> None:
    program = """
import contextlib, sys
from flows import cli
with contextlib.suppress(SystemExit):
    cli.main(["--help"])
print(sorted({"torch", "mlflow", "monai", "prefect", "pytorch_lightning"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_into_a_pipe_that_closes_ends_quietly(trained: Trained) -> None:
    command = f"{sys.executable} -m flows.cli journal show tiny --home {trained.home} | head -n 1"
    shell = shutil.which("bash")
    assert shell is not None
    done = subprocess.run(
        [shell, "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
