"""The benchmarks of the GAN on budgets that prove only that they run and print their table."""

import json
from pathlib import Path

import pytest

from benchmarks import ablation, gpu
from src.config.cli import composed

TINY = [
    "data=drawn_cats",
    "data.num_images=64",
    "data.image_size=32",
    "data.batch_size=8",
    "model.generator.width=4",
    "model.generator.max_width=8",
    "model.discriminator.width=4",
    "model.discriminator.max_width=8",
    "callbacks.evaluation.num_images=32",
]


@pytest.mark.slow
def test_gpu_benchmark_fills_its_table_on_a_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.clock.WARM_UP_STEPS", 3)
    rows = gpu.main(["--minutes", "0.01", "--seconds", "0.1", "--float32", *TINY])
    names = [name for name in gpu.SWITCHES if "compiled" not in name]
    assert [row[0] for row in rows] == [
        *names,
        "gan_cat_faces",
        "gan_relativistic_2018",
        "gan_cat_faces, float32, eager",
    ]
    table = [dict(zip(gpu.COLUMNS, row, strict=True)) for row in rows]
    assert all(float(row["images/s"]) > 0 and int(row["images"].replace(",", "")) > 0 for row in table)
    assert [bool(row["gain"]) for row in table] == [True] * len(names) + [False] * 3
    assert [float(row["fd_lite0"]) > 0 for row in table[-3:]] == [True] * 3
    assert capsys.readouterr().out.count("\n| ") == len(rows) + 1


def test_every_switch_is_one_of_the_recipe() -> None:
    """All on is what gan_cat_faces is; all off changes nothing else."""
    recipe = composed("train", ["experiment=gan_cat_faces", "run_dir=/r"])
    switches = [switch for names in gpu.SWITCHES.values() for switch in names.split()]
    assert composed("train", ["experiment=gan_cat_faces", "run_dir=/r", *gpu.ALL_OFF, *switches]) == recipe
    assert sorted(s.split("=")[0] for s in switches) == sorted(s.split("=")[0] for s in gpu.ALL_OFF)


def test_every_row_of_the_ablation_is_one_override_that_changes_the_recipe() -> None:
    recipe = composed("train", ["experiment=gan_cpu", "run_dir=/r"])
    for name, override in ablation.ROWS.items():
        config = composed("train", ["experiment=gan_cpu", "run_dir=/r", *override.split()])
        assert (config != recipe) == (name != "gan_cpu")
        assert len(override.split()) <= 1


def test_ablation_prints_what_is_there_and_runs_no_row_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = {
        "final": {"fd_lite0": 100.0},
        "images_per_second": 50.0,
        "parameters": {"generator": 600_000, "discriminator": 200_000},
    }
    for seed, distance in ((0, 100.0), (1, 110.0)):
        folder = tmp_path / f"r1_only-1000-seed{seed}"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary | {"final": {"fd_lite0": distance}}))
    monkeypatch.setattr("subprocess.run", lambda *args, **options: pytest.fail("a row that is done was run"))
    ablation.main(["--images", "1000", "--seeds", "0", "1", "--folder", str(tmp_path), "--rows", "R1 only"])
    assert "| 105.0 (100.0 to 110.0) | 50 | 0.60 / 0.20 |" in capsys.readouterr().out
