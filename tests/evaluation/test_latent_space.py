"""Directions, paths and maps against what geometry says they must be."""

import math
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor

from src.evaluation.latent_space import (
    Path,
    active_axes,
    closed_path,
    decode,
    encode,
    linear,
    most_active,
    principal_directions,
    project,
    snap_to_grid,
    spherical,
    steepest_directions,
)
from tests.helpers.tiny import LATENT_DIM, ScriptedModel, random_images, tiny_autoencoder, tiny_gan, tiny_vae


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class LinearDecoder(ScriptedModel):
    """Images that change 3 for the second latent, 1 for the third, and not at all for the first."""

    def decode(self, latents: Tensor) -> Tensor:
        return (latents * torch.tensor([0.0, 3.0, 1.0]))[:, :, None, None].expand(-1, -1, 2, 2)


def test_active_axes_have_the_largest_variance() -> None:
    latents = normal(2000, 4) * torch.tensor([0.1, 2.0, 0.5, 1.0]) + 5
    directions = active_axes(latents, 2)
    assert directions.vectors.argmax(dim=1).tolist() == [1, 3]
    torch.testing.assert_close(directions.spread, torch.tensor([2.0, 1.0]), rtol=0.1, atol=0)


def test_principal_directions_are_those_of_a_turned_gaussian() -> None:
    turn, _ = torch.linalg.qr(normal(4, 4))
    latents = normal(5000, 4, seed=1) * torch.tensor([3.0, 2.0, 1.0, 0.1]) @ turn.T + 7
    directions = principal_directions(latents, 3)
    torch.testing.assert_close((directions.vectors @ turn)[:, :3].abs(), torch.eye(3), rtol=0, atol=0.1)
    torch.testing.assert_close(directions.activity.sqrt(), torch.tensor([3.0, 2.0, 1.0]), rtol=0.05, atol=0)


def test_steepest_directions_of_a_linear_decoder_are_its_singular_vectors() -> None:
    directions = steepest_directions(LinearDecoder(), normal(4, 3), 3)
    torch.testing.assert_close(directions.vectors.abs(), torch.eye(3)[[1, 2, 0]], rtol=0, atol=1e-3)
    torch.testing.assert_close(directions.activity, torch.tensor([36.0, 4.0, 0.0]), rtol=1e-3, atol=1e-3)


def test_every_model_is_given_directions_of_its_own_kind() -> None:
    latents = normal(20, LATENT_DIM)
    kinds = {most_active(model, latents, 2).meaning[:4] for model in (tiny_autoencoder(), tiny_vae())}
    assert len(kinds | {steepest_directions(tiny_gan(), latents[:1], 2).meaning[:4]}) == 3


@pytest.mark.parametrize("shape", [(1, 5), (40, 1), (1, 1)])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_one_image_or_one_dimension_has_a_place_on_the_map(
    shape: tuple[int, int], method: Literal["pca", "tsne"]
) -> None:
    points = project(normal(*shape), method)
    assert points.shape == (shape[0], 2)
    assert len(snap_to_grid(points, 24)) >= min(shape[0], 2)


def test_a_closed_path_begins_each_leg_at_a_latent_and_comes_back() -> None:
    latents = normal(3, LATENT_DIM)
    way = torch.stack(list(closed_path(latents, spherical, 4)))
    assert way.shape == (12, LATENT_DIM)
    torch.testing.assert_close(way[::4], latents)
    around = torch.stack(list(closed_path(latents.roll(1, dims=0), spherical, 4)))
    torch.testing.assert_close(around, way.roll(4, dims=0))


def test_a_traversal_moves_one_coordinate_and_keeps_the_others() -> None:
    directions = principal_directions(normal(100, 4) * torch.tensor([3.0, 2.0, 1.0, 0.5]), 2)
    latent = normal(4, seed=2)
    moved = directions.traverse(latent, steps=5, reach=2.0)
    along = (moved - directions.center) @ directions.vectors.T
    expected = directions.spread[:, None] * torch.linspace(-2, 2, 5)
    torch.testing.assert_close(torch.stack([along[0, :, 0], along[1, :, 1]]), expected)
    still = (latent - directions.center) @ directions.vectors[1]
    torch.testing.assert_close(along[0, :, 1], still.expand(5))


@pytest.mark.parametrize("path", [linear, spherical, partial(spherical, center=torch.tensor([3.0, 4.0, 5.0]))])
def test_paths_begin_and_end_at_their_ends(path: Path) -> None:
    start, end = normal(2, 3), normal(2, 3, seed=1)
    way = path(start, end, 7)
    assert way.shape == (2, 7, 3)
    torch.testing.assert_close(way[:, 0], start)
    torch.testing.assert_close(way[:, -1], end)


def test_spherical_path_keeps_its_distance_and_a_line_does_not() -> None:
    start, end = torch.tensor([2.0, 0, 0]), torch.tensor([0, 2.0, 0])
    torch.testing.assert_close(spherical(start, end, 9).norm(dim=1), torch.full((9,), 2.0))
    torch.testing.assert_close(spherical(start, end, 3)[1], torch.tensor([math.sqrt(2), math.sqrt(2), 0]))
    torch.testing.assert_close(linear(start, end, 3)[1].norm(), torch.tensor(math.sqrt(2)))


def test_spherical_path_between_latents_on_one_line_is_that_line() -> None:
    start = normal(3)
    torch.testing.assert_close(spherical(start, 2 * start, 4), linear(start, 2 * start, 4))


def test_closed_path_visits_every_latent_once() -> None:
    stops = normal(3, 2, 4)
    frames = list(closed_path(stops, linear, 5))
    assert len(frames) == 15
    for index, stop in enumerate(stops):
        torch.testing.assert_close(frames[5 * index], stop)
    torch.testing.assert_close(frames[-1], stops[2] + 0.8 * (stops[0] - stops[2]))


def test_snapping_keeps_directions_and_takes_the_nearest_to_each_middle() -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.9, 3.1], [1.1, 2.9], [0.2, 3.9]])
    assert snap_to_grid(points, cells=2) == {(1, 0): 0, (0, 1): 1, (0, 0): 3}


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_two_clusters_apart(method: Literal["pca", "tsne"]) -> None:
    latents = torch.cat([normal(30, 5), normal(30, 5, seed=1) + 20])
    points = project(latents, method)
    assert points.shape == (60, 2)
    first, second = points[:30], points[30:]
    assert torch.cdist(first, second).min() > 0.5 * torch.cdist(first, first).max()


def test_latents_are_the_ones_that_reconstruct() -> None:
    images = random_images(70)
    for model in (tiny_vae(), tiny_autoencoder()):
        again = decode(model.eval(), encode(model, images))
        assert again.shape == images.shape
        reconstructed = model.reconstruct((images / 127.5 - 1).to(model.device, model.dtype))
        assert reconstructed is not None
        assert (again - (reconstructed * 127.5 + 128).clamp(0, 255)).abs().max() <= 1
