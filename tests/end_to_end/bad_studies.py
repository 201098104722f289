"""Studies and data that are wrong, and what the one message must say."""

import numpy as np

from tests.end_to_end.bench import Bench, Case


def _missing_study(bench: Bench) -> list[str]:
    return ["simulate", str(bench.folder / "nowhere.yaml")]


def _not_yaml(bench: Bench) -> list[str]:
    return ["simulate", bench.study("study: case\n\tdata: [1, 2\n")]


def _missing_folder(bench: Bench) -> list[str]:
    changes = bench.hospital([])
    return bench.simulate(**{**changes, "sites": [{"name": "east", "path": "nowhere"}]})


def _one_class(bench: Bench) -> list[str]:
    arguments = bench.simulate(sites={"partition": "sizes:0.5,0.5"})
    bench.arrays(train_labels=np.zeros((96, 1), np.uint8))
    return arguments


def _label_outside(bench: Bench) -> list[str]:
    arguments = bench.simulate()
    bench.arrays(train_labels=np.full((96, 1), 7, np.uint8))
    return arguments


def _nan_pixels(bench: Bench) -> list[str]:
    arguments = bench.simulate()
    bench.arrays(train_images=np.full((96, 16, 16), np.nan, np.float32))
    return arguments


def _third_class(bench: Bench) -> list[str]:
    return bench.simulate(task={"kind": "multiclass", "classes": ["normal", "ill", "worse"]}, rounds={"max": 1})


def _broken_dicom(bench: Bench) -> list[str]:
    names = bench.films(20, "dcm")
    for name in names[:6]:
        path = bench.folder / "east" / name
        path.write_bytes(path.read_bytes()[:300])
    return bench.simulate(**bench.hospital([(name, row % 2) for row, name in enumerate(names)]))


def _wrong_modality(bench: Bench) -> list[str]:
    names = bench.films(10, "dcm", modality="MR")
    changes = bench.hospital([(name, row % 2) for row, name in enumerate(names)])
    changes["data"]["modality"] = ["CR", "DX"]
    return bench.simulate(**changes)


def _nan_update(bench: Bench) -> list[str]:
    return bench.simulate(local={"optimizer": {"name": "sgd", "learning_rate": 1e30}})


def _offline(bench: Bench) -> list[str]:
    """No data below WARDROUND_DATA, none in the cache, and every address leads to a port nobody listens on."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
    folder = str(bench.folder / "nothing")
    bench.environment.update(proxies, WARDROUND_DATA=folder, XDG_CACHE_HOME=folder, NO_PROXY="", no_proxy="")
    return bench.simulate(data={"path": "pneumoniamnist", "spatial_size": [28, 28]})


CASES = [
    Case(
        "unknown key",
        lambda b: b.simulate(rounds={"maxx": 3}),
        2,
        [r"case\.yaml:\d+: rounds\.maxx: unknown key", "did you mean max"],
    ),
    Case(
        "negative rounds",
        lambda b: b.simulate(rounds={"max": -3}),
        2,
        [r"case\.yaml:\d+: rounds\.max: given -3", "1 or more"],
    ),
    Case(
        "negative rounds by option",
        lambda b: b.simulate("--rounds", "-3"),
        2,
        [r"--rounds: rounds\.max: given -3", "1 or more"],
    ),
    Case(
        "wrong type",
        lambda b: b.simulate(local={"batch_size": "many"}),
        2,
        [r"local\.batch_size: given 'many'", "a whole number"],
    ),
    Case(
        "typo in the strategy",
        lambda b: b.simulate(strategy={"name": "FedAvgg"}),
        2,
        [r"strategy\.name: given 'FedAvgg'", "did you mean FedAvg"],
    ),
    Case(
        "typo in the strategy by option",
        lambda b: b.simulate("--strategy", "FedProxy"),
        2,
        ["--strategy: ", "did you mean FedProx"],
    ),
    Case(
        "unknown network argument",
        lambda b: b.simulate(network={"name": "CNN", "arguments": {"width": [4]}}),
        2,
        [r"network\.arguments: .*width", "widths"],
    ),
    Case(
        "metric that does not exist",
        lambda b: b.simulate(rounds={"convergence": {"metric": "aurok"}}),
        2,
        ["given 'aurok'", "did you mean auroc"],
    ),
    Case(
        "unknown partition", lambda b: b.simulate("--partition", "dirichlet"), 2, ["--partition: ", "dirichlet:ALPHA"]
    ),
    Case(
        "no sites",
        lambda b: b.simulate("--sites", "0", sites={"count": 3, "partition": "iid"}),
        2,
        [r"--sites: sites\.count: given 0", "1 or more"],
    ),
    Case(
        "unknown dispatcher",
        lambda b: ["simulate", b.study(), "--dispatcher", "cluster"],
        2,
        ["--dispatcher", "'cluster'", "in-process"],
    ),
    Case("missing study file", _missing_study, 2, [r"nowhere\.yaml: no such file"]),
    Case("not YAML", _not_yaml, 2, [r"case\.yaml:2: ", "tab"]),
    Case("missing data folder", _missing_folder, 3, ["east", "nowhere|no such folder|not there|no list"]),
    Case(
        "missing npz",
        lambda b: b.simulate(data={"path": "absent.npz"}),
        3,
        [r"data\.path 'absent\.npz': no such file", "WARDROUND_DATA"],
    ),
    Case("empty site", lambda b: b.simulate(**b.hospital([])), 3, ["items.csv lists no items"]),
    Case("one class only", _one_class, 3, ["all of one class", "check the labels"]),
    Case("label outside the classes", _label_outside, 3, ["items can be used", "label"]),
    Case("class without items", _third_class, 3, ["auroc cannot be watched", "class worse", "0 of worse"]),
    Case(
        "broken DICOM beyond the usable fraction",
        _broken_dicom,
        3,
        ["14 of 20 items can be used", "minimum_usable_fraction"],
    ),
    Case("wrong modality", _wrong_modality, 3, ["0 of 10 items can be used", "modality"]),
    Case(
        "wrong shape",
        lambda b: b.simulate(data={"spatial_size": [16, 16, 16]}),
        3,
        [r"shape \[16, 16\]", r"spatial_size \[16, 16, 16\]"],
    ),
    Case("NaN pixels", _nan_pixels, 3, ["items can be used", "not finite"]),
    Case(
        "NaN update",
        _nan_update,
        5,
        [
            "round 1 has 0 of the 3 updates it needs",
            "site-1, site-2, site-3: .*stopped being finite",
            r"local\.optimizer\.learning_rate",
        ],
    ),
    Case("offline without the data", _offline, 3, ["pneumoniamnist", "WARDROUND_DATA", "could not be downloaded"]),
]
