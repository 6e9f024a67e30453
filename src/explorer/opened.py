"""A model that was opened to play with: what the tabs of the page show of it, without the page."""

from functools import cached_property, lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from src.config.explain import quoted
from src.core.errors import UserError
from src.core.run_folder import CHECKPOINTS, MILESTONES, numbered_checkpoints
from src.data.dataset import ImageDataset
from src.data.drawn_cats.factors import FACTORS
from src.evaluation.from_checkpoint import load_run
from src.evaluation.latent_space import Directions, decode, encode, most_active, steepest_directions
from src.evaluation.memorization import TrainingImages
from src.metrics.features import EfficientNetLite0
from src.models.checkpoint.loading import load_inference_model, read_checkpoint
from src.models.inference import InferenceModel
from src.models.priors import Prior

NUM_DIRECTIONS, ENCODED, JACOBIANS = 8, 2_000, 4
MAX_TRAIN = 50_000  # images that the nearest ones are looked for among
NAMED = 0.2  # of a direction's variance is explained by a factor that it is named after
BINS = 8


class Opened:
    """A trained model and, where they are here, its training images and the checkpoints of its run.

    What takes seconds is computed when it is first asked for. Raises UserError where the path can't be used.
    """

    def __init__(self, path: str, device: str) -> None:
        self.path, self.run = path, load_run(path, device)
        self.model, self.lock, self.missing = self.run.inference, RLock(), ""
        kind = self.run.config["model"]["_target_"].rpartition(".")[2]
        self.name = f"{self.run.folder.name} ({kind}, {self.model.images_seen:,} images seen)"
        self.image_size: int = self.run.config["data"]["image_size"]

    def prior(self, wanted: str) -> Prior:
        """Return the prior of that name where the model has it, else its own."""
        return next((prior for prior in self.model.priors() if prior == wanted), "normal")

    def draw(self, seed: int, count: int, prior: str, temperature: float) -> Tensor:
        """Return the images that src.sample draws, uint8 (count, 3, S, S)."""
        return torch.cat(list(self.model.sample_uint8(count, seed, self.prior(prior), temperature)))

    def latents(self, seed: int, count: int = 1, prior: str = "mixture", temperature: float = 1.0) -> Tensor:
        """Return the latents of these images, (count, D)."""
        return self.model.sample_prior(count, torch.Generator().manual_seed(seed), self.prior(prior), temperature)

    def command(self, seed: int, count: int, prior: str, temperature: float) -> str:
        """Return the command line that draws the same images."""
        options = f"num_images={count} seed={seed} prior={self.prior(prior)} temperature={temperature:g}"
        return f"python -m src.sample {quoted('checkpoint', str(Path(self.path).absolute()))} {options} output=cats"

    @cached_property
    def data(self) -> Any:
        """The ImageDataModule of the run, None where its images are not here; `missing` says why."""
        with self.lock:
            try:
                data = self.run.data()
                data.setup()
                return data
            except UserError as error:
                self.missing = str(error)
                return None

    @cached_property
    def directions(self) -> tuple[Directions, list[str]]:
        """The directions to move along, and a name of each: the factors that it follows, where they are known."""
        with self.lock, torch.random.fork_rng(devices=[]):
            if self.model.encoder is None or self.data is None:
                latents = self.latents(0, JACOBIANS)
                found = steepest_directions(self.model, latents, NUM_DIRECTIONS)
                return found, [f"direction {number + 1}" for number in range(len(found.vectors))]
            images = self.data.images("train", ENCODED)
            latents = encode(self.model, images[:])
            found = most_active(self.model, latents, NUM_DIRECTIONS)
            return found, named(found, latents, images.factors)

    def moved(self, latent: Tensor, amounts: list[float]) -> Tensor:
        """Return a latent (D,) moved along each direction by so many standard deviations."""
        directions, _ = self.directions
        return latent + (torch.tensor(amounts)[: len(directions.vectors)] * directions.spread) @ directions.vectors

    def image(self, latent: Tensor) -> Tensor:
        """Return the image of a latent, uint8 (3, S, S)."""
        return decode(self.model, latent[None])[0]

    @cached_property
    def searched(self) -> ImageDataset:
        """The training images among which the nearest are found: of more than MAX_TRAIN every second, third, ..."""
        return self.data.images("train", MAX_TRAIN)

    @cached_property
    def search(self) -> TrainingImages:
        """What looks up the nearest of them."""
        with self.lock:
            return TrainingImages(self.searched, lite0(self.model.device), self.data.horizontal_flip)

    @cached_property
    def times(self) -> dict[int, Path]:
        """The run's checkpoints by the images seen, its milestones among them; at least the one that was opened."""
        folder, own = self.run.folder / CHECKPOINTS, {self.model.images_seen: self.run.path}
        return dict(sorted((numbered_checkpoints(folder / MILESTONES) | numbered_checkpoints(folder) | own).items()))

    def at(self, images_seen: int) -> tuple[int, InferenceModel]:
        """Return the newest model of the run that had seen no more images (else the oldest), and how many it had."""
        time = max([time for time in self.times if time <= images_seen], default=min(self.times))
        own = time == self.model.images_seen
        return time, self.model if own else loaded(self.times[time], self.run.device)


def named(directions: Directions, latents: Tensor, factors: Tensor | None) -> list[str]:
    """Return a name of each direction: the factors of drawn cats that explain most of its variance, or its number."""
    names = [f"direction {number + 1}" for number in range(len(directions.vectors))]
    if factors is None or factors.shape[1] != len(FACTORS):
        return names
    along = (latents - directions.center) @ directions.vectors.T
    shares = torch.stack([explained(along, factor) for factor in factors.T])
    for number, share in enumerate(shares.T):
        best = share.argsort(descending=True)[:2]
        found = [FACTORS[index].name.replace("_", " ") for index in best.tolist() if share[index] > NAMED]
        names[number] = f"{number + 1}: {', '.join(found)}" if found else names[number]
    return names


def explained(values: Tensor, factor: Tensor) -> Tensor:
    """Return the share of the variance of each of (N, K) that a factor (N,) explains, by its bins: the ratio eta^2."""
    edges = factor.quantile(torch.linspace(0, 1, BINS + 1)[1:-1]).unique()
    kinds = factor.unique()
    bins = torch.bucketize(factor.contiguous(), edges if len(kinds) > BINS else kinds)
    member = torch.nn.functional.one_hot(bins).to(values)
    centered = values - values.mean(dim=0)
    means = (member.T @ centered) / member.sum(dim=0)[:, None].clamp(min=1)
    return (member @ means).square().sum(dim=0) / centered.square().sum(dim=0).clamp(min=1e-12)


@lru_cache(maxsize=1)
def lite0(device: torch.device) -> EfficientNetLite0:
    """Return the feature network."""
    return EfficientNetLite0().to(device)


@lru_cache(maxsize=32)
def loaded(path: Path, device: torch.device) -> InferenceModel:
    """Return the model of a checkpoint; some of them are kept."""
    return load_inference_model(read_checkpoint(path), device)
