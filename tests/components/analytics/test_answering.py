"""The site's half is light: it needs neither torch, nor Prefect, nor MLflow, nor a file."""

import subprocess
import sys


def test_answering_imports_no_torch_prefect_or_mlflow() -> None:
    code = (
        "import sys, components.analytics.answering, components.analytics.desk;"
        "heavy = ('torch', 'prefect', 'mlflow', 'monai', 'pandas', 'lifelines');"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
