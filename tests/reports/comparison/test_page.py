"""The page and its numbers, from run folders whose content is known, read as a browser reads it."""

import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from src.compare import compare
from src.core.errors import UserError
from src.reports.comparison.runs import RunRecord, find_runs, read_runs
from src.reports.comparison.table import Comparison
from tests.helpers.commands import REPOSITORY, command, config_of

CHROMIUM = shutil.which("chromium")
COLUMNS = [
    "images_seen",
    "fd_lite0",
    "diversity_lite0",
    "val/loss",
    "train/images_per_second",
    "val/kl_nats_of_dimension/000",
]
SIDE = 32 + 2  # of an image on a grid


def make_run(folder: Path, fds: list[float], *overrides: str, diversity: float = 1.0, length: int = 400) -> Path:
    """Write the folder of a run with these distances at 100, 200, ... images, and a grid of one gray for each."""
    config = config_of(*overrides, f"max_images={length}", f"run_dir={folder}", "data.image_size=32")
    (folder / "images").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [f"{100 * (step + 1)},{fd},{diversity},{-step},50,0.5" for step, fd in enumerate(fds)]
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    for step in range(len(fds)):
        for kind in ("samples", "reconstructions"):
            gray = Image.new("RGB", (8 * SIDE + 2, 8 * SIDE + 2), (40 * (step + 1),) * 3)
            gray.save(folder / "images" / f"{kind}_{100 * (step + 1):09d}.png")
    if len(fds) * 100 == length:
        summary = {
            "images_per_second": 60.0,
            "processor_seconds": 12.5,
            "parameters": {"encoder": 3, "decoder": 4, "decoder_ema": 4},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of two values of beta, and a run of each kind of ruin."""
    folder = tmp_path / "runs"
    for beta, first in ((1, 50.0), (4, 30.0)):
        for seed in (0, 1):
            make_run(
                folder / f"beta{beta}" / str(seed), [90, first + seed, 70, 80], f"model.beta={beta}", f"seed={seed}"
            )
    make_run(folder / "ruined" / "2", [20, 5, 9, 9], "model.beta=9", diversity=0.02)
    broken = make_run(folder / "ruined" / "10", [20, 6], "model.beta=10")
    (broken / "error.txt").write_text("train/loss is not finite after 231 images\n")
    return folder


def comparison_of(*paths: Path | str) -> Comparison:
    return Comparison(read_runs(find_runs([str(path) for path in paths])))


def test_runs_are_found_by_folder_pattern_and_sweep_in_the_order_of_their_numbers(runs: Path) -> None:
    names = [run.relative_to(runs).as_posix() for run in find_runs([str(runs)])]
    assert names == ["beta1/0", "beta1/1", "beta4/0", "beta4/1", "ruined/2", "ruined/10"]
    assert find_runs([str(runs / "beta*" / "0")]) == [runs / "beta1" / "0", runs / "beta4" / "0"]
    assert find_runs([str(runs / "beta1"), str(runs / "beta1" / "1")]) == [runs / "beta1" / "0", runs / "beta1" / "1"]
    (runs / "beta1" / "0" / ".hydra").mkdir()
    (runs / "beta1" / "0" / ".hydra" / "config.yaml").touch()  # Hydra's own copy is no run
    assert len(find_runs([str(runs)])) == 6
    (runs / "lr10²").mkdir()  # a digit that is no number
    assert len(find_runs([str(runs)])) == 6
    for nothing in (runs / "nowhere", runs / "beta1" / "0" / "images", runs / "gamma*"):
        with pytest.raises(UserError, match="there is no run here"):
            find_runs([str(nothing)])


def test_only_what_differs_is_told_and_once(tmp_path: Path) -> None:
    same = ["model.latent_dim=32"]
    one = make_run(tmp_path / "1", [1], "seed=3", "data.batch_size=8", *same)
    other = make_run(tmp_path / "2", [1], "seed=4", "data.batch_size=16", "model.optimizer.lr=0.1", *same)
    # seed is data.seed and that of a callback too; run folders differ always.
    assert Comparison(read_runs([one, other])).differing == {
        "seed": [3, 4], "data.batch_size": [8, 16], "model.optimizer.lr": [0.001, 0.1],
    }  # fmt: skip
    config = yaml.safe_load((one / "config.yaml").read_text())
    config["callbacks"]["study"] = {"_target_": "src.tuning.workers.ReportToStudy", "number": 3}
    (one / "config.yaml").write_text(yaml.safe_dump(config))  # the first seed of a trial reports to its study
    assert "callbacks.study" not in " ".join(Comparison(read_runs([one, other])).differing)
    gan = make_run(tmp_path / "3", [1], "model=gan", "seed=3", "data.batch_size=8")
    assert Comparison(read_runs([one, gan])).differing == {"model": ["VAE", "GAN"]}
    hinge = make_run(tmp_path / "4", [1], "model=gan", "seed=3", "data.batch_size=8", "model/adversarial_loss=hinge")
    classes = ["RelativisticPairing", "Hinge"]
    assert Comparison(read_runs([gan, hinge])).differing == {"model.adversarial_loss": classes}


def test_seeds_of_one_recipe_are_one_group_with_mean_and_spread(runs: Path) -> None:
    comparison = comparison_of(runs)
    assert comparison.groups == [[0, 1], [2, 3], [4], [5]]
    assert comparison.ranking == [(30.5, [2, 3]), (50.5, [0, 1])]
    assert comparison.winner == 2
    assert comparison.names[2] == "beta=4, seed=0"
    spread = statistics.stdev([30, 31])
    assert f"beta=4, 30.5 ± {spread:.2g} (2 seeds). Next: beta=1, 50.5" in comparison.conclusions[0]


def test_names_are_short_and_tell_the_runs_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, [3], *options) for name, options in {
        "a": ["seed=1"], "b": ["seed=2"], "c": ["seed=2", "model=gan"], "d": ["seed=2", "data.batch_size=8"],
    }.items()]  # fmt: skip
    assert comparison_of(*folders[:2]).names == ["model=VAE, seed=1", "model=VAE, seed=2"]
    assert comparison_of(*folders[1:3]).names == ["model=VAE", "model=GAN"]
    found = comparison_of(*folders)
    assert found.names == ["model=VAE, batch_size=32, seed=1", "model=VAE, batch_size=32, seed=2",
                           "model=GAN, batch_size=32", "model=VAE, batch_size=8"]  # fmt: skip
    assert comparison_of(folders[0], folders[0]).names == ["model=VAE"]
    deep = [
        "callbacks.checkpoints.keep",
        "callbacks.checkpoints.every_minutes",
        "callbacks.evaluation.max_reference_images",
    ]
    others = [make_run(tmp_path / f"e{number}", [3], f"{option}=7", "seed=1") for number, option in enumerate(deep, 1)]
    others.append(make_run(tmp_path / "e4", [3], "callbacks.checkpoints.every_images=7", "seed=1"))
    names = comparison_of(folders[0], *others).names
    assert len(set(names)) == 5
    assert all(name.endswith(f"({folder.name})") for name, folder in zip(names, [folders[0], *others], strict=True))


def test_best_is_where_the_monitored_metric_was_the_lowest(runs: Path) -> None:
    row = comparison_of(runs).rows[0]
    assert (row["best_images_seen"], row["fd_lite0 best"], row["fd_lite0 final"]) == (200, 50, 80)
    assert (row["val/loss best"], row["val/loss final"]) == (-1, -3)
    assert (row["images_per_second"], row["processor_seconds"], row["parameters"]) == (60, 12.5, 7)
    assert not [column for column in row if "of_dimension/000" in column]


def test_a_model_with_a_fitted_prior_is_ranked_by_samples_of_it() -> None:
    curves = {"fd_lite0": [(100, 50.0), (200, 60.0)], "fd_lite0_mixture": [(100, 9.0), (200, 8.0)]}
    config = {"metrics": {"monitor": "fd_lite0"}}
    vae, gan = (RunRecord(Path(), "", config, dict(list(curves.items())[:count]), {}, "") for count in (2, 1))
    assert vae.monitor == gan.monitor == "fd_lite0"
    assert (vae.best_images, vae.best("fd_lite0"), vae.final("fd_lite0")) == (200, 8, 8)
    assert (gan.best_images, gan.best("fd_lite0"), gan.final("fd_lite0")) == (100, 50, 60)


def test_ruined_runs_are_called_what_they_are_and_never_win(runs: Path) -> None:
    comparison = comparison_of(runs)
    low, broken = comparison.runs[4:]
    assert low.status == "samples all alike (diversity_lite0 0.02)"
    assert broken.status == "not finite: train/loss is not finite after 231 images"
    assert comparison.runs[0].status == "finished"
    assert [sentence.split(":")[1].strip() for sentence in comparison.conclusions if "Ruined" in sentence] == [
        "beta=9",
        "beta=10",
    ]


def test_a_warning_that_stands_at_the_end_is_ruin_and_one_that_passed_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "1", [5, 4, 3, 2])
    columns = "images_seen,fd_lite0,warnings/modes_collapse,warnings/discriminator_has_won\n"
    (run / "metrics.csv").write_text(columns + "100,5,1,1\n200,4,0,\n300,3,1,\n400,2,,0\n")
    (record,) = read_runs([run])
    assert record.status == "modes collapsed"
    assert Comparison([record]).rows[0]["warnings"] == (
        "modes_collapse from 100 to 200, from 300 to the end; discriminator_has_won from 100 to 400"
    )


def test_a_run_that_was_stopped_says_how_far_it_came(tmp_path: Path) -> None:
    stopped, other = make_run(tmp_path / "1", [5, 4]), make_run(tmp_path / "2", [6, 5, 4.5, 4.4], "seed=1")
    comparison = comparison_of(stopped, other)
    assert comparison.runs[0].status == "200 of 400 images, stopped or still running"
    assert "Not all runs have seen as many images: 200 to 400." in comparison.conclusions
    assert comparison.rows[0]["images_per_second"] == 50  # the mean of its curve, before there is a summary


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.limit_images=100", "data.limit_images"),
        ("callbacks.evaluation.num_images=7", "callbacks.evaluation.num_images"),
        ("metrics=kid", "metrics.monitor"),
        ("callbacks.evaluation.reference=val", "callbacks.evaluation.reference"),
    ],
)
def test_numbers_of_other_data_metrics_or_samples_are_not_compared(override: str, key: str, tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "1", [5, 4]), make_run(tmp_path / "2", [6, 5], override)
    comparison = comparison_of(one, other)
    assert any(what.startswith(f"{key} (") for what in comparison.incomparable)
    assert "may not be compared" in comparison.conclusions[0]
    assert comparison.winner is None
    fine = make_run(tmp_path / "3", [6, 5], "data.batch_size=4", "data.num_workers=2", "max_images=1000")
    assert not comparison_of(one, fine).incomparable


def test_a_broken_folder_is_shown_empty(tmp_path: Path) -> None:
    run = make_run(tmp_path / "1", [5, 4, 3, math.nan])
    (run / "summary.json").write_text("{")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "config.yaml").write_text("{[")
    comparison = comparison_of(tmp_path)
    assert comparison.runs[0].status == "not finite: fd_lite0"
    assert comparison.rows[1]["images_seen"] == 0


def test_page_and_table_from_the_command_line_need_no_torch(runs: Path, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        sys.argv[1:] = [{str(runs / "beta*")!r}, "csv=true", {str(runs / "ruined")!r}, "output=page.html"]
        from src.config.cli import run
        from src.compare import compare
        run(compare)
        print(sorted({{"torch", "lightning", "matplotlib"}} & sys.modules.keys()))"""
    arguments, environment = [sys.executable, "-c", code], {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "Best by fd_lite0, the lower the better: beta=4, 30.5" in result.stdout
    assert f"6 runs on page.html: {(tmp_path / 'page.html').stat().st_size / 1e6:.1f} MB" in result.stdout
    with (tmp_path / "page.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model.beta"] for row in rows] == ["1", "1", "4", "4", "9", "10"]
    assert [float(row["fd_lite0 best"]) for row in rows] == [50, 51, 30, 31, 5, 6]
    assert {row["parameters"] for row in rows} <= {"7", ""}  # the average is a copy


@pytest.mark.parametrize("output", ["page.txt", "."])
def test_output_is_a_page(output: str, runs: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.html"):
        compare([str(runs)], output, csv=False, steps=8)


def test_no_run_ends_in_a_sentence(tmp_path: Path) -> None:
    result = command("src.compare", "nothing*", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: nothing*: there is no run here; give run folders")
    assert command("src.compare", cwd=tmp_path).stderr.startswith("error: runs must be given: add runs=")


@pytest.fixture
def opened(runs: Path, tmp_path: Path) -> Iterator[Any]:
    """The page in a browser, and in page.asked every address that it asked for."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no chromium")
    compare([str(runs)], str(tmp_path / "page.html"), csv=False, steps=3)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(120_000)  # a machine may be busy
        page.goto((tmp_path / "page.html").as_uri())
        yield page
        assert errors == []
        assert {address.partition(":")[0] for address in asked} <= {"file", "data", "blob"}
        browser.close()


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"table.sortable >> nth=0 >> css=tbody tr td:nth-child({number})").all_inner_texts()


def test_page_sorts_draws_and_slides_in_a_browser(opened: Any) -> None:
    # A telephone's width: what is wider scrolls inside.
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    best = opened.get_by_role("button", name="fd_lite0, best").first
    best.click()
    assert column(opened, 3) == ["5", "6", "30", "31", "50", "51"]
    best.click()
    assert column(opened, 3) == ["51", "50", "31", "30", "6", "5"]
    assert "beta=1, seed=1" in column(opened, 1)[0]
    assert opened.locator("tr.best").first.inner_text().startswith("beta=4, seed=0 best")

    chart = opened.locator(".chart").first
    chart.scroll_into_view_if_needed()
    opened.wait_for_selector(".chart .scatterlayer path.js-line")
    # Each run's line; of two seeds the mean and the edges of the range too.
    assert chart.locator(".scatterlayer .trace").count() == 4 + 2 * 3 + 2
    hovered = chart.bounding_box()
    opened.mouse.move(hovered["x"] + hovered["width"] * 0.4, hovered["y"] + hovered["height"] / 2)
    opened.wait_for_selector(".hoverlayer text")
    said = chart.locator(".hoverlayer").text_content()
    assert "beta=4, mean : 30.5" in said  # at 200 images, the nearest

    def gray() -> int:
        """Return the color of the first run's image on the page."""
        image = opened.locator("#samples-grids img").first
        image.scroll_into_view_if_needed()
        opened.wait_for_timeout(200)
        pixels = np.asarray(Image.open(BytesIO(image.screenshot())).convert("L"))
        return int(np.median(pixels))

    assert abs(gray() - 160) <= 2
    opened.locator("#samples").fill("0")
    assert abs(gray() - 40) <= 2
    assert opened.locator("#samples-grids figure").first.inner_text().endswith("at 100")
    # Steps are from first to last; a run shows what it had by then.
    opened.locator("#samples").fill("1")
    assert opened.locator("#samples-grids .at").all_inner_texts() == ["at 100"] * 5 + ["at 200"]
