"""Boosted trees as other libraries load them: XGBoost's JSON, written from the weights alone.

The columns are the features as the registered model encodes them: numbers as they are, 0 and 1, the place of a category
counted from 0; NaN is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from components.grown import is_grown
from components.study import Study
from components.weights import Weights

XGBOOST = "trees/xgboost.json"
NO_PARENT = 2**31 - 1
_OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    "multilabel": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    "multiclass": {"name": "multi:softprob"},
}


def tree_files(study: Study, weights: Weights) -> dict[str, bytes]:
    """Return the files that a version of boosted trees has beside its own, by place; none of another network."""
    if not is_grown(study) or study.data.records is None:
        return {}
    features = study.data.records.features
    model = xgboost_model(
        {name.removeprefix("network."): tensor for name, tensor in weights.items()},
        names=[feature.name for feature in features],
        kind=study.task.kind,
    )
    return {XGBOOST: (json.dumps(model, separators=(",", ":"), allow_nan=False) + "\n").encode()}


def gain_shares(features: Sequence[str], weights: Weights) -> dict[str, float]:
    """Return by feature its part of the gain of all splits; nothing before there is a split.

    >>> import torch
    >>> feature, gain = torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[5.0, 2.0, 1.0]]])
    >>> gain_shares(["age", "sex"], {"network.feature": feature, "network.gain": gain})
    {'age': 0.25, 'sex': 0.75}
    """
    used, gain = weights["network.feature"].flatten(), weights["network.gain"].double().flatten()
    sums = [float(gain[used == place].sum()) for place in range(len(features))]
    whole = sum(sums)
    return {name: own / whole for name, own in zip(features, sums, strict=True)} if whole > 0 else {}


def xgboost_model(trees: Mapping[str, Tensor], *, names: Sequence[str], kind: str) -> dict[str, Any]:
    """Return boosted trees in XGBoost's JSON schema of models (1.6 and newer), for ``xgboost.Booster.load_model``.

    Args:
        trees: The entries of `models.trees.BoostedTrees`, by its names.
        names: What the columns are called.
        kind: Of the task; its scores are those of ``binary:logistic`` or ``multi:softprob``.

    Guarantees:
        XGBoost's scores are the model's, to the rounding of single precision. What a class has before any tree is a
        tree of one leaf, so no version's reading of ``base_score`` matters.
    """
    steps, outputs, _ = trees["feature"].shape
    categorical = [bool(count) for count in trees["places"].tolist()]
    made = [_leaf(value) for value in trees["base"].tolist()]
    for step in range(min(steps, _grown(trees))):
        made += [_tree({name: trees[name][step, output] for name in _PARTS}, categorical) for output in range(outputs)]
    for number, tree in enumerate(made):
        tree["id"] = number
        tree["tree_param"]["num_feature"] = str(len(names))
    rounds = len(made) // outputs
    objective = dict(_OBJECTIVES[kind])
    if kind == "multiclass":
        objective["softmax_multiclass_param"] = {"num_class": str(outputs)}
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(made))},
        "iteration_indptr": [outputs * step for step in range(rounds + 1)],
        "tree_info": list(range(outputs)) * rounds,
        "trees": made,
    }
    learner = {
        "attributes": {},
        "feature_names": list(names),
        "feature_types": ["c" if one else "float" for one in categorical],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": "5E-1",
            "boost_from_average": "0",
            "num_class": str(outputs if kind == "multiclass" else 0),
            "num_feature": str(len(names)),
            "num_target": str(outputs if kind == "multilabel" else 1),
        },
        "objective": objective,
    }
    return {"learner": learner, "version": [1, 6, 0]}


_PARTS = ("feature", "threshold", "missing_right", "value", "gain", "weight")


def _grown(trees: Mapping[str, Tensor]) -> int:
    """Return how many trees have been begun."""
    tree, level = (int(value) for value in trees["place"].tolist())
    return max(tree, 0) + (level > 0)


def _leaf(value: float) -> dict[str, Any]:
    """Return a tree of one leaf."""
    return _columns([{**_NODE, "split_conditions": value, "base_weights": value}])


_NODE: dict[str, Any] = {
    "base_weights": 0.0,
    "default_left": 0,
    "left_children": -1,
    "loss_changes": 0.0,
    "parents": NO_PARENT,
    "right_children": -1,
    "split_conditions": 0.0,
    "split_indices": 0,
    "split_type": 0,
    "sum_hessian": 0.0,
}


def _tree(parts: Mapping[str, Tensor], categorical: Sequence[bool]) -> dict[str, Any]:
    """Return one tree; its nodes are numbered anew, without those that are not there."""
    entry = {name: tensor.tolist() for name, tensor in parts.items()}
    inner, kept = len(entry["feature"]), [0]
    for node in kept:  # it grows meanwhile
        if node < inner and entry["feature"][node] >= 0:
            kept += [2 * node + 1, 2 * node + 2]
    number = {node: place for place, node in enumerate(kept)}
    nodes = []
    for node in kept:
        found = {**_NODE, "base_weights": entry["value"][node], "sum_hessian": entry["weight"][node]}
        if node:
            found["parents"] = number[(node - 1) // 2]
        if 2 * node + 1 in number:
            feature = int(entry["feature"][node])
            found |= {
                "default_left": int(not entry["missing_right"][node]),
                "left_children": number[2 * node + 1],
                "right_children": number[2 * node + 2],
                "loss_changes": entry["gain"][node],
                "split_conditions": entry["threshold"][node],
                "split_indices": feature,
                "split_type": int(categorical[feature]),
            }
        else:
            found["split_conditions"] = entry["value"][node]
        nodes.append(found)
    return _columns(nodes)


def _columns(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a tree's nodes as XGBoost has them, a list for each word; a node's category goes right there as here."""
    chosen = [place for place, node in enumerate(nodes) if node["split_type"]]
    return {
        **{word: [node[word] for node in nodes] for word in _NODE},
        "categories": [int(nodes[place]["split_conditions"]) for place in chosen],
        "categories_nodes": chosen,
        "categories_segments": list(range(len(chosen))),
        "categories_sizes": [1] * len(chosen),
        "tree_param": {"num_deleted": "0", "num_nodes": str(len(nodes)), "size_leaf_vector": "1"},
    }
