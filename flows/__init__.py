"""What runs, in which order, when, and what happens when it fails; the only place that imports Prefect."""
