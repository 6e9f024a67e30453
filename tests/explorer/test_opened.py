"""What the tabs show, against the commands that show the same and against what must be so."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.download import OFFLINE, download
from src.core.errors import UserError
from src.core.images import to_pillow
from src.data.drawn_cats.factors import FACTORS, draw_factors
from src.evaluation.from_checkpoint import load_run
from src.evaluation.latent_space import Directions, decode
from src.explorer.opened import Opened, explained, named
from src.explorer.tabs import BESIDE, neighbors
from src.sample import sample
from tests.helpers.commands import config_of


@pytest.fixture
def gan(runs: dict[str, Path]) -> Opened:
    return Opened(str(runs["gan"]), "cpu")


@pytest.fixture
def vae(runs: dict[str, Path]) -> Opened:
    return Opened(str(runs["vae"]), "cpu")


@pytest.mark.parametrize(("kind", "prior"), [("gan", "normal"), ("vae", "normal"), ("vae", "mixture")])
def test_command_line_draws_the_images_on_the_page(
    kind: str, prior: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    opened = Opened(str(runs[kind]), "cpu")
    drawn = opened.draw(7, 40, prior, 0.7)
    program, *options = shlex.split(opened.command(7, 40, prior, 0.7))[2:]
    assert program == "src.sample"
    sample(**config_of(*options[:-1], f"output={tmp_path}/cats", "device=cpu", name="sample"))
    files = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "cats").iterdir())]
    np.testing.assert_array_equal(drawn.permute(0, 2, 3, 1), np.stack(files))
    one = opened.image(opened.latents(7, 40, prior, 0.7)[33])
    torch.testing.assert_close(one, drawn[33], rtol=0, atol=1)


def test_prior_that_a_model_lacks_is_its_own_instead(gan: Opened) -> None:
    torch.testing.assert_close(gan.latents(3, 2, "mixture"), gan.latents(3, 2, "normal"))


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_sliders_move_along_each_direction_by_its_deviations(kind: str, runs: dict[str, Path]) -> None:
    opened = Opened(str(runs[kind]), "cpu")
    directions, names = opened.directions
    assert len(names) == len(directions.vectors) == 8
    latent, amounts = opened.latents(1)[0], [0.5, -2, 0, 1, 0, 0, 3, 0]
    moved = (opened.moved(latent, amounts) - latent) @ directions.vectors.T / directions.spread
    torch.testing.assert_close(moved, torch.tensor(amounts), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(opened.moved(latent, [0.0] * 8), latent)


def test_direction_has_the_name_of_the_factor_that_it_follows() -> None:
    factors = torch.from_numpy(draw_factors(np.arange(1_000), 0))
    names = [factor.name for factor in FACTORS]
    noise = 0.3 * torch.randn(1_000, 4, generator=torch.Generator().manual_seed(0))
    # The coat is a choice, whose order means nothing; yaw is followed by its square; the last direction by nothing.
    coat, tone, yaw = (factors[:, names.index(name)] for name in ("coat", "tone", "yaw"))
    latents = torch.stack([10 * tone, 8 * (coat == coat.median()), 9 * yaw.square(), 0 * yaw], dim=1) + noise
    found = Directions(torch.eye(4), latents.mean(dim=0), torch.ones(4), torch.ones(4), "")
    assert named(found, latents, factors) == ["1: tone", "2: coat", "3: yaw", "direction 4"]
    assert named(found, latents, None)[0] == named(found, latents, factors[:, :3])[0] == "direction 1"


def test_share_explained_is_one_of_a_function_and_none_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randint(3, (3_000,), generator=generator).float()
    values = torch.stack([factor.eq(1).float(), torch.randn(3_000, generator=generator)], dim=1)
    share = explained(values, factor)
    assert share[0] == pytest.approx(1, abs=1e-5)
    assert share[1] < 0.01


def test_model_grows_through_its_milestones(gan: Opened) -> None:
    milestones = gan.run.folder / "checkpoints" / "milestones"
    assert [*gan.times] == [16, 32, 64, 96]
    for asked, seen in ((1, 16), (16, 16), (63, 32), (64, 64), (95, 64), (96, 96), (10**9, 96)):
        found, model = gan.at(asked)
        assert found == model.images_seen == seen
    latents = gan.latents(0, 4)
    expected = load_run(milestones / "images_000000032.safetensors", "cpu").inference
    assert torch.equal(decode(gan.at(32)[1], latents), decode(expected, latents))
    assert not torch.equal(decode(gan.at(32)[1], latents), decode(gan.model, latents))


def test_milestone_is_half_as_exact_and_can_not_be_resumed(gan: Opened) -> None:
    last = load_run(gan.run.folder / "checkpoints" / "images_000000096.safetensors", "cpu")
    size = gan.run.path.stat().st_size
    assert (gan.times[64].stat().st_size) < size / 3
    assert gan.at(96)[1].images_seen == last.inference.images_seen
    from src.training.resume import resumed_config

    config = config_of("model=gan", f"resume={gan.times[64]}", f"run_dir={gan.run.folder}")
    with pytest.raises(UserError, match="an exported model has no optimizers to go on with"):
        resumed_config(config, [])


def test_training_image_is_its_own_nearest_and_a_copy_also_mirrored(gan: Opened) -> None:
    train = gan.data.images("train")
    for images in (train[[5, 11]], train[[5, 11]].flip(-1)):
        found = gan.search.nearest(images)
        assert found.positions[:, 0].tolist() == [5, 11]
        assert found.distances[:, 0].max() < 0.05
        assert (found.distances.diff(dim=1) >= 0).all()
        assert found.are_copies.all()


def test_nearest_images_are_those_that_were_found_of_more_than_are_searched(
    gan: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.explorer.opened.MAX_TRAIN", 20)
    opened = Opened(gan.path, "cpu")
    assert len(opened.searched) <= 20 < len(opened.data.images("train"))
    samples = opened.searched[[3, 11]]
    monkeypatch.setattr(opened, "draw", lambda *_: samples)
    shown, verdict = neighbors(opened, 0, 2)
    for row, drawn in enumerate(samples):
        image, caption = shown[row * (BESIDE + 1) + 1]
        assert (to_pillow(drawn).tobytes(), caption) == (image.tobytes(), "0.00")
    assert verdict == "Copies of a training image: 1, 2."


def test_without_its_images_a_model_is_explored_all_the_same(vae: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise UserError("the images are elsewhere")

    monkeypatch.setattr("src.data.datamodule.ImageDataModule.setup", absent)
    directions, names = vae.directions
    assert "change of the image" in directions.meaning
    assert vae.data is None
    assert vae.missing == "the images are elsewhere"
    assert names[0] == "direction 1"


def test_explorer_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_url: str) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    with pytest.raises(UserError, match=re.escape("cats are not here, and nothing is downloaded")):
        download(closed_url, tmp_path / "cats.zip", "cats")
