"""Squares of photos, and latents that are found for them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.decoding import Decoding
from src.explorer.photos import cropped, errors, find_square, project
from src.models.inference import LatentModel
from tests.helpers.tiny import tiny_gan


def photo(width: int, height: int) -> Image.Image:
    rows = np.random.default_rng(0).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
    return Image.fromarray(rows).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(200, 117), (117, 200), (64, 64), (301, 64)])
def test_square_of_the_middle_is_what_data_crop_center_reads(size: tuple[int, int]) -> None:
    image = photo(*size)
    with io.BytesIO() as file:
        image.save(file, "PNG")
        expected, _ = Decoding(32)(file.getvalue())
    found = cropped(image, find_square(image), 32)
    np.testing.assert_array_equal(found, expected)


def test_square_beyond_the_edge_is_moved_inside() -> None:
    image = photo(200, 117)
    assert torch.equal(cropped(image, (190, 100, 50), 32), cropped(image, (150, 67, 50), 32))
    assert torch.equal(cropped(image, (5, 7, 500), 32), cropped(image, (5, 0, 117), 32))


@pytest.mark.slow
def test_projection_comes_back_to_an_image_of_the_model() -> None:
    model: LatentModel = tiny_gan().eval()
    latent = model.sample_prior(1, torch.Generator().manual_seed(99))
    target = (model.decode(latent)[0] * 127.5 + 128).clamp(0, 255).to(torch.uint8).detach()
    reports: list[float] = []
    found = project(model, target, lambda share, text: reports.append(share), steps=100)
    nearest_sample = project(model, target, lambda *_: None, steps=1)
    pixels, features = errors(model, target, found)
    before, features_before = errors(model, target, nearest_sample)
    assert pixels < before / 3
    assert features < features_before / 3
    assert len(reports) == 100
    assert reports[-1] == 1
    exact = errors(model, target, latent[0])
    assert exact[0] < 1
    assert exact[1] < 0.1
