"""What MLflow keeps of a study: runs, metrics, data sets and registered model versions.

MLflow's usage telemetry is off: nothing about a hospital's work is reported to anybody. It has to be
switched off before MLflow is imported, hence here.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
