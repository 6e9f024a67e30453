"""Trials of a study: sampled once, taken by one worker at a time, told once."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from src.config.cli import composed
from src.core.errors import UserError
from src.tuning.study import Study, grid, open_study, suggest
from src.tuning.workers import work
from tests.helpers.studies import RANDOM, begin, search_config, times_told

FORK = multiprocessing.get_context("fork")
GRID = {"_target_": "optuna.samplers.GridSampler", "_partial_": True, "seed": 0}
CONDITIONAL: dict[str, Any] = {
    "model/augmentation": ["none", "fixed"],
    "model.augmentation.probability": {"low": 0.1, "high": 0.9, "when": {"model/augmentation": "fixed"}},
    "model.latent_dim": {"low": 8, "high": 64, "log": True},
    "model.generator_optimizer.betas": ["[0.0,0.99]", "[0.5,0.9]"],
    "data.horizontal_flip": [True, False],
}


def test_options_are_typed_as_on_a_command_line_and_conditions_leave_some_out() -> None:
    chosen = {"model.latent_dim": 8, "model.generator_optimizer.betas": "[0.5,0.9]", "data.horizontal_flip": True}
    rest = ["model.latent_dim=8", "model.generator_optimizer.betas=[0.5,0.9]", "data.horizontal_flip=true"]
    plain = suggest(FixedTrial({"model/augmentation": "none", **chosen}), CONDITIONAL)
    fixed = {"model/augmentation": "fixed", "model.augmentation.probability": 0.25, **chosen}
    assert plain == ["model/augmentation=none", *rest]
    assert suggest(FixedTrial(fixed), CONDITIONAL) == [
        "model/augmentation=fixed",
        "model.augmentation.probability=0.25",
        *rest,
    ]
    config = composed("train", ["model=gan", *suggest(FixedTrial(fixed), CONDITIONAL)])
    assert config["model"]["augmentation"]["probability"] == 0.25
    assert config["model"]["generator_optimizer"]["betas"] == [0.5, 0.9]
    assert config["data"]["horizontal_flip"] is True


def test_whole_numbers_stay_whole_and_within_their_range(tmp_path: Path) -> None:
    study = begin(
        tmp_path, space={"model.latent_dim": {"low": 8, "high": 10}, "model.ema_rampup": {"low": 0, "high": 0.5}}
    )
    for _ in range(20):
        trial, lock = study.take(20) or pytest.fail("no trial")
        assert trial.params["model.latent_dim"] in (8, 9, 10)
        assert type(trial.params["model.latent_dim"]) is int
        assert 0 <= trial.params["model.ema_rampup"] <= 0.5
        study.optuna.tell(trial, 0.0)
        lock.release()
    assert study.take(20) is None


def test_samples_are_a_function_of_the_seed_and_the_trial_number(tmp_path: Path) -> None:
    def sampled(folder: Path, seed: int) -> list[dict[str, Any]]:
        study = begin(folder, RANDOM | {"seed": seed})
        taken = [study.take(4) for _ in range(4)]
        return [trial.params for trial, _ in filter(None, taken)]

    first, again, other = (sampled(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 9)))
    assert len(first) == 4
    assert first == again != other
    assert len({str(params) for params in first}) == 4


@pytest.mark.parametrize("name", ["TPESampler", "CmaEsSampler"])
def test_other_samplers_find_a_minimum(name: str, tmp_path: Path) -> None:
    if name == "CmaEsSampler":
        pytest.importorskip("cmaes")
    space = {f"model.{name}_optimizer.lr": {"low": 0.0, "high": 1.0} for name in ("generator", "discriminator")}
    study = begin(tmp_path, {"_target_": f"optuna.samplers.{name}", "seed": 0}, space=space)
    for _ in range(60):
        trial, lock = study.take(60) or pytest.fail("no trial")
        study.optuna.tell(trial, sum((value - 0.7) ** 2 for value in trial.params.values()))
        lock.release()
    # Of 60 random points the best is nearer than this in one search of a hundred.
    assert study.optuna.best_value < 0.01 * 0.1


def test_grid_has_every_combination_once(tmp_path: Path) -> None:
    space = {
        "model.latent_dim": {"low": 16, "high": 32, "step": 8},
        "model.generator_optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "model/adversarial_loss": ["hinge", "relativistic"],
    }
    values = grid(space)
    assert values["model.latent_dim"] == [16, 24, 32]
    assert values["model.generator_optimizer.lr"] == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    study, found = begin(tmp_path, GRID, space=space), []
    while taken := study.take(1000):
        found.append(tuple(taken[0].params.values()))
        study.optuna.tell(taken[0], 0.0)
        taken[1].release()
    assert len(found) == len(set(found)) == 3 * 5 * 2


def take_and_die(folder: Path) -> None:
    taken = Study(folder).take(5)
    assert taken
    (folder / "taken").write_text(str(suggest(taken[0], Study(folder).search.space)))
    os._exit(0)


def test_abandoned_trial_is_taken_again_with_the_same_options(tmp_path: Path) -> None:
    study = begin(tmp_path)
    process = FORK.Process(target=take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    trial, _ = study.take(5) or pytest.fail("no trial")
    assert trial.number == 0
    assert str(suggest(trial, study.search.space)) == (tmp_path / "taken").read_text()
    second, _ = study.take(5) or pytest.fail("no trial")
    assert second.number == 1  # the first has an owner now


def take_all(folder: Path, trials: int) -> None:
    study = Study(folder)
    while taken := study.take(trials):
        with (folder / f"owner_{taken[0].number}").open("x") as file:  # fails if another worker has it
            file.write(str(os.getpid()))
        time.sleep(0.02)  # a trial takes its time, so that the others get some
        study.optuna.tell(taken[0], taken[0].number)
        taken[1].release()


def test_workers_never_share_a_trial(tmp_path: Path) -> None:
    study = begin(tmp_path)
    workers = [FORK.Process(target=take_all, args=(tmp_path, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert [trial.value for trial in study.trials] == [*range(40)]
    assert set(times_told(study).values()) == {1}
    assert len({path.read_text() for path in tmp_path.glob("owner_*")}) > 1


def test_trial_that_ends_while_another_worker_looks_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(tmp_path)
    trial, lock = study.take(2) or pytest.fail("no trial")
    other, listed = Study(tmp_path), Study.trials.fget  # type: ignore[attr-defined]

    def trials_and_then_the_first_ends(self: Study) -> Any:
        found = listed(self)
        if lock.is_locked:
            study.optuna.tell(trial, 1.0)
            lock.release()
        return found

    monkeypatch.setattr(Study, "trials", property(trials_and_then_the_first_ends))
    taken, _ = other.take(2) or pytest.fail("no trial")
    assert taken.number == 1


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    study = begin(tmp_path)
    trial, lock = study.take(2) or pytest.fail("no trial")
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code":6,"tri')
    study.optuna.tell(trial, 1.0)
    lock.release()
    again = Study(tmp_path)
    again.take(2)
    assert [trial.state for trial in again.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_what_a_study_began_with_is_kept(tmp_path: Path) -> None:
    study = begin(tmp_path)
    same = {"search": search_config(), "sampler": None, "storage": None, "options": None}
    assert open_study(tmp_path, same, GRID).settings == study.settings
    with pytest.raises(UserError, match="keeps its options"):
        open_study(tmp_path, same | {"options": ["data.batch_size=8"]}, RANDOM)
    with pytest.raises(UserError, match="keeps its search"):
        open_study(tmp_path, same | {"search": search_config(monitor="val/loss")}, RANDOM)


def test_mistakes_end_in_a_sentence_before_a_study_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"begin one with search="):
        open_study(tmp_path, {"search": None}, RANDOM)
    with pytest.raises(UserError, match=r"search\.space: .*give \[choices\]"):
        begin(tmp_path, space={"model.latent_dim": {"low": 64, "high": 8}})
    for option in ("seed=7", "model/adversarial_loss=hinge", "run_dir=/tmp/run"):
        with pytest.raises(UserError, match=f"^{option.partition('=')[0]}: each trial has its own"):
            open_study(tmp_path, {"search": search_config(), "options": [option]}, RANDOM)
    budget = search_config(options=["model=gan", "budget_cpu_s=5"])
    with pytest.raises(UserError, match="max_images follows from the search's budget"):
        open_study(tmp_path, {"search": budget, "options": ["max_images=64"]}, RANDOM)
    with pytest.raises(UserError, match=r"~metrics\.monitor: best\.yaml could not remove it"):
        begin(tmp_path, options=["~metrics.monitor"])
    with pytest.raises(UserError, match=r"latnt_dim: there is no such option"):
        begin(tmp_path, space={"model.latnt_dim": [8, 16]})
    assert not (tmp_path / "study.yaml").exists()


def test_a_worker_without_the_images_takes_no_trial(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "cat.png").touch()
    given = {"search": search_config(options=["model=gan"]), "options": ["data=folder", f"data.root={tmp_path}/cats"]}
    study = open_study(tmp_path / "study", given, RANDOM)
    (tmp_path / "cats").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data\.root=.*there is nothing at this path"):
        work(study.folder, 3)
    assert study.trials == []


def test_studies_of_two_folders_do_not_meet_in_one_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    first, second = (begin(tmp_path / name / "study", storage=url) for name in ("a", "b"))
    first.take(1)
    assert len(first.trials) == 1
    assert len(second.trials) == 0
    assert len(optuna.get_all_study_names(url)) == 2
