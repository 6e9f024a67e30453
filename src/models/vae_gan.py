"""A VAE whose decoder is also trained against a discriminator (Larsen et al., 2016), so that its images are sharp."""

import copy

import torch
from torch import Tensor, nn

from src.core.distributed import all_reduce_mean
from src.core.schedules import Schedule, as_schedule
from src.core.types import NonNegativeFloat, PositiveFloat, PositiveInt
from src.models.adversarial import AdversarialModel, gradient_norm, measured
from src.models.base import OptimizerFactory
from src.models.ema import relative_distance, update_ema
from src.models.vae import VAE
from src.networks.augmentation import Augmentation
from src.objectives.adversarial import AdversarialLoss
from src.objectives.gradient_penalty import GradientPenalty
from src.objectives.likelihood import Likelihood


class VAEGAN(AdversarialModel, VAE):
    """Each step: the discriminator on real and generated images, then encoder and decoder. Half of the generated
    images are reconstructions, half are samples from N(0, I).

    adversarial_weight: how hard the discriminator pulls at the decoder's outputs, in units of the likelihood's pull:
    a factor holds the ratio of the gradients' root mean squares (after Esser et al., 2021, equation 7).
    ema_halflife_images: memory of the averaged decoder, which makes all images shown and judged; shorter at first,
    ema_rampup times the images seen. 0: no averaging.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        discriminator: nn.Module,
        adversarial_loss: AdversarialLoss,
        gradient_penalty: GradientPenalty,
        optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: PositiveInt,
        beta: NonNegativeFloat | Schedule = 1.0,
        free_bits: NonNegativeFloat = 0.0,
        adversarial_weight: NonNegativeFloat | Schedule = 0.5,
        augmentation: Augmentation | None = None,
        ema_halflife_images: NonNegativeFloat | Schedule = 10_000.0,
        ema_rampup: PositiveFloat = 0.05,
        learning_rate_factor: NonNegativeFloat | Schedule = 1.0,
        mixture_components: PositiveInt = 10,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            likelihood,
            optimizer,
            latent_dim,
            beta,
            free_bits,
            learning_rate_factor,
            mixture_components,
            channels_last,
        )
        self.set_adversary(
            discriminator.to(memory_format=self.memory_format), adversarial_loss, gradient_penalty, augmentation
        )
        self.discriminator_optimizer = discriminator_optimizer
        self.decoder_ema = copy.deepcopy(decoder).requires_grad_(False)
        self.ema_rampup = ema_rampup
        self.scheduled |= {
            "adversarial_weight": as_schedule(adversarial_weight),
            "ema_halflife_images": as_schedule(ema_halflife_images),
        }

    def outputs(self, latents: Tensor) -> Tensor:
        return (self.decoder if self.training else self.decoder_ema)(latents)

    def training_step(self, images: Tensor, batch_idx: int) -> dict[str, Tensor | float]:
        real = images.contiguous(memory_format=self.memory_format)
        scheduled = self.apply_schedules()
        self.gradient_penalty.set_weights(scheduled)
        optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        step = self.images_seen // (len(real) * self.trainer.world_size)

        losses, outputs = self.losses_and_outputs(real)
        latents = torch.randn(len(real) // 2, self.latent_dim, device=real.device, dtype=real.dtype)
        generated = torch.cat([outputs[len(latents) :], self.outputs(latents).to(real.dtype)])
        fake = self.likelihood.mean(generated)
        scalars = self.train_discriminator(discriminator_optimizer, real, fake, step)

        # The discriminator only passes gradients on; its own weights gather none.
        self.discriminator.requires_grad_(False)
        adversarial = self.generator_loss(real, fake).mean()
        (pull,) = torch.autograd.grad(adversarial, generated)
        (likelihood_pull,) = torch.autograd.grad(losses["reconstruction_nats"].mean(), outputs, retain_graph=True)
        weight = scheduled["adversarial_weight"] * ratio_of_root_mean_squares(likelihood_pull, pull)
        # The gradient of weight x adversarial, without going through the discriminator again.
        loss = losses["loss"].mean() + (weight * pull * generated).sum()
        self.descend(optimizer, loss)
        self.discriminator.requires_grad_(True)

        scalars |= self.training_scalars(losses)
        self.count_images(real)
        halflife = min(scheduled["ema_halflife_images"], self.ema_rampup * self.images_seen)
        update_ema(self.decoder_ema, self.decoder, len(real) * self.trainer.world_size, halflife)
        return {
            **{name: values.detach().mean() for name, values in losses.items()},
            **scalars,
            **scheduled,
            "generator_loss": adversarial.detach(),
            "adversarial_factor": weight,
            **measured(
                step,
                decoder_gradient_norm=lambda: gradient_norm(self.decoder),
                ema_distance=lambda: relative_distance(self.decoder_ema, self.decoder),
            ),
        }

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:  # type: ignore[override]
        own = [*self.encoder.parameters(), *self.decoder.parameters(), *self.to_posterior.parameters()]
        return [
            self.optimizer([*own, *self.likelihood.parameters()]),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]


def ratio_of_root_mean_squares(a: Tensor, b: Tensor) -> Tensor:
    """Of all values of all processes: two (N, ...) -> a scalar, without gradient."""
    of_a, of_b = (all_reduce_mean(values.flatten(1).square().mean(dim=1))[0] for values in (a, b))
    return (of_a / of_b.clamp_min(1e-24)).sqrt()
