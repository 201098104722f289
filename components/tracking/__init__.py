"""What MLflow keeps of a study: runs, metrics, data sets and registered model versions.

MLflow's usage telemetry is off: nothing about a hospital's work is reported to anybody. It has to be
switched off before MLflow is imported, hence here.

With every request MLflow looks for the runtime of Databricks, through all of ``sys.path``; where it is not
installed, it is told so once.
"""

import importlib.util
import os
import sys

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
if "dbruntime" not in sys.modules and importlib.util.find_spec("dbruntime") is None:
    sys.modules["dbruntime"] = None  # type: ignore[assignment]
