"""Everything a flow calls: plain Python, testable without Prefect."""
