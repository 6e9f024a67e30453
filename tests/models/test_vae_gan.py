from typing import Any, cast

import pytest
import torch

from src.callbacks.periodic import StepSeeds
from src.core.images import from_uint8
from src.models.vae_gan import VAEGAN, ratio_of_root_mean_squares
from src.networks.dcgan import DCGANDiscriminator
from src.objectives.adversarial import RelativisticPairing
from src.objectives.gradient_penalty import ZeroCentered
from tests.helpers.feature_networks import smooth_images
from tests.helpers.tiny import ADAM, Stepped, autoencoder_parts, identical, snapshot, tiny_data, tiny_vae, train

REAL = from_uint8(smooth_images(6, seed=0, size=32))


def tiny_vae_gan(kind: type[VAEGAN] = VAEGAN, **options: Any) -> VAEGAN:
    parts = autoencoder_parts() | {
        "discriminator": DCGANDiscriminator(32, width=8, max_width=16, normalization="none"),
        "adversarial_loss": RelativisticPairing(),
        "gradient_penalty": ZeroCentered(1.0, 1.0),
        "discriminator_optimizer": ADAM,
    }
    return kind(**(parts | options))


class SteppedVAEGAN(Stepped, VAEGAN):
    pass


def take_step(model: VAEGAN) -> dict[str, Any]:
    torch.manual_seed(7)
    return model.training_step(REAL, 0)


def test_without_adversarial_weight_the_step_is_the_vaes() -> None:
    model, vae = tiny_vae_gan(SteppedVAEGAN, adversarial_weight=0.0), tiny_vae()
    with torch.no_grad():
        for ours, theirs in zip(model.head.parameters(), vae.head.parameters(), strict=True):
            theirs.copy_(ours)
    take_step(model)
    torch.manual_seed(7)
    optimizer = vae.configure_optimizers()
    vae.losses(REAL)["loss"].mean().backward()
    optimizer.step()
    for ours, theirs in zip(model.decoder.parameters(), vae.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_adversarial_weight_is_the_ratio_of_the_gradients_at_the_logits(weight: float) -> None:
    """That of the adversarial loss to that of the likelihood, as root mean squares."""
    model = tiny_vae_gan(SteppedVAEGAN, adversarial_weight=weight)
    before = snapshot(model)
    scalars = take_step(model)
    model.load_state_dict(before)
    torch.manual_seed(7)
    losses, logits = model.losses_and_logits(REAL)
    samples = model.decode_logits(torch.randn(3, model.latent_dim))
    generated = torch.cat([logits[3:], samples]).detach().requires_grad_()
    # In the step the generator's loss comes after the discriminator's update.
    model.train_discriminator(cast(Any, model).both[1], REAL, model.likelihood.mean(generated), 0)
    adversarial = model.generator_loss(REAL, model.likelihood.mean(generated)).mean()
    (gradient,) = torch.autograd.grad(adversarial, generated)
    (other,) = torch.autograd.grad(losses["reconstruction_nats"].mean(), logits)
    assert scalars["generator_loss"].item() == pytest.approx(adversarial.item(), rel=1e-3)
    ratio = scalars["adversarial_factor"] * gradient.square().mean().sqrt() / other.square().mean().sqrt()
    assert ratio.item() == pytest.approx(weight, rel=1e-2)


def test_training_moves_every_part_and_the_average_follows_the_decoder() -> None:
    model = tiny_vae_gan(ema_halflife_images=4.0, ema_rampup=100.0)
    before = snapshot(model)
    train(model, tiny_data(batch_size=4), 24, [StepSeeds(0)])
    for part in ("encoder", "decoder", "discriminator", "head", "decoder_ema"):
        mine = {name.removeprefix(f"{part}."): value for name, value in before.items() if name.startswith(f"{part}.")}
        assert not identical(getattr(model, part), mine)
    for average, weight in zip(model.decoder_ema.parameters(), model.decoder.parameters(), strict=True):
        assert (average - weight).norm() < 0.5 * weight.norm() + 1e-3
        assert not average.requires_grad


def test_images_and_held_out_losses_are_those_of_the_averaged_decoder() -> None:
    model = tiny_vae_gan().eval()
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.zero_()
        latents = torch.randn(3, model.latent_dim)
        torch.testing.assert_close(model.decode(latents), model.decoder_ema(latents).tanh())
        assert model.losses(REAL)["reconstruction_nats"].std() > 0


def test_decoder_step_leaves_the_discriminator_unchanged() -> None:
    """Another step of the decoder's optimizer changes no weight of the discriminator, and all still get gradients."""
    model = tiny_vae_gan(SteppedVAEGAN)
    take_step(model)
    assert all(weight.requires_grad for weight in model.discriminator.parameters())
    after = snapshot(model.discriminator)
    cast(Any, model).both[0].step()
    assert identical(model.discriminator, after)


def test_ratio_is_of_root_mean_squares() -> None:
    a, b = torch.randn(5, 3, 2, 2), torch.randn(4, 3, 2, 2)
    expected = (a.square().mean() / b.square().mean()).sqrt()
    torch.testing.assert_close(ratio_of_root_mean_squares(a, b), expected)
