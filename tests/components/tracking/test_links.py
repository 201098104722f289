from components.tracking.links import experiment_url, run_url, training_note, version_url


def test_addresses_lead_into_the_ui_whether_or_not_the_base_ends_in_a_slash() -> None:
    assert run_url("http://host:5000/", "1", "abc") == "http://host:5000/#/experiments/1/runs/abc"
    assert experiment_url("http://host:5000", "1") == "http://host:5000/#/experiments/1"
    assert version_url("http://host/mlflow/", "lungs", 2) == "http://host/mlflow/#/models/lungs/versions/2"


def test_note_names_study_and_training_and_links_to_prefect() -> None:
    note = training_note("lungs", "lungs-1", "http://host:4200/runs/flow-run/7")
    assert "`lungs-1`" in note
    assert "[Flow run in Prefect](http://host:4200/runs/flow-run/7)" in note
    assert "Prefect" not in training_note("lungs", "lungs-1")
