"""A VAE whose decoder is also trained against a discriminator (Larsen et al., 2016), so that its images are sharp."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from src.core.distributed import all_reduce_mean
from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveFloat
from src.models.adversarial import AdversarialModel, measure
from src.models.vae import VAE


class VAEGAN(VAE, AdversarialModel):
    """A VAE-GAN: each step trains the discriminator on real and generated images, then encoder and decoder.

    Half of the generated images are reconstructions, half are decoded from N(0, I).

    adversarial_weight: size of the adversarial loss's gradient with respect to the logits, relative to that of the
    likelihood: an adaptive factor fixes the ratio of their root mean squares (after Esser et al., 2021, equation 7).
    options: of VAE, EncodingModel and AdversarialModel.
    """

    inference_parts: ClassVar = VAE.inference_parts | {"decoder": "decoder_ema"}

    def __init__(
        self,
        adversarial_weight: NonNegativeFloat | Schedule = 0.5,
        ema_halflife_images: NonNegativeFloat | Schedule = 10_000.0,
        ema_rampup: PositiveFloat | None = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(ema_halflife_images=ema_halflife_images, ema_rampup=ema_rampup, **options)
        self.decoder_ema = copy.deepcopy(self.decoder).requires_grad_(False)
        self.scheduled["adversarial_weight"] = as_schedule(adversarial_weight)

    def decode_logits(self, latents: Tensor) -> Tensor:
        return (self.decoder if self.training else self.decoder_ema)(latents)

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        real = images.contiguous(memory_format=self.memory_format)
        scheduled = self.apply_schedules()
        optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        batch_images = len(real) * self.trainer.world_size
        step = self.images_seen // batch_images

        losses, logits = self.losses_and_logits(real)
        latents = torch.randn(len(real) // 2, self.latent_dim, device=real.device, dtype=real.dtype)
        generated_logits = torch.cat([logits[len(latents) :], self.decode_logits(latents).to(real.dtype)])
        fake = self.likelihood.mean(generated_logits)
        scalars = self.train_discriminator(discriminator_optimizer, real, fake, step)

        adversarial = self.generator_loss(real, fake).mean()
        (adversarial_gradient,) = torch.autograd.grad(adversarial, generated_logits)
        likelihood_loss = losses["reconstruction_nats"].mean()
        (likelihood_gradient,) = torch.autograd.grad(likelihood_loss, logits, retain_graph=True)
        ratio = ratio_of_root_mean_squares(likelihood_gradient, adversarial_gradient)
        factor = scheduled["adversarial_weight"] * ratio
        # The gradient of factor x adversarial, without going through the discriminator again.
        loss = losses["loss"].mean() + (factor * adversarial_gradient * generated_logits).sum()
        self.take_step(optimizer, loss)

        self.update_average(self.decoder_ema, self.decoder, batch_images)
        self.count_images(real)
        return {
            **{name: values.detach().mean() for name, values in losses.items()},
            **scalars,
            **scheduled,
            "generator_loss": adversarial.detach(),
            "adversarial_factor": factor,
            **measure(step, "decoder", self.decoder, self.decoder_ema),
        }

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:  # type: ignore[override]
        own = [*self.encoder.parameters(), *self.decoder.parameters(), *self.head.parameters()]
        return [
            self.optimizer([*own, *self.likelihood.parameters()]),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]


def ratio_of_root_mean_squares(a: Tensor, b: Tensor) -> Tensor:
    """Return RMS(a) / RMS(b) over the values of all ranks, without gradient: two (N, ...) -> a scalar."""
    mean_square_a, mean_square_b = (all_reduce_mean(x.flatten(1).square().mean(dim=1))[0] for x in (a, b))
    return (mean_square_a / mean_square_b.clamp_min(1e-24)).sqrt()
