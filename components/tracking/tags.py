"""Names of the tags WardRound sets on runs, logged models and model versions."""

STUDY = "wardround.study"
STUDY_DIGEST = "wardround.study_digest"
TRAINING = "wardround.training"
ROLE = "wardround.role"  # of a run: "training" (the parent) or "site" (a child)
SITE = "wardround.site"
ROUND = "wardround.round"
ROUND_KEY = "wardround.round_key"  # "<training>/<round>": one version each
WEIGHTS_DIGEST = "wardround.weights_digest"  # SHA-256 of weights.safetensors
PACKAGE_DIGEST = "wardround.package_digest"  # SHA-256 of manifest.json
METRICS = "wardround.metrics"  # the version's metrics as JSON
EVALUATION_DATA = "wardround.evaluation_data"  # digest of the data those metrics were measured on
CHAMPION = "wardround.champion"  # why this version became champion, or why not
PREFECT_RUN = "wardround.prefect_run"  # of a run: identifier of the flow run that shows it
PREFECT_URL = "wardround.prefect_url"  # its address, where Prefect has one that lasts
STATUS_REASON = "wardround.status_reason"

PARENT_RUN = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
MODEL_VERSIONS = "mlflow.modelVersions"
KIND = "mlflow.experimentKind"
