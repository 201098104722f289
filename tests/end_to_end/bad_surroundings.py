"""Disks, ports, servers, journals and models that are not as they should be, and what the one message must say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.bench import Bench, Case, small_disk

HOLD = "import sys; from components.journal import Journal; Journal.open(sys.argv[1]); print('held'); sys.stdin.read()"


def _full_disk(bench: Bench) -> list[str]:
    bench.environment["WARDROUND_HOME"] = str(small_disk(bench.folder / "disk", "8m", bench.undo) / "home")
    return bench.simulate()


def _read_only_disk(bench: Bench) -> list[str]:
    bench.environment["WARDROUND_HOME"] = str(small_disk(bench.folder / "disk", "64m", bench.undo, "ro") / "home")
    return bench.simulate()


def _home_below_a_file(bench: Bench) -> list[str]:
    return bench.simulate("--home", str(bench.folder / "case.yaml" / "home"))


def _mlflow_port(bench: Bench) -> list[str]:
    return ["ui", "--mlflow-port", str(bench.listening())]


def _prefect_port(bench: Bench) -> list[str]:
    home = bench.folder / "home"
    home.mkdir()
    shutil.copy(bench.trained.home / "mlflow.db", home)
    return ["ui", "--home", str(home), "--prefect-port", str(bench.listening())]


def _mlflow_away(bench: Bench) -> list[str]:
    bench.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    return bench.simulate()


def _mlflow_away_from_predict(bench: Bench) -> list[str]:
    bench.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    return ["predict", "models:/tiny/1", bench.study()]


def _prefect_away(bench: Bench) -> list[str]:
    bench.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    return bench.simulate()


def _driven_by_another(bench: Bench) -> list[str]:
    journal = bench.trained.home / "trainings" / "case" / "journal.jsonl"
    root = Path(__file__).resolve().parents[2]
    holder = bench.undo.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(journal)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
        )
    )  # fmt: skip
    bench.undo.callback(holder.terminate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return bench.simulate()


def _damage_journal(bench: Bench, name: str) -> Path:
    """Copy the journal of the earlier training under another study's name, and change what its third line says."""
    whole = (bench.trained.home / "trainings" / "tiny" / "journal.jsonl").read_text()
    journal = bench.trained.home / "trainings" / name / "journal.jsonl"
    shutil.rmtree(journal.parent, ignore_errors=True)
    journal.parent.mkdir(parents=True)
    lines = whole.splitlines(keepends=True)
    lines[2] = re.sub(r'"seq":3', '"seq":4', lines[2])
    journal.write_text("".join(lines))
    bench.undo.callback(shutil.rmtree, journal.parent)
    return journal


def _damaged_journal(bench: Bench) -> list[str]:
    _damage_journal(bench, "case")
    return bench.simulate()


def _damaged_journal_verify(bench: Bench) -> list[str]:
    return ["journal", "verify", str(_damage_journal(bench, "damaged"))]


def _text_file(bench: Bench) -> list[str]:
    return ["predict", "models:/tiny@champion", bench.study()]


def _tampered_weights(bench: Bench) -> list[str]:
    """Change one bit of the weights of version 1, wherever MLflow keeps them; put it back at the end."""
    sizes: dict[Path, bytes] = {}
    for path in bench.trained.home.joinpath("artifacts").rglob("weights.safetensors"):
        sizes[path] = path.read_bytes()
        changed = bytearray(sizes[path])
        changed[-1] ^= 1
        path.write_bytes(changed)
        bench.undo.callback(path.write_bytes, sizes[path])
    assert sizes
    return ["predict", "models:/tiny/1", *bench.film()]


CASES = [
    Case("full disk", _full_disk, 6, ["MB to spare", "free some", "--home"]),
    Case("read-only disk", _read_only_disk, 6, ["cannot write", "read-only", "--home"]),
    Case("home below a file", _home_below_a_file, 6, ["cannot write", "is a file, not a folder", "--home"]),
    Case("port of the MLflow UI in use", _mlflow_port, 7, [r"Port \d+ .*is in use", "--mlflow-port"]),
    Case("port of the Prefect UI in use", _prefect_port, 7, [r"Port \d+ .*is in use", "--prefect-port"]),
    Case(
        "MLflow unreachable", _mlflow_away, 7, ["MLflow at http://127.0.0.1:9 cannot be reached", "MLFLOW_TRACKING_URI"]
    ),
    Case(
        "MLflow unreachable for predict",
        _mlflow_away_from_predict,
        7,
        ["http://127.0.0.1:9", "is `mlflow server` running"],
    ),
    Case(
        "Prefect unreachable",
        _prefect_away,
        7,
        ["Prefect at http://127.0.0.1:9/api cannot be reached", "PREFECT_API_URL"],
    ),
    Case(
        "another process drives the journal",
        _driven_by_another,
        6,
        [r"trainings/case/journal\.jsonl", r"process \d+", "wait for it or stop it"],
    ),
    Case("damaged journal", _damaged_journal, 6, [r"trainings/case/journal\.jsonl", "line 3"]),
    Case("damaged journal, verified", _damaged_journal_verify, 6, [r"trainings/damaged/journal\.jsonl", "line 3"]),
    Case(
        "journal of nothing",
        lambda b: ["journal", "show", "nobody"],
        6,
        ["no journal of 'nobody'", "there are journals of .*tiny"],
    ),
    Case("unknown model", lambda b: ["predict", "models:/nobody@champion", *b.film()], 7, ["nobody", "champion"]),
    Case(
        "unknown alias",
        lambda b: ["predict", "models:/tiny@crown", *b.film()],
        7,
        ["models:/tiny@crown", "alias 'crown'"],
    ),
    Case("unknown version", lambda b: ["predict", "models:/tiny/99", *b.film()], 7, ["tiny", "99"]),
    Case("no model's address", lambda b: ["predict", "tiny", *b.film()], 2, ["models:/<study>@<alias>", "'tiny'"]),
    Case(
        "predict before anything was run",
        lambda b: ["predict", "--home", str(b.folder / "new"), "models:/tiny/1", *b.film()],
        7,
        ["Nothing is recorded in", "wardround demo"],
    ),
    Case("missing file", lambda b: ["predict", "models:/tiny@champion", "gone.dcm"], 3, [r"no such file: gone\.dcm"]),
    Case("text file", _text_file, 3, [r"case\.yaml: not a DICOM, NIfTI, PNG or JPEG file"]),
    Case("tampered weights", _tampered_weights, 6, [r"weights\.safetensors .*not what was registered", "restore it"]),
    Case(
        "personal layers of a shared model",
        lambda b: ["predict", "models:/tiny/1", *b.film(), "--site", "site-1"],
        2,
        ["--site site-1", "FedAvg", "leave it out"],
    ),
]
