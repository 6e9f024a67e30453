"""Tiny models, images in memory and short runs."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn

from src.callbacks.periodic import RunLength
from src.data.archives import ImageFile
from src.data.cache.builder import CachedSource
from src.data.cache.manifest import DecodedImage
from src.data.datamodule import ImageDataModule
from src.data.dataset import ImageDataset
from src.models.autoencoder import Autoencoder
from src.models.base import GenerativeModel
from src.models.gan import GAN
from src.models.vae import VAE
from src.networks.conv_vae import ConvDecoder, ConvEncoder
from src.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from src.objectives.adversarial import RelativisticPairing
from src.objectives.gradient_penalty import ZeroCentered
from src.objectives.likelihood import Gaussian, Optimal
from src.training.fit import quieten_lightning

# Networks this small only lose with more threads, and lose all on a busy machine.
torch.set_num_threads(1)

LATENT_DIM = 6
ADAM = partial(torch.optim.Adam, lr=2e-3, betas=(0.0, 0.99))


def in_memory(
    images: Tensor, names: Sequence[str], groups: Tensor | None = None, factors: Tensor | None = None
) -> ImageDataset:
    """A dataset of a tensor, uint8 (N, 3, S, S); without groups, each image is a group of its own."""
    rows = torch.arange(len(images))
    return ImageDataset(images, rows, list(names), rows if groups is None else groups, factors)


class InMemory(CachedSource):
    """A source of given images, uint8 (N, 3, S, S)."""

    description = "images in memory"

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def load(self, image_size: int, cache_dir: str | Path | None = None) -> ImageDataset:
        return in_memory(self.images, [f"{index}.png" for index in range(len(self.images))])

    def options(self, image_size: int) -> dict[str, Any]:
        raise NotImplementedError

    def files(self) -> list[ImageFile]:
        raise NotImplementedError

    def decode(self, files: list[ImageFile], image_size: int) -> list[DecodedImage]:
        raise NotImplementedError


def random_images(count: int, seed: int = 0, size: int = 32) -> Tensor:
    """uint8 (count, 3, size, size), no two alike."""
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def tiny_data(num_images: int = 40, **options: Any) -> ImageDataModule:
    return ImageDataModule(InMemory(random_images(num_images)), **{"image_size": 32, "batch_size": 4, **options})


class ScriptedModel(GenerativeModel):
    """Its training costs nothing, its loss is the number of images seen before the step, and it never learns."""

    latent_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.config = {"name": "scripted"}

    def decode(self, latents: Tensor) -> Tensor:
        return latents.tanh()[:, :, None, None].expand(-1, -1, 32, 32) + self.weight

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor]:
        loss = 0 * self.weight + self.images_seen
        self.count_images(images)
        return {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def tiny_gan(kind: type[GAN] = GAN, **options: Any) -> GAN:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "generator": DCGANGenerator(32, LATENT_DIM, width=8, max_width=16, normalization="group"),
        "discriminator": DCGANDiscriminator(32, width=8, max_width=16, normalization="none"),
        "adversarial_loss": RelativisticPairing(),
        "gradient_penalty": ZeroCentered(1.0, 1.0),
        "generator_optimizer": ADAM,
        "discriminator_optimizer": ADAM,
        "latent_dim": LATENT_DIM,
    }
    return kind(**(parts | options))


class Stepped(GenerativeModel):
    """A mixin for adversarial models that takes steps without a Trainer."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.both: Any = self.configure_optimizers()
        self.trainer = cast(Trainer, SimpleNamespace(world_size=1))

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.both

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()


class SteppedGAN(Stepped, GAN):
    pass


def stepped_gan(**options: Any) -> SteppedGAN:
    return cast(SteppedGAN, tiny_gan(SteppedGAN, **options))


def autoencoder_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "encoder": ConvEncoder(32, width=8, max_width=16),
        "decoder": ConvDecoder(32, LATENT_DIM, width=8, max_width=16),
        "likelihood": Gaussian(Optimal()),
        "optimizer": partial(torch.optim.Adam, lr=3e-3),
        "latent_dim": LATENT_DIM,
    }


def tiny_vae(**options: Any) -> VAE:
    return VAE(**(autoencoder_parts() | options))


def tiny_autoencoder(**options: Any) -> Autoencoder:
    return Autoencoder(**(autoencoder_parts() | options))


def train(
    model: GenerativeModel,
    data: ImageDataModule,
    max_images: int,
    callbacks: Iterable[Callback] = (),
    loggers: Iterable[Logger] = (),
) -> Trainer:
    """Trains as src.training.fit does."""
    quieten_lightning()
    callbacks = list(callbacks)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RunLength(max_images), *callbacks],
        logger=list(loggers),
    )
    trainer.fit(model, data)
    return trainer


def as_process(data: ImageDataModule, rank: int = 0, world_size: int = 1, images_seen: int = 0) -> ImageDataModule:
    """The data as one of several processes sees it whose model has seen so many images."""
    model = SimpleNamespace(images_seen=images_seen, dtype=torch.float32)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = cast(
        Trainer, SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=model, strategy=strategy)
    )
    return data


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def identical(module: nn.Module, before: dict[str, Tensor]) -> bool:
    """Tell whether every weight is the same as before, bit for bit."""
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Equal bit for bit, however deep."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}[{index}]")
    else:
        assert one == other, path


def checkpoint_of(model: GenerativeModel, config: dict[str, Any], images_seen: int = 0) -> dict[str, Any]:
    """The content of a checkpoint without what only training needs. config: see portable_config."""
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.config, model.images_seen = config, images_seen
    model.on_save_checkpoint(checkpoint)
    return checkpoint
