"""What is measured, against what. ``python -m benchmarks`` runs it; see `benchmarks.__main__`."""
