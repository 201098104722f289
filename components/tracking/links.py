"""Addresses of pages in the MLflow UI, and the note that leads from MLflow to Prefect."""

from __future__ import annotations

from urllib.parse import quote


def run_url(ui: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page.

    >>> run_url("http://127.0.0.1:5000/", "1", "abc")
    'http://127.0.0.1:5000/#/experiments/1/runs/abc'
    """
    return f"{ui.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def experiment_url(ui: str, experiment_id: str) -> str:
    """Return the address of a study's experiment.

    >>> experiment_url("http://127.0.0.1:5000", "1")
    'http://127.0.0.1:5000/#/experiments/1'
    """
    return f"{ui.rstrip('/')}/#/experiments/{experiment_id}"


def version_url(ui: str, name: str, version: int) -> str:
    """Return the address of a registered version's page.

    >>> version_url("http://127.0.0.1:5000", "pneumonia", 3)
    'http://127.0.0.1:5000/#/models/pneumonia/versions/3'
    """
    return f"{ui.rstrip('/')}/#/models/{quote(name, safe='')}/versions/{version}"


def training_note(study: str, training: str, prefect_url: str | None = None) -> str:
    """Return the description of a training's run, in Markdown, with the way to its flow run in Prefect."""
    lines = [f"Federated training `{training}` of study **{study}**. One nested run per site."]
    if prefect_url:
        lines.append(f"[Flow run in Prefect]({prefect_url})")
    return "\n\n".join(lines)
