import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from src.callbacks.image_grids import ImageGrids, growing_up
from src.core.images import from_uint8, to_uint8
from tests.helpers.tiny import ScriptedModel, tiny_data, tiny_gan, tiny_vae, train

SIZE, PADDING = 32, 2


def cells(path: Path) -> Tensor:
    """The images of a grid, uint8 (rows, columns, 3, 32, 32)."""
    grid = torch.from_numpy(np.array(Image.open(path)))[PADDING:, PADDING:]
    return grid.unfold(0, SIZE, SIZE + PADDING).unfold(1, SIZE, SIZE + PADDING)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_grids_are_written_at_the_start_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    train(ScriptedModel(), tiny_data(), 20, [ImageGrids(folder=str(tmp_path), every_images=8, num_images=4)])
    assert names(tmp_path) == [f"samples_{seen:09d}.png" for seen in (0, 8, 16, 20)]


def test_models_that_encode_show_reconstructions_too(tmp_path: Path) -> None:
    train(tiny_vae(), tiny_data(), 4, [ImageGrids(folder=str(tmp_path), every_images=8, num_images=4)])
    assert names(tmp_path) == [f"{kind}_{seen:09d}.png" for kind in ("reconstructions", "samples") for seen in (0, 4)]


def test_samples_are_the_models_from_fixed_noise(tmp_path: Path) -> None:
    model = tiny_gan()
    train(model, tiny_data(), 8, [ImageGrids(folder=str(tmp_path), every_images=8, num_images=6, columns=3, seed=5)])
    samples = to_uint8(model.sample(6, torch.Generator().manual_seed(5)))
    assert torch.equal(cells(tmp_path / "samples_000000008.png").flatten(0, 1), samples)
    assert not torch.equal(cells(tmp_path / "samples_000000000.png").flatten(0, 1), samples)


def test_same_weights_give_the_same_grid(tmp_path: Path) -> None:
    """The scripted model never learns, but the noise of training goes on."""
    train(ScriptedModel(), tiny_data(), 8, [ImageGrids(folder=str(tmp_path), every_images=4, num_images=4)])
    assert len({path.read_bytes() for path in tmp_path.glob("*.png")}) == 1


@pytest.mark.parametrize("num_val", [3, 8, 10])
def test_each_reconstruction_stands_below_its_held_out_image(num_val: int, tmp_path: Path) -> None:
    data, model = tiny_data(40, val_fraction=num_val / 40), tiny_vae()
    train(model, data, 4, [ImageGrids(folder=str(tmp_path), every_images=4, num_images=16, columns=4)])
    grid = cells(tmp_path / "reconstructions_000000004.png")
    originals, reconstructions = grid[::2].flatten(0, 1), grid[1::2].flatten(0, 1)
    shown = min(num_val, 8) if num_val >= 4 else num_val
    assert torch.equal(originals, data.images("val")[:shown])
    assert torch.equal(reconstructions, to_uint8(model.eval().reconstruct(from_uint8(originals)).detach()))


def test_writing_draws_no_random_numbers_and_leaves_training_mode(tmp_path: Path) -> None:
    model, data = tiny_vae(), tiny_data()
    trainer = train(model, data, 4)
    state = torch.get_rng_state()
    model.train()
    ImageGrids(folder=str(tmp_path), every_images=4).run(trainer, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_film_shows_the_grids_in_turn_and_stays_at_the_last(tmp_path: Path) -> None:
    gan = tiny_gan(ema_halflife_images=0.0)  # grids that differ enough to be told apart behind lossy compression
    train(gan, tiny_data(), 40, [ImageGrids(folder=str(tmp_path), every_images=8, num_images=4)])
    grids = [np.asarray(Image.open(path).convert("RGB"), float) for path in sorted(tmp_path.glob("samples_*.png"))]
    with Image.open(tmp_path / "growing_up.webp") as film:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
        assert film.info["loop"] == 0
    nearest = [int(np.argmin([np.abs(frame - grid).mean() for grid in grids])) for frame in shown]
    assert nearest == sorted(nearest)
    assert set(nearest) == set(range(len(grids))) == set(range(6))


def test_film_of_a_long_run_has_frames_from_all_of_it(tmp_path: Path) -> None:
    for index in range(200):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"samples_{index:09d}.png")
    with Image.open(io.BytesIO(growing_up(sorted(tmp_path.iterdir())))) as film:
        frames = [np.asarray(frame.convert("RGB"))[0, 0, 0] for frame in ImageSequence.Iterator(film)]
    assert 20 <= len(frames) <= 66  # frames that hardly differ are merged
    assert frames[0] < 5
    assert frames[-1] > 190
