"""The latent space of a model: its codes, the directions that matter, paths between codes, and a map of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from sklearn.manifold import TSNE
from torch import Tensor

from src.core.images import from_uint8, to_uint8
from src.models.autoencoder import Autoencoder, EncodingModel
from src.models.base import GenerativeModel

ENCODED_AT_ONCE = 64
Path = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Directions:
    """Directions of a latent space, the most active first.

    vectors: (K, D), of length 1; centre: (D,), where codes lie on average; spread: (K,), their standard deviation
    along each; activity: (K,), what they are sorted by, which `meaning` says in words.
    """

    vectors: Tensor
    centre: Tensor
    spread: Tensor
    activity: Tensor
    meaning: str

    def traverse(self, code: Tensor, steps: int, reach: float = 3.0) -> Tensor:
        """(D,) -> (K, steps, D): the code with one coordinate at a time moved, from -reach to reach deviations."""
        positions = self.spread[:, None] * torch.linspace(-reach, reach, steps)
        now = self.vectors @ (code - self.centre)
        return code + (positions - now[:, None])[:, :, None] * self.vectors[:, None, :]


@torch.no_grad()
def encode(model: EncodingModel, images: Tensor) -> Tensor:
    """uint8 (N, 3, S, S) -> codes (N, D) on the CPU."""
    batches = images.split(ENCODED_AT_ONCE)
    return torch.cat([model.encode(from_uint8(batch).to(model.device, model.dtype)).float().cpu() for batch in batches])


@torch.no_grad()
def decode(model: GenerativeModel, codes: Tensor) -> Tensor:
    """Codes (..., D) -> uint8 images (..., 3, S, S) on the CPU."""
    batches = codes.reshape(-1, codes.shape[-1]).split(ENCODED_AT_ONCE)
    images = torch.cat([to_uint8(model.decode(batch.to(model.device, model.dtype))).cpu() for batch in batches])
    return images.reshape(*codes.shape[:-1], *images.shape[1:])


def most_active(model: GenerativeModel, codes: Tensor, num_directions: int) -> Directions:
    """What there is to traverse. codes: (N, D) of images, or of N(0, I) for a model that encodes none.

    The coordinates of a VAE are its own, since its posterior is a Gaussian along each of them. Those of an
    autoencoder could be turned without changing its loss, and a GAN has no codes of images.
    """
    if isinstance(model, Autoencoder):
        return principal(codes, num_directions)
    if isinstance(model, EncodingModel):
        return coordinates(codes, num_directions)
    return steepest(model, codes, num_directions)


def coordinates(codes: Tensor, num_directions: int) -> Directions:
    """The axes along which codes vary most; of a posterior's means, the activity of units (Burda et al., 2016)."""
    variance = codes.var(dim=0)
    chosen = variance.argsort(descending=True)[:num_directions]
    vectors = torch.eye(codes.shape[1])[chosen]
    return Directions(
        vectors, codes.mean(dim=0), variance[chosen].sqrt(), variance[chosen], "axes by variance of the codes"
    )


def principal(codes: Tensor, num_directions: int) -> Directions:
    """The principal directions of the codes."""
    centre = codes.mean(dim=0)
    _, singular, vectors = torch.linalg.svd(codes - centre, full_matrices=False)
    variance = singular[:num_directions].square() / (len(codes) - 1)
    meaning = "principal directions of the codes by variance"
    return Directions(vectors[:num_directions], centre, variance.sqrt(), variance, meaning)


@torch.no_grad()
def steepest(model: GenerativeModel, latents: Tensor, num_directions: int, step: float = 0.1) -> Directions:
    """The directions that change decoded images most: eigenvectors of the mean of J^T J over latents of N(0, I).

    J is the decoder's Jacobian, by finite differences (Wang & Ponce, 2021: its averaged metric tensor).
    """
    dim = latents.shape[1]
    gram = torch.zeros(dim, dim)
    for latent in latents:
        moved = torch.cat([latent + step * torch.eye(dim), latent[None]])
        parts = [
            model.decode(part.to(model.device, model.dtype)).float().cpu() for part in moved.split(ENCODED_AT_ONCE)
        ]
        images = torch.cat(parts).flatten(1)
        jacobian = (images[:-1] - images[-1]) / step
        gram += jacobian @ jacobian.T / len(latents)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:num_directions], vectors.flip(1).T[:num_directions]
    meaning = "directions by squared change of the image, averaged"
    return Directions(vectors, torch.zeros(dim), torch.ones(len(vectors)), values, meaning)


def linear(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Two (..., D) -> (..., steps, D), both ends among them."""
    share = torch.linspace(0, 1, steps)[:, None]
    return (1 - share) * start[..., None, :] + share * end[..., None, :]


def spherical(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Two (..., D) -> (..., steps, D) along a great circle about the origin (White, 2016).

    Most of N(0, I) lies near the sphere of radius sqrt(D); a straight line leaves it.
    """
    cosine = torch.cosine_similarity(start, end, dim=-1).clamp(-1, 1)
    angle = cosine.arccos()[..., None, None]
    share = torch.linspace(0, 1, steps)[:, None]
    path = ((1 - share) * angle).sin() * start[..., None, :] + (share * angle).sin() * end[..., None, :]
    is_line = angle.sin() < 1e-4
    return torch.where(is_line, linear(start, end, steps), path / angle.sin().masked_fill(is_line, 1.0))


def around(centre: Tensor, path: Path) -> Path:
    """The same kind of path, with the origin at `centre`."""
    return lambda start, end, steps: centre + path(start - centre, end - centre, steps)


def closed(codes: Tensor, path: Path, steps: int) -> Iterator[Tensor]:
    """(K, ..., D) -> frames (..., D) from each code to the next and from the last to the first, each once."""
    for start, end in pairwise([*codes, codes[0]]):
        yield from path(start, end, steps + 1)[..., :-1, :].movedim(-2, 0)


def flatten(codes: Tensor, method: Literal["pca", "tsne"]) -> Tensor:
    """(N, D) -> (N, 2): the two principal components, or t-SNE, which keeps neighbours together."""
    if method == "pca" or len(codes) < 4:
        directions = principal(codes, 2)
        return (codes - directions.centre) @ directions.vectors.T
    perplexity = min(30.0, (len(codes) - 1) / 3)
    return torch.from_numpy(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(codes.numpy()))


def snap(points: Tensor, cells: int) -> dict[tuple[int, int], int]:
    """The point nearest to the middle of each cell of a grid, of those that lie in it: {(row, column): index}.

    (N, 2) -> at most cells x cells; the grid spans the points, the y axis points up.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    scaled = (points - low) / (high - low).clamp(min=1e-9) * cells
    cell = scaled.floor().clamp(max=cells - 1)
    distance = (scaled - cell - 0.5).square().sum(dim=1)
    chosen: dict[tuple[int, int], int] = {}
    for index in distance.argsort(descending=True).tolist():
        column, row = (int(value) for value in cell[index])
        chosen[cells - 1 - row, column] = index
    return chosen
