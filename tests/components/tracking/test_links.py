from components.tracking.links import experiments_url, training_note, version_url


def test_addresses_lead_into_the_ui_whether_or_not_the_base_ends_in_a_slash() -> None:
    assert experiments_url("http://host:5000/") == experiments_url("http://host:5000")
    assert version_url("http://host/mlflow/", "lungs", 2) == "http://host/mlflow/#/models/lungs/versions/2"


def test_note_names_study_and_training_and_links_to_prefect() -> None:
    note = training_note("lungs", "lungs-1", "http://host:4200/runs/flow-run/7")
    assert "`lungs-1`" in note
    assert "[Flow run in Prefect](http://host:4200/runs/flow-run/7)" in note
    assert training_note("lungs", "lungs-1", prefect_run="7").endswith("Flow run in Prefect: `7`")
    assert "Prefect" not in training_note("lungs", "lungs-1")
