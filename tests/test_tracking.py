"""Dashboards: TensorBoard files, a real local MLflow store, a real offline W&B run."""

from pathlib import Path

import pytest

from scpl_ray import tracking
from scpl_ray.config import Experiment, Groups
from scpl_ray.records import Metric
from tests.support.configs import defaults

ROUNDS = [[Metric(t, "north", "share", 0.6 - t / 10), Metric(t, None, "disparate_gap", t / 10)] for t in range(3)]


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


def write(
    experiment: Experiment, run_dir: Path, rounds: list[list[Metric]], finished: bool, run_id: str | None = None
) -> None:
    boards = tracking.Boards(experiment, run_dir, str(run_dir), run_id)
    for rows in rounds:
        boards.write(rows)
    boards.close(finished=finished)


def test_tensorboard_is_always_there(tmp_path: Path) -> None:
    write(Experiment(), tmp_path, ROUNDS, True)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_resumed_run_goes_on_in_its_mlflow_run(tmp_path: Path, mlflow_store: None) -> None:
    from mlflow import MlflowClient

    experiment = defaults(["tracking.to=mlflow", "tracking.project=p", "loop.rounds=2"])
    write(experiment, tmp_path / "it's", ROUNDS[:2], False)
    client = MlflowClient()
    where = client.get_experiment_by_name("p").experiment_id
    (stopped,) = client.search_runs([where])
    assert stopped.info.status == "KILLED" and stopped.data.params["loop.rounds"] == "2"
    write(experiment, tmp_path / "it's", ROUNDS, True)
    (run,) = client.search_runs([where])
    assert run.info.status == "FINISHED" and run.info.run_id == stopped.info.run_id
    for tag, values in (("share/north", [0.6, 0.5, 0.4]), ("disparate_gap", [0.0, 0.1, 0.2])):
        points = client.get_metric_history(run.info.run_id, tag)
        assert [(p.step, p.value) for p in points] == list(enumerate(map(pytest.approx, values)))
    write(experiment, tmp_path / "other", ROUNDS, True)
    assert len(client.search_runs([where])) == 2


def test_a_run_has_a_record_of_its_own_wherever_it_lies(
    tmp_path: Path, mlflow_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run at its path begins another one, and a run that was moved goes on in its own."""
    from mlflow import MlflowClient

    experiment = defaults(["tracking.to=mlflow", "tracking.project=p"])
    write(experiment, tmp_path / "r", ROUNDS[:1], False, "first")
    write(experiment, tmp_path / "r", ROUNDS[:2], True, "second")
    write(experiment, tmp_path / "moved", ROUNDS, True, "first")
    client = MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    steps = {
        run.data.tags[tracking.RUN_TAG]: [p.step for p in client.get_metric_history(run.info.run_id, "disparate_gap")]
        for run in found
    }
    assert steps == {"first": [0, 1, 2], "second": [0, 1]} and {run.info.run_name for run in found} == {"r"}
    names = tracking.portable_names(experiment.groups.names)
    at = [
        tracking.WeightsAndBiases(experiment, tmp_path, tracking.Run(place, run_id), names)._settings
        for place, run_id in (("/a/r", "first"), ("/a/r", "second"), ("/b/r", "first"), ("/a/r", None), ("/b/r", None))
    ]
    assert at[0]["id"] == at[2]["id"] and len({one["id"] for one in at}) == 4 and {one["name"] for one in at} == {"r"}


NAMES = {
    "süd": "süd",
    "左派": "左派",
    "new york": "new_york",
    "new_york": "new_york-2",
    "left (US)": "left__US_",
    "a/b": "a_b",
    "..": "..-2",
    "100%": "100_",
}


def test_every_group_has_a_name_of_its_own_that_all_dashboards_take() -> None:
    assert tracking.portable_names(list(NAMES)) == NAMES


def test_mlflow_takes_names_and_paths_in_any_script(tmp_path: Path, mlflow_store: None) -> None:
    from mlflow import MlflowClient

    groups = ["süd", "左派", "left (US) $x$"]
    experiment = defaults(["tracking.to=mlflow", f"groups.names={groups}", "groups.shares=[0.4, 0.3, 0.3]"])
    rounds = [[Metric(0, group, "share", 0.5) for group in groups]]
    for name in ("é 'x' 左", "é x 左"):
        for _ in range(2):
            write(experiment, tmp_path / name, rounds, True)
    client = MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("scpl_ray").experiment_id])
    assert len(found) == 2
    assert {*found[0].data.metrics} == {"share/süd", "share/左派", "share/left__US___x_", "rounds_written"}


def test_a_group_name_is_one_line_of_text() -> None:
    for name in ("a\nb", "a\x00b", "a\u2028b", "\ud800"):
        with pytest.raises(ValueError, match="a name is text on one line, in any script"):
            Groups(names=("north", name))


@pytest.mark.parametrize("fault", [ValueError("odd"), TypeError("odd"), RuntimeError("odd"), UnicodeError("odd")])
def test_no_error_of_a_dashboard_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(tracking.TensorBoard, "write", fails)
    write(Experiment(), tmp_path, ROUNDS, True)
    assert caplog.text.count("TensorBoard is left out from now on: odd") == 1


@pytest.mark.parametrize("call", ["get_experiment_by_name", "log_batch", "set_terminated"])
def test_a_dashboard_that_fails_is_left_out_and_its_rounds_come_with_the_next_try(
    tmp_path: Path, mlflow_store: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def unreachable(*_: object, **__: object) -> None:
        raise MlflowException("API request failed: connection refused")

    experiment = defaults(["tracking.to=mlflow", "tracking.project=p"])
    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, call, unreachable)
        write(experiment, tmp_path, ROUNDS, True)
    assert caplog.text.count("MLflow is left out from now on: API request failed") == 1
    assert list((tmp_path / "tensorboard").glob("events.*"))
    write(experiment, tmp_path, ROUNDS, True)
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    assert [p.step for p in client.get_metric_history(run.info.run_id, "disparate_gap")] == [0, 1, 2]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(defaults(["tracking.to=wandb"]), tmp_path, ROUNDS, True)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tracking.to = 'mlflow': not installed; pip install mlflow-skinny"):
        tracking.check(defaults(["tracking.to=mlflow"]))
    tracking.check(Experiment())


def test_every_key_is_a_parameter() -> None:
    found = tracking.flat(Experiment())
    assert found["loop.rounds"] == 5 and found["model.lora.rank"] == 16 and found["task.fields"] == {}
