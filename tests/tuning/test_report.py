"""A study's page, table and recipe."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from PIL import Image

from src.config.cli import composed
from src.tuning.report import as_experiment, write_report
from src.tuning.study import FAILURE, Study, suggest
from src.tuning.workers import best_trials
from tests.helpers.studies import TINY, begin


def told_study(folder: Path, count: int = 6, **options: Any) -> Study:
    study = begin(folder, **options)
    for number in range(count):
        trial, lock = study.take(count) or pytest.fail("no trial")
        value = trial.params["model.generator_optimizer.lr"]
        if study.search.second_objective:
            study.optuna.tell(trial, [value, -value])
        elif number == 1:
            trial.set_user_attr(FAILURE, "loss is <not> finite")
            study.optuna.tell(trial, state=TrialState.FAIL)
        else:
            trial.report(value, 64)
            study.optuna.tell(trial, value)
        lock.release()
        (folder / f"0000{number}" / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"0000{number}" / "images" / "samples_000000064.png")
    return study


def test_page_is_one_offline_file_with_optunas_figures(tmp_path: Path) -> None:
    study = told_study(tmp_path)
    write_report(study)
    page = (tmp_path / "study.html").read_text()
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == [
        "The best trials",
        "Optimization history",
        "Importance of the options",
        "Parallel coordinates",
        "Slices",
        "Intermediate values",
        "Trials that failed",
        "All trials",
    ]
    assert not re.search(r"""<(script|link|img)[^>]+(src|href)=["']?(https?:)?//""", page)
    assert page.count("Plotly.newPlot(") >= 5
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "loss is &lt;not&gt; finite" in page


def test_table_has_every_trial(tmp_path: Path) -> None:
    study = told_study(tmp_path)
    write_report(study)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["COMPLETE", "FAIL", *["COMPLETE"] * 4]
    assert all(row["value"] == row["model.generator_optimizer.lr"] for row in rows if row["state"] == "COMPLETE")


def test_front_of_two_objectives_is_on_the_page(tmp_path: Path) -> None:
    write_report(told_study(tmp_path, second_objective="parameters"))
    titles = re.findall("<h2>(.*?)</h2>", (tmp_path / "study.html").read_text())
    assert titles[1] == "Pareto front"
    assert "Intermediate values" not in titles


def test_study_without_a_complete_trial_has_a_page_and_no_recipe(tmp_path: Path) -> None:
    write_report(begin(tmp_path))
    assert "0 of 0 trials" in (tmp_path / "study.html").read_text()
    assert not (tmp_path / "best.yaml").exists()


def test_best_recipe_is_the_same_config_as_the_trial(tmp_path: Path) -> None:
    study = told_study(tmp_path)
    write_report(study)
    best = best_trials(study)[0]
    trial = composed("train", [*TINY, *suggest_of(best, study), "run_dir=/tmp/run"])
    assert composed("train", [f"experiment={tmp_path}/best.yaml", "run_dir=/tmp/run"]) == trial


def suggest_of(trial: FrozenTrial, study: Study) -> list[str]:
    return suggest(FixedTrial(trial.params), study.search.space)


def test_recipe_keeps_experiments_groups_lists_and_references(tmp_path: Path) -> None:
    options = [
        "experiment=gan_cpu",
        "data=folder",
        f"data.root='{tmp_path}'",
        "model/adversarial_loss=hinge",
        "model.generator_optimizer.betas=[0.5,0.9]",
        "model.discriminator_optimizer.betas=${model.generator_optimizer.betas}",
        "data.image_size=32",
        "max_images=3_000",
        "metrics=[lite0,prdc_lite0]",
        "+trainer.sync_batchnorm=true",
    ]
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    path = tmp_path / "a recipe, of mine.yaml"
    path.write_text("# @package _global_\n" + yaml.safe_dump(as_experiment(options), sort_keys=False))
    config = composed("train", [f"experiment='{path}'", "run_dir=/tmp/run"])
    assert config == composed("train", [*options, "run_dir=/tmp/run"])
    assert config["model"]["discriminator_optimizer"]["betas"] == [0.5, 0.9]
