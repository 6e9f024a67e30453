"""A model's latent space: latents of images, directions to traverse, paths between latents, and a map of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.core.images import from_uint8, to_uint8
from src.models.inference import LatentModel

BATCH_SIZE = 64
Path = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Directions:
    """Directions of a latent space, the most active first."""

    vectors: Tensor  # (K, D), of length 1
    center: Tensor  # (D,), the mean of the latents
    spread: Tensor  # (K,), their standard deviation along each direction
    activity: Tensor  # (K,), what the directions are sorted by
    meaning: str  # the same in words

    def traverse(self, latent: Tensor, steps: int, reach: float = 3.0) -> Tensor:
        """Move one coordinate of a latent at a time, from -reach to reach deviations: (D,) -> (K, steps, D)."""
        positions = self.spread[:, None] * torch.linspace(-reach, reach, steps)
        now = self.vectors @ (latent - self.center)
        return latent + (positions - now[:, None])[:, :, None] * self.vectors[:, None, :]


@torch.no_grad()
def encode(model: LatentModel, images: Tensor) -> Tensor:
    """Return the latents of images on the CPU: uint8 (N, 3, S, S) -> (N, D)."""
    batches = (from_uint8(batch).to(model.device, model.dtype) for batch in images.split(BATCH_SIZE))
    return torch.cat([model.encode(batch).float().cpu() for batch in batches])


@torch.no_grad()
def decode(model: LatentModel, latents: Tensor, convert: Callable[[Tensor], Tensor] = to_uint8) -> Tensor:
    """Return the images of latents on the CPU: (..., D) -> uint8 (..., 3, S, S)."""
    batches = latents.reshape(-1, latents.shape[-1]).split(BATCH_SIZE)
    images = torch.cat([convert(model.decode(batch.to(model.device, model.dtype))).cpu() for batch in batches])
    return images.reshape(*latents.shape[:-1], *images.shape[1:])


def most_active(model: LatentModel, latents: Tensor, num_directions: int) -> Directions:
    """Return the directions to traverse of a model that encodes. latents: (N, D) of images, two or more.

    A VAE has the axes, since its posterior is a Gaussian along each of them. An autoencoder, whose loss stays the same
    if its latent space is rotated, has principal directions.
    """
    is_vae = model.head.out_features > model.latent_dim  # its head has variances too
    return (active_axes if is_vae else principal_directions)(latents, num_directions)


def active_axes(latents: Tensor, num_directions: int) -> Directions:
    """Return the axes along which latents vary most; for posterior means, the active units (Burda et al., 2016)."""
    variance, axes = (values[:num_directions] for values in latents.var(dim=0).sort(descending=True))
    vectors, center = torch.eye(latents.shape[1])[axes], latents.mean(dim=0)
    return Directions(vectors, center, variance.sqrt(), variance, "axes by variance of the latents")


def principal_directions(latents: Tensor, num_directions: int) -> Directions:
    """Return the principal components of the latents."""
    center = latents.mean(dim=0)
    _, singular, vectors = torch.linalg.svd(latents - center, full_matrices=False)
    variance = singular[:num_directions].square() / (len(latents) - 1)
    meaning = "principal directions of the latents by variance"
    return Directions(vectors[:num_directions], center, variance.sqrt(), variance, meaning)


def steepest_directions(model: LatentModel, latents: Tensor, num_directions: int, step: float = 0.1) -> Directions:
    """Return the directions that change images most: eigenvectors of the mean of J^T J over latents of N(0, I).

    J is the decoder's Jacobian, by finite differences (Wang & Ponce, 2021: its averaged metric tensor).
    """
    dim = latents.shape[1]
    gram = torch.zeros(dim, dim)
    for latent in latents:
        moved = torch.cat([latent + step * torch.eye(dim), latent[None]])
        images = decode(model, moved, Tensor.float).flatten(1)
        jacobian = (images[:-1] - images[-1]) / step
        gram += jacobian @ jacobian.T / len(latents)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:num_directions], vectors.flip(1).T[:num_directions]
    meaning = "directions by mean squared change of the image"
    return Directions(vectors, torch.zeros(dim), torch.ones(len(vectors)), values, meaning)


def linear(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points on straight lines, both ends among them: two (..., D) -> (..., steps, D)."""
    weight = torch.linspace(0, 1, steps)[:, None]
    return (1 - weight) * start[..., None, :] + weight * end[..., None, :]


def spherical(start: Tensor, end: Tensor, steps: int, center: Tensor | float = 0.0) -> Tensor:
    """Return points on great circles about a center (White, 2016): two (..., D) -> (..., steps, D).

    Most of N(0, I) lies near the sphere of radius sqrt(D); a straight line leaves it.
    """
    start, end = start - center, end - center
    cosine = torch.cosine_similarity(start, end, dim=-1).clamp(-1, 1)
    angle = cosine.arccos()[..., None, None]
    weight = torch.linspace(0, 1, steps)[:, None]
    path = ((1 - weight) * angle).sin() * start[..., None, :] + (weight * angle).sin() * end[..., None, :]
    is_line = angle.sin() < 1e-4
    return center + torch.where(is_line, linear(start, end, steps), path / angle.sin().masked_fill(is_line, 1.0))


def closed_path(latents: Tensor, path: Path, steps: int) -> Iterator[Tensor]:
    """Yield frames (..., D) on the way from each of (K, ..., D) to the next and from the last to the first."""
    for start, end in pairwise([*latents, latents[0]]):
        yield from path(start, end, steps + 1)[..., :-1, :].movedim(-2, 0)


def project(latents: Tensor, method: Literal["pca", "tsne"]) -> Tensor:
    """Project latents to a plane, (N, D) -> (N, 2): the principal components, or t-SNE, which keeps neighbors close."""
    if method == "pca" or len(latents) < 4 or latents.shape[1] < 2:
        directions = principal_directions(latents, 2)
        points = (latents - directions.center) @ directions.vectors.T
        return pad(points, (0, 2 - points.shape[1]))  # one image, or one dimension, has one component
    from sklearn.manifold import TSNE  # its import takes seconds

    perplexity = min(30.0, (len(latents) - 1) / 3)
    return torch.from_numpy(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(latents.numpy()))


def snap_to_grid(points: Tensor, cells: int) -> dict[tuple[int, int], int]:
    """Choose the point nearest to the middle of each cell of a grid: (N, 2) -> {(row, column): index}.

    The grid of cells x cells spans the points, and the y axis points up; a cell without points has no entry.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    scaled = (points - low) / (high - low).clamp(min=1e-9) * cells
    cell = scaled.floor().clamp(max=cells - 1)
    distance = (scaled - cell - 0.5).square().sum(dim=1)
    places = [(cells - 1 - row, column) for column, row in cell.int().tolist()]
    return {places[index]: index for index in distance.argsort(descending=True).tolist()}
