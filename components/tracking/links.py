"""Addresses of pages in the MLflow UI, and the note that leads from MLflow to Prefect."""

from __future__ import annotations

from urllib.parse import quote


def experiments_url(ui: str) -> str:
    """Return the address of the list of experiments, in the mode for models, which a browser then stays in.

    MLflow's own start page is that for language models, where an experiment shows no runs.

    >>> experiments_url("http://127.0.0.1:5000")
    'http://127.0.0.1:5000/#/experiments?workflowType=machine_learning'
    """
    return f"{ui.rstrip('/')}/#/experiments?workflowType=machine_learning"


def version_url(ui: str, name: str, version: int) -> str:
    """Return the address of a registered version's page.

    >>> version_url("http://127.0.0.1:5000", "pneumonia", 3)
    'http://127.0.0.1:5000/#/models/pneumonia/versions/3'
    """
    return f"{ui.rstrip('/')}/#/models/{quote(name, safe='')}/versions/{version}"


def training_note(study: str, training: str, prefect_url: str | None = None, prefect_run: str | None = None) -> str:
    """Return the description of a training's run, in Markdown, with the way to its flow run in Prefect, if known.

    Args:
        study: Name of the study.
        training: Identifier of the training.
        prefect_url: Address of the flow run, where Prefect has one that lasts.
        prefect_run: Identifier of the flow run.
    """
    lines = [f"Federated training `{training}` of study **{study}**. One nested run per site."]
    if prefect_url:
        lines.append(f"[Flow run in Prefect]({prefect_url})")
    elif prefect_run:
        lines.append(f"Flow run in Prefect: `{prefect_run}`")
    return "\n\n".join(lines)
