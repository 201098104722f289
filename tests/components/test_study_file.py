# ruff: noqa: E501 - each bad case stands in one line, as it is printed
"""A study file that is right loads; one that is wrong is told why, where, and what is allowed."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.assemble import assemble
from components.errors import StudyError
from components.strategies import STRATEGIES
from components.study import Study, VirtualSites
from components.study_file import dump_study, load_study, study_schema
from components.yaml_lines import parse_yaml
from flows.build import build_module

FILES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
STUDIES = [path for path in FILES if "\nanalysis:" not in path.read_text()]  # the others train nothing
GOOD = """\
study: chest
task:
  classes: [normal, opacity]
network:
  name: CNN
data:
  source: folder
  spatial_size: [64, 64]
sites:
  - name: east
    path: hospitals/east
  - name: north
    path: hospitals/north
strategy:
  name: FedProx
  proximal_weight: 0.01
rounds:
  max: 3
  quorum: 2
local:
  epochs: 1
"""
METRICS = (
    "auroc, average_precision, accuracy, balanced_accuracy, sensitivity, specificity, brier, calibration_error, loss, "
    "concordance, concordance_ipcw, integrated_brier"
)
SECTIONS = "study, description, task, network, data, sites, strategy, rounds, local, evaluate, seed"
NETWORKS = "CNN, DenseNet, ResNet, EfficientNet, ViT, LogisticRegression, MLP, Linear, BoostedTrees"
QUORUM = (
    "a whole number, 1 or more (that many sites), or a number with a decimal point, "
    "above 0 and at most 1 (that part of the roster; 1.0 is all of it)"
)
A_NAME = "a name of letters, digits, '_', '.' and '-' that starts with a letter or digit, at most 63"
SITES = "a list of hospitals, each {name, path}, or {count, partition} for virtual ones"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        Path("chest.yaml").write_text(text)
        return Path("chest.yaml")

    return write_file


# (what is replaced, by what, the message after "chest.yaml")
BAD = [
    # numbers
    ("max: 3", "max: -3", ":18: rounds.max: given -3; must be 1 or more"),
    ("max: 3", "max: 2.5", ":18: rounds.max: given 2.5; must be a whole number, 1 or more"),
    ("max: 3", "max: 1e1", ":18: rounds.max: given 1e1; must be a whole number, 1 or more"),
    ("max: 3", "max: '3'", ":18: rounds.max: given '3'; must be a whole number, 1 or more; write it without quotes"),
    ("max: 3", "max: many", ":18: rounds.max: given 'many'; must be a whole number, 1 or more"),
    ("max: 3", "max: yes", ":18: rounds.max: given yes; must be a whole number, 1 or more"),
    ("max: 3", "max:", ":18: rounds.max: given nothing; must be a whole number, 1 or more"),
    ("max: 3", "max: [3]", ":18: rounds.max: given a list; must be a whole number, 1 or more"),
    ("max: 3", "deadline_s: .inf", ":18: rounds.deadline_s: given .inf; must be a finite number"),
    ("max: 3", "deadline_s: 1:30", ":18: rounds.deadline_s: given '1:30'; must be a number, above 0"),
    ("classes: [normal, opacity]", "classes: [a, b]\n  threshold: 1", ":4: task.threshold: given 1; must be above 0 and below 1"),
    ("study: chest", "seed: -1\nstudy: chest", ":1: seed: given -1; must be from 0 to 4294967295"),
    # keys
    ("  max: 3", "  maxx: 3", ":18: rounds.maxx: unknown key; did you mean max?; allowed: max, mode, buffer, max_staleness, convergence, quorum, required, deadline_s, late, max_change, selection"),
    ("study: chest", "batch_size: 3\nstudy: chest", f":1: batch_size: unknown key; did you mean local.batch_size?; allowed: {SECTIONS}"),
    ("    path: hospitals/east", "    pth: hospitals/east", ":10: sites[0].path: missing; must be text\n:11: sites[0].pth: unknown key; did you mean path?; allowed: name, path"),
    ("  source: folder\n", "", ":6: data.source: missing; must be one of datalist, table, folder, npz, records"),
    ("study: chest\n", "", f": study: missing; must be {A_NAME}"),
    ("  max: 3", "  max: 3\n  max: 4", ":19: rounds.max: given twice, first in line 18"),
    ("  max: 3", "  on: 3", ":18: the key on in rounds is not text; quote it"),
    ("  max: 3", "  [max]: 3", ":18: a key in rounds is a list or a table; keys are words"),
    ("  source: folder", "  source: folder\n  columns: {fil: x}", ":8: data.columns.fil: unknown key; did you mean file?; allowed: file, label, patient, split, time, event"),
    # closed lists
    ("name: CNN", "name: densnet", f":5: network.name: given 'densnet'; must be one of {NETWORKS}; did you mean DenseNet?"),
    ("name: CNN", "name: U-Net", f":5: network.name: given 'U-Net'; must be one of {NETWORKS}"),
    ("max: 3", "convergence: {metric: auc}", f":18: rounds.convergence.metric: given 'auc'; must be one of {METRICS}; did you mean auroc?"),
    ("epochs: 1", "epochs: 1\n  precision: 16", ":22: local.precision: given 16; must be one of 32, 16-mixed, bf16-mixed"),
    ("  source: folder", "  source: folder\n  channels: '1'", ":8: data.channels: given '1'; must be one of 1, 3; write it without quotes"),
    # words that YAML takes for something else
    ("[normal, opacity]", "[no, yes]", ":3: task.classes[0]: given no; must be text; YAML reads it as false, so write it in quotes: 'no'\n:3: task.classes[1]: given yes; must be text; YAML reads it as true, so write it in quotes: 'yes'"),
    ("[normal, opacity]", "[0, 1.5]", ":3: task.classes[0]: given 0; must be text; write it in quotes: '0'\n:3: task.classes[1]: given 1.5; must be text; write it in quotes: '1.5'"),
    # lists and tables
    ("[64, 64]", "[64]", ":8: data.spatial_size: given a list of 1; must be a list of 2 to 3, each a whole number, 1 or more"),
    ("[64, 64]", "64", ":8: data.spatial_size: given 64; must be a list of 2 to 3, each a whole number, 1 or more"),
    ("[64, 64]", "\n    - 64\n    - 0", ":10: data.spatial_size[1]: given 0; must be 1 or more"),
    ("task:\n  classes: [normal, opacity]", "task:", ":2: task: given nothing; must be a table with the keys kind, classes, threshold, imbalance, survival, treatment"),
    ("strategy:\n  name: FedProx\n  proximal_weight: 0.01", "strategy: FedAvg", ":14: strategy: given 'FedAvg'; must be a table with the key name"),
    # either one kind of value or another: one message, not one for each kind
    (GOOD[GOOD.index("sites:") : GOOD.index("strategy:")], "sites: 3\n", f":9: sites: given 3; must be {SITES}"),
    (GOOD[GOOD.index("sites:") : GOOD.index("strategy:")], "sites: []\n", ":9: sites: given a list of 0; must be a list of 1 or more, each a table with the keys name, path"),
    (GOOD[GOOD.index("  - name: east") : GOOD.index("strategy:")], "  partition: size:1\n", ":10: sites.partition: given 'size:1'; must be iid, dirichlet:ALPHA, sizes:A,B,... (parts that add up to 1) or column:NAME"),
    ("name: east", "name: St. Mary's", f":10: sites[0].name: given \"St. Mary's\"; must be {A_NAME}"),
    ("name: east", "name: Pooled", ":10: sites[0].name: 'Pooled' stands for all sites' items in one place: give the site another name"),
    ("quorum: 2", "quorum: 0", f":19: rounds.quorum: given 0; must be {QUORUM}"),
    ("quorum: 2", "quorum: 1.5", f":19: rounds.quorum: given 1.5; must be {QUORUM}"),
    ("quorum: 2", "quorum: all", f":19: rounds.quorum: given 'all'; must be {QUORUM}"),
    # what does not go together
    ("quorum: 2", "quorum: 3", ":19: rounds.quorum is 3, but there are 2 sites"),
    ("name: north", "name: east", ":9: sites: names must differ from each other, given ['east', 'east']"),
    ("[normal, opacity]", "[normal, normal]", ":3: task: classes must differ from each other, given ['normal', 'normal']"),
    ("epochs: 1", "epochs: 1\n  steps: 5", ":20: local: give epochs or steps: exactly one of them"),
    ("max: 3", "convergence:\n    metric: loss", ":19: rounds.convergence: metric loss goes with mode: min, given max"),
    ("max: 3", "selection: {count: 5}", ":18: rounds.selection.count: given 5; must be at most the number of sites, 2"),
    ("max: 3", "selection: {count: 1}", ":19: rounds.quorum: given 2 (a whole number: that many sites); must be at most 1, the sites asked in a round; 1.0 with its decimal point is all of them"),
    ("source: folder", "source: npz", ":7: data: source npz needs 'path': a file relative to WARDROUND_DATA, or a known data set"),
    ("epochs: 1", "epochs: 1\n  precision: 16-mixed\n  device: cpu", ":22: local.precision: given 16-mixed with device cpu; must be 32 or bf16-mixed there: a CPU has no 16-mixed"),
    # the strategy's own hyper-parameters
    ("proximal_weight: 0.01", "proximal_wieght: 0.01", ":16: strategy.proximal_wieght: unknown key; did you mean proximal_weight?; allowed: proximal_weight, weighting"),
    ("proximal_weight: 0.01", "proximal_weight: strong", ":16: strategy.proximal_weight: given 'strong'; must be a number"),
    ("proximal_weight: 0.01", "proximal_weight: -1", ":16: strategy: proximal_weight must be 0 or more, given -1.0"),
    ("proximal_weight: 0.01", "weighting: sample", ":16: strategy.weighting: given 'sample'; must be one of samples, uniform; did you mean samples?"),
    ("name: FedProx", "name: FedAvg", ":16: strategy.proximal_weight: unknown key; allowed: weighting"),
    # not YAML, or not the part of it that is read
    ("  max: 3", "\tmax: 3", ":18: cannot be read as YAML: found character '\\t' that cannot start any token; indent with blanks, not with tabs"),
    ("study: chest", "study: chest: film", ":1: cannot be read as YAML: mapping values are not allowed here; quote a value that holds ': ', and look at how the line is indented"),
    ("name: CNN", "name: &n CNN", ":5: cannot be read as YAML: anchors (&) and aliases (*) are not read here; quote a text that starts like one"),
    ("name: CNN", "name: *n", ":5: cannot be read as YAML: anchors (&) and aliases (*) are not read here; quote a text that starts like one"),
    ("name: CNN", "name: !!python/name:os.system", ":5: cannot be read as YAML: the tag tag:yaml.org,2002:python/name:os.system is not read here; quote a text that starts with !"),
    ("name: CNN", f"arguments: {'[' * 40}{']' * 40}", ":5: cannot be read as YAML: nested deeper than 32 levels"),
    (GOOD, "", ": is empty; 'studies/' holds examples to start from"),
    (GOOD, "- study\n", ":1: must be a table of 'key: value' lines"),
    ("study: chest", "---\nstudy: chest\n---", ":3: cannot be read as YAML: but found another document"),
    ("study: chest", "study: che\x01st", ":1: holds a character that is not text (U+0001); delete it"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[f"{number}" for number in range(len(BAD))])
def test_a_mistake_is_one_exact_message(write: Callable[[str], Path], old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    path = write(GOOD.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert str(caught.value) == "\n".join(f"chest.yaml{line}" for line in message.split("\n"))


def test_the_good_study_of_the_bad_cases_is_good(write: Callable[[str], Path]) -> None:
    study = load_study(write(GOOD))
    assert (study.study, study.rounds.quorum, study.strategy.hyperparameters) == ("chest", 2, {"proximal_weight": 0.01})


def test_all_mistakes_are_listed_in_the_order_of_their_lines(write: Callable[[str], Path]) -> None:
    text = GOOD.replace("max: 3", "max: 0").replace("name: CNN", "name: cnn").replace("proximal_weight", "proximal")
    with pytest.raises(StudyError) as caught:
        load_study(write(text))
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["chest.yaml:5", "network.name"],
        ["chest.yaml:16", "strategy.proximal"],
        ["chest.yaml:18", "rounds.max"],
    ]
    assert caught.value.field == "network.name"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such file; look at the spelling and at the folder you are in"),
        (lambda path: path.mkdir(), "is a folder; give the file inside it"),
        (lambda path: path.write_bytes(b"a: 1\nb: \xff\xfe"), "is not UTF-8 text; save it as UTF-8"),
        (lambda path: path.write_bytes(b"#" * (1 << 20) + b"\n"), "has more than 1048576 bytes"),
    ],
)
def test_what_is_no_study_file_is_told(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(tmp_path / "x.yaml")
    with pytest.raises(StudyError, match=rf"x\.yaml(:2)?: {message}"):
        load_study(tmp_path / "x.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_example_loads_assembles_and_fits_the_schema(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    assert study.study == path.stem
    assert type(assemble(study).strategy).__name__ == study.strategy.name
    build_module(study)
    jsonschema.validate(yaml.safe_load(path.read_text()), study_schema())
    (tmp_path / "dumped.yaml").write_text(dump_study(study))
    again = load_study(tmp_path / "dumped.yaml")
    assert (again, again.digest) == (study, study.digest)


def test_there_are_examples() -> None:
    assert {path.stem for path in STUDIES} >= {"demo", "pneumonia"}


PNEUMONIA = next(path for path in STUDIES if path.stem == "pneumonia")


def test_overrides_replace_the_files_values() -> None:
    given = {"rounds.max": 2, "seed": 9, "sites.count": 5, "sites.partition": "iid", "strategy.name": None}
    study = load_study(PNEUMONIA, given)
    assert (study.rounds.max, study.seed, study.sites) == (2, 9, VirtualSites(count=5, partition="iid"))
    assert study.strategy == load_study(PNEUMONIA).strategy


def test_another_partition_keeps_the_number_of_sites_unless_it_names_its_own() -> None:
    assert load_study(PNEUMONIA, {"sites.partition": "dirichlet:0.3"}).sites == VirtualSites(
        count=3, partition="dirichlet:0.3"
    )
    assert load_study(PNEUMONIA, {"sites.partition": "sizes:0.5,0.5"}).sites == VirtualSites(partition="sizes:0.5,0.5")


def test_another_strategy_starts_from_its_own_defaults(write: Callable[[str], Path]) -> None:
    path = write(GOOD)
    assert load_study(path, {"strategy.name": "FedAdam"}).strategy.hyperparameters == {}
    assert load_study(path, {"strategy.name": "FedProx"}).strategy.hyperparameters == {"proximal_weight": 0.01}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rounds.max": -3}, "--rounds: rounds.max: given -3; must be 1 or more"),
        ({"seed": "x"}, "--seed: seed: given 'x'; must be a whole number, from 0 to 4294967295"),
        ({"sites.count": 5}, "--sites: sites: count is 5, but sizes names 3 sites; make them agree"),
        (
            {"sites.partition": "sizes:1,2"},
            "--partition: sites: partition sizes must be above 0 and add up to 1, given 1,2",
        ),
        (
            {"strategy.name": "fedadm"},
            f"--strategy: strategy.name: given 'fedadm'; must be one of {', '.join(STRATEGIES)}; did you mean FedAdam?",
        ),
        ({"round.max": 3}, f"override round.max: round: unknown key; did you mean rounds?; allowed: {SECTIONS}"),
        ({"seed.x": 3}, f"override seed.x: {PNEUMONIA} gives seed not as a table"),
    ],
)
def test_a_mistake_in_an_override_names_the_option(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(PNEUMONIA, overrides)
    assert str(caught.value) == message


def test_sites_given_as_folders_cannot_be_counted(write: Callable[[str], Path]) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(GOOD), {"sites.count": 5})
    assert str(caught.value) == (
        "--sites: chest.yaml gives sites as a list of hospitals; virtual ones are {count, partition}"
    )


def test_further_checks_get_file_and_line(write: Callable[[str], Path]) -> None:
    def refuse_network(study: Study) -> None:
        raise StudyError("given 'CNN'; not for three dimensions", "network.name")

    def refuse_default(study: Study) -> None:
        raise StudyError("local.batch_size: given 32; too many", "local.batch_size")

    with pytest.raises(StudyError) as caught:
        load_study(write(GOOD), checks=[refuse_default, refuse_network])
    assert str(caught.value).splitlines() == [
        "chest.yaml:5: network.name: given 'CNN'; not for three dimensions",
        "chest.yaml:20: local.batch_size: given 32; too many",
    ]


def test_the_schema_is_closed_and_knows_each_strategys_hyperparameters(write: Callable[[str], Path]) -> None:
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    good = parse_yaml(GOOD, "x.yaml").value
    jsonschema.validate(good, schema)
    for change in ({"strategy": {"name": "FedAvg", "proximal_weight": 1}}, {"more": 1}, {"local": {"epoch": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | change, schema)
    for name, kind in STRATEGIES.items():
        fields = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        jsonschema.validate(good | {"strategy": {"name": name, **fields}}, schema)


def test_no_message_speaks_pydantics_language(write: Callable[[str], Path]) -> None:
    jargon = re.compile(r"Input should|valid (integer|string|number)|_type|Value error|dict\b|\bstr\b|\bint\b|NoneType")
    assert not [message for _, _, message in BAD if jargon.search(message)]
