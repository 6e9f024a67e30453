"""What a worker tells a study of its trials. The runs are stand-ins; tests/tuning/test_search.py has real ones."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from optuna.trial import TrialState

from src.core.errors import STOPPED, RunFailed, UserError
from src.logger.wandb import WandbLogger
from src.tuning import workers
from src.tuning.study import FAILURE, PRUNED_AT, Study
from tests.helpers.studies import TINY, begin

Run = Callable[[dict[str, Any]], float | None]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], list[dict[str, Any]]]:
    """Replace runs by a function from a config to the metric."""

    def replace(run: Run) -> list[dict[str, Any]]:
        configs = []

        def start(config: dict[str, Any], typed: list[str], always_apart: bool) -> None:
            assert always_apart
            configs.append(config)
            value = run(config)
            Path(config["run_dir"]).mkdir(parents=True, exist_ok=True)
            summary = {"final": {"train/generator_loss": value}}
            Path(config["run_dir"], "summary.json").write_text(json.dumps(summary))

        monkeypatch.setattr(workers, "start", start)
        return configs

    return replace


def learning_rate(config: dict[str, Any]) -> float:
    return config["model"]["generator_optimizer"]["lr"]


def test_every_trial_is_a_run_with_its_own_options_and_folder(tmp_path: Path, stand_in: Any) -> None:
    study = begin(tmp_path)
    configs = stand_in(learning_rate)
    workers.work(tmp_path, 3)
    assert [config["run_dir"] for config in configs] == [str(tmp_path / f"0000{number}") for number in range(3)]
    assert [trial.value for trial in study.trials] == [learning_rate(config) for config in configs]
    assert all(config["resume"] == "last" and config["seed"] == 0 for config in configs)
    assert {config["callbacks"]["study"]["every_images"] for config in configs} == {64}
    workers.work(tmp_path, 3)
    assert len(configs) == 3


def test_a_trial_that_breaks_is_told_with_its_reason_and_the_search_goes_on(tmp_path: Path, stand_in: Any) -> None:
    study = begin(tmp_path)
    ends = iter([UserError("loss is not finite"), RunFailed(137, "the process was killed by SIGKILL"), None, 1.5])

    def run(config: dict[str, Any]) -> float | None:
        end = next(ends)
        if isinstance(end, BaseException):
            raise end
        return end

    stand_in(run)
    workers.work(tmp_path, 4)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE]
    reasons = [trial.user_attrs.get(FAILURE) for trial in study.trials]
    assert reasons[:2] == ["loss is not finite", "the process was killed by SIGKILL"]
    assert str(reasons[2]).startswith("train/generator_loss was not measured or is not finite")
    assert "4 of 4 trials, 3 failed, 1 complete, best train/generator_loss 1.5 (trial 3)" in workers.progress(study, 4)


@pytest.mark.parametrize(
    "end", [RunFailed(143, "ended by SIGTERM", requested=True), RunFailed(STOPPED, "exit status 75")]
)
def test_a_stop_from_outside_leaves_the_trial_for_later(end: RunFailed, tmp_path: Path, stand_in: Any) -> None:
    study = begin(tmp_path)

    def run(config: dict[str, Any]) -> float:
        raise end

    stand_in(run)
    with pytest.raises(RunFailed):
        workers.work(tmp_path, 2)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    stand_in(learning_rate)
    workers.work(tmp_path, 2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_a_pruned_trial_is_told_also_by_the_next_worker(tmp_path: Path, stand_in: Any) -> None:
    study = begin(tmp_path)
    trial, lock = study.take(1) or pytest.fail("no trial")
    trial.report(3.0, 64)
    trial.set_user_attr(PRUNED_AT, 64)
    lock.release()  # its worker was killed before it could tell
    configs = stand_in(learning_rate)
    workers.work(tmp_path, 1)
    assert not configs
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.PRUNED, 3.0)


def test_seeds_of_a_trial_are_averaged_and_only_the_first_reports(tmp_path: Path, stand_in: Any) -> None:
    study = begin(tmp_path, seeds=[3, 4, 8])
    configs = stand_in(lambda config: config["seed"])
    workers.work(tmp_path, 1)
    assert study.trials[0].value == 5.0
    assert [Path(config["run_dir"]).name for config in configs] == ["seed_3", "seed_4", "seed_8"]
    assert ["study" in config["callbacks"] for config in configs] == [True, False, False]


def test_runs_of_a_study_are_one_group_of_wandb(tmp_path: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_GROUP", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    seen = []

    def run(config: dict[str, Any]) -> float:
        options = WandbLogger(config["run_dir"], "cats")._wandb_init
        seen.append((options["group"], options["name"]))
        return 1.0

    study = begin(tmp_path)
    stand_in(run)
    workers.work(tmp_path, 2)
    assert seen == [(study.settings["name"], "00000"), (study.settings["name"], "00001")]


def test_sampling_cost_counts_the_networks_that_sampling_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.encoder = torch.nn.Linear(3, 5), torch.nn.Linear(5, 100)

        def sample(self, count: int) -> torch.Tensor:
            return self.decoder(torch.zeros(count, 3))

    loaded = type("Loaded", (), {"inference": Model()})
    monkeypatch.setattr(workers, "load_run", lambda folder, device: loaded)
    cost = workers.sampling_cost(Path("run"))
    assert cost["parameters"] == 3 * 5 + 5
    assert 0 < cost["seconds_per_sample"] < 0.1


def test_second_objective_makes_a_front(tmp_path: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin(tmp_path, second_objective="parameters")
    stand_in(learning_rate)
    costs = iter([5.0, 1.0, 9.0])
    monkeypatch.setattr(workers, "sampling_cost", lambda folder: {"parameters": next(costs)})
    workers.work(tmp_path, 3)
    values = [trial.values for trial in study.trials]
    assert [value[1] for value in values] == [5.0, 1.0, 9.0]
    front = {trial.number for trial in study.optuna.best_trials}
    assert front == {n for n, v in enumerate(values) if not any(w[0] < v[0] and w[1] < v[1] for w in values)}


class ThreeGPUs:
    """Stands in for subprocess.Popen."""

    environments: ClassVar[list[dict[str, str]]] = []

    def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
        self.environments.append(env)

    def poll(self) -> int:
        return 0

    wait, terminate = poll, poll


@pytest.mark.parametrize(("devices", "expected"), [(1, ["4", "5", "7", "4"]), (2, ["4,5", "7,4", "5,7", "4,5"])])
def test_workers_have_gpus_of_their_own(
    devices: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    monkeypatch.setattr("src.tuning.workers.subprocess.Popen", ThreeGPUs)
    monkeypatch.setattr(ThreeGPUs, "environments", [])
    study: Study = begin(tmp_path, options=[*TINY, f"trainer.devices={devices}"])
    workers.start_workers(study, 4, 4)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in ThreeGPUs.environments] == expected
    assert math.isfinite(float(ThreeGPUs.environments[0]["OMP_NUM_THREADS"]))
