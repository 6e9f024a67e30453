"""Trains a model of pythae's with this project's networks for so many processor seconds, and samples from its mixture.

`PYTHON -m benchmarks.peers.pythae_models MODEL IMAGES.npy OUTPUT SECONDS SEED SAMPLES`, where PYTHON is that of an
environment with pythae and pyyaml, and MODEL is VAE or RAE_L2.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pythae.models
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.peers.clock import TimeUp, save_uint8, stop_after
from src.networks.conv_vae import ConvDecoder, ConvEncoder

LATENT_DIM, WIDTHS, BATCH, LEARNING_RATE = 64, (24, 192), 16, 1e-3  # those of conf/experiment/vae_cpu.yaml


class Encoder(BaseEncoder):
    """ConvEncoder with heads for the means and, unused by an RAE, the logarithms of the variances."""

    def __init__(self, image_size: Any) -> None:
        super().__init__()
        self.features = ConvEncoder(image_size, *WIDTHS)
        self.heads = nn.Linear(self.features.num_features, 2 * LATENT_DIM)

    def forward(self, images: Tensor) -> ModelOutput:
        means, log_variances = self.heads(self.features(images * 2 - 1)).chunk(2, dim=1)
        return ModelOutput(embedding=means, log_covariance=log_variances)


class Decoder(BaseDecoder):
    def __init__(self, image_size: Any) -> None:
        super().__init__()
        self.layers = ConvDecoder(image_size, LATENT_DIM, *WIDTHS)

    def forward(self, latents: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(latents).sigmoid())


def main() -> None:
    kind, images, output, seconds, seed, samples = sys.argv[1:]
    folder = Path(output)
    folder.mkdir(parents=True)
    torch.manual_seed(int(seed))
    pixels = torch.from_numpy(np.load(images)).float() / 255
    config = getattr(pythae.models, f"{kind}_Config" if "_" in kind else f"{kind}Config")(
        input_dim=tuple(pixels.shape[1:]), latent_dim=LATENT_DIM
    )
    size = pixels.shape[-1]
    model = getattr(pythae.models, kind)(model_config=config, encoder=Encoder(size), decoder=Decoder(size))
    settings = BaseTrainerConfig(
        output_dir=f"{folder}-files", num_epochs=1_000_000, per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE, seed=int(seed), no_cuda=True,
    )  # fmt: skip
    data = pythae.data.datasets.BaseDataset(pixels, torch.ones(len(pixels)))
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    register_optimizer_step_post_hook(count)
    stop_after(float(seconds))
    with suppress(TimeUp):
        BaseTrainer(model, data, training_config=settings).train()
    sampler = GaussianMixtureSampler(model.eval(), GaussianMixtureSamplerConfig(n_components=10))
    sampler.fit(pixels)
    save_uint8(sampler.sample(num_samples=int(samples), batch_size=64, return_gen=True).cpu(), folder)
    print(f"images_seen={steps * BATCH}")


if __name__ == "__main__":
    main()
