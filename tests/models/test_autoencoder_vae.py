import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from src.core.images import from_uint8
from src.core.schedules import Linear
from src.models.autoencoder import Autoencoder
from src.models.vae import VAE
from src.objectives.kl import TargetKL, kl_per_dimension
from src.objectives.likelihood import (
    Bernoulli,
    DiscretizedLogistic,
    Fixed,
    Gaussian,
    Laplace,
    Learned,
    Likelihood,
    Optimal,
)
from tests.helpers.feature_networks import smooth_images
from tests.helpers.tiny import tiny_autoencoder, tiny_data, tiny_vae, train

IMAGES = from_uint8(smooth_images(6, seed=0, size=32))
LIKELIHOODS: list[Likelihood] = [
    Gaussian(Optimal()),
    Gaussian(Fixed(0.04)),
    Gaussian(Learned(0.1)),
    Laplace(Optimal()),
    Bernoulli(),
    DiscretizedLogistic(Learned(0.1)),
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_parts_of_the_loss_add_up(likelihood: Likelihood, beta: float) -> None:
    losses = tiny_vae(beta=beta, likelihood=likelihood).losses(IMAGES)
    assert all(values.shape == (6,) for values in losses.values())
    torch.testing.assert_close(losses["loss"], losses["reconstruction_nats"] + beta * losses["kl_nats"])
    torch.testing.assert_close(losses["elbo_nats"], -losses["reconstruction_nats"] - losses["kl_nats"])
    bits_of_a_level = 0 if isinstance(likelihood, Bernoulli | DiscretizedLogistic) else math.log2(127.5)
    bits = -losses["elbo_nats"] / (3 * 32 * 32) / math.log(2) + bits_of_a_level
    torch.testing.assert_close(losses["elbo_bits_per_dim"], bits)


def test_parts_of_the_loss_match_the_encoder_and_the_decoder() -> None:
    vae = tiny_vae()
    torch.manual_seed(3)
    losses = vae.losses(IMAGES)
    torch.manual_seed(3)
    mean, log_variance = vae.posterior(IMAGES)
    latents = torch.normal(mean, (log_variance / 2).exp())
    torch.testing.assert_close(losses["kl_nats"], kl_per_dimension(mean, log_variance).sum(dim=1))
    torch.testing.assert_close(
        losses["reconstruction_nats"], -Gaussian(Optimal()).log_prob(IMAGES, vae.decoder(latents))
    )


def test_loss_of_an_autoencoder_is_its_reconstruction() -> None:
    autoencoder = tiny_autoencoder()
    losses = autoencoder.losses(IMAGES)
    error = (IMAGES - autoencoder.reconstruct(IMAGES)).square()
    variance = error.mean()
    torch.testing.assert_close(losses["loss"].mean(), 1536 * (1 + (2 * math.pi * variance).log()))
    assert torch.equal(losses["loss"], losses["reconstruction_nats"])


def test_beta_follows_its_schedule() -> None:
    vae = tiny_vae(beta=Linear(0.0, 4.0, over_images=1000))
    for images_seen, beta in [(0, 0.0), (250, 1.0), (1000, 4.0), (5000, 4.0)]:
        vae.images_seen = images_seen
        losses = vae.losses(IMAGES)
        torch.testing.assert_close(losses["loss"], losses["reconstruction_nats"] + beta * losses["kl_nats"])


def test_free_bits_cost_the_same_whatever_the_posterior_and_only_in_training() -> None:
    vae = tiny_vae(free_bits=100.0)
    losses = vae.losses(IMAGES)
    torch.testing.assert_close(losses["loss"] - losses["reconstruction_nats"], torch.full((6,), 600.0))
    losses = vae.eval().losses(IMAGES)
    torch.testing.assert_close(losses["loss"], losses["reconstruction_nats"] + losses["kl_nats"])


def test_training_moves_beta_towards_the_target_kl_and_the_checkpoint_keeps_it() -> None:
    vae = tiny_vae(beta=TargetKL(target_nats=1e-6, response_images=40.0))
    train(vae, tiny_data(batch_size=4), max_images=80)
    torch.testing.assert_close(vae.beta(80), torch.tensor(2.0).exp())
    torch.testing.assert_close(vae.state_dict()["beta.log_beta"], torch.tensor(2.0))


def test_only_training_moves_beta_and_after_the_loss() -> None:
    vae = tiny_vae(beta=TargetKL(target_nats=1e-6, response_images=40.0)).eval()
    vae.losses(IMAGES)
    assert vae.beta(0) == 1
    losses = vae.train().losses(IMAGES)
    torch.testing.assert_close(losses["loss"], losses["reconstruction_nats"] + losses["kl_nats"])
    assert vae.beta(0) > 1


def test_training_counts_images() -> None:
    vae = tiny_vae()
    train(vae, tiny_data(batch_size=4), max_images=12)
    assert vae.images_seen == 12


def test_reconstruction_is_the_decoded_posterior_mean() -> None:
    vae = tiny_vae().eval()
    reconstruction = vae.reconstruct(IMAGES)
    mean, _ = vae.posterior(IMAGES)
    torch.testing.assert_close(reconstruction, vae.decoder(mean).tanh())
    assert torch.equal(vae.reconstruct(IMAGES), reconstruction)


class Untransformed(Gaussian):
    """A Gaussian whose mean is the decoder's logits."""

    def mean(self, logits: Tensor) -> Tensor:
        return logits


def linear_vae(posterior_error: float) -> tuple[VAE, MultivariateNormal]:
    """Return a VAE with x = W z + b + noise, W's columns orthogonal, and its p(x); without error q is p(z | x)."""
    torch.manual_seed(0)
    standard_deviation = 0.5
    encoder, affine = nn.Flatten(), nn.Linear(2, 12)
    encoder.num_features = 12  # type: ignore[assignment]
    decoder = nn.Sequential(affine, nn.Unflatten(1, (3, 2, 2)))
    likelihood = Untransformed(Fixed(standard_deviation**2))
    vae = VAE(encoder=encoder, decoder=decoder, likelihood=likelihood, optimizer=torch.optim.Adam, latent_dim=2)
    with torch.no_grad():
        affine.weight.copy_(torch.linalg.qr(torch.randn(12, 2)).Q * torch.tensor([1.0, 0.3]))
        weight, precision = affine.weight, affine.weight.square().sum(0) / standard_deviation**2 + 1
        to_mean = weight.T / (standard_deviation**2 * precision[:, None])
        vae.head.weight.copy_(torch.cat([to_mean, torch.zeros(2, 12)]))
        log_variance = posterior_error - precision.log()
        vae.head.bias.copy_(torch.cat([-to_mean @ affine.bias, log_variance]))
        covariance = weight @ weight.T + standard_deviation**2 * torch.eye(12)
        return vae, MultivariateNormal(affine.bias.detach(), covariance)


@torch.no_grad()
def gap_to_log_likelihood(posterior_error: float) -> float:
    """Return the exact log p(x) - ELBO, averaged over 20,000 images."""
    vae, marginal = linear_vae(posterior_error)
    images = marginal.sample((20_000,))
    elbo = vae.losses(images.view(-1, 3, 2, 2))["elbo_nats"]
    return (marginal.log_prob(images) - elbo).mean().item()


def test_elbo_of_exact_posterior_is_the_log_likelihood() -> None:
    assert gap_to_log_likelihood(posterior_error=0.0) == pytest.approx(0, abs=0.02)


def test_elbo_of_wrong_posterior_is_lower_by_its_kl_to_the_exact_one() -> None:
    """It is 2 KL(N(0, exp(e)) || N(0, 1)) for two latents whose log-variances are wrong by e."""
    for error in (-1.0, 0.8):
        kl = 2 * 0.5 * (math.exp(error) - 1 - error)
        assert gap_to_log_likelihood(error) == pytest.approx(kl, abs=0.05)


@torch.no_grad()
def test_importance_weighted_bound_of_a_linear_vae_approaches_the_likelihood_with_more_samples() -> None:
    """The posterior is wrong; p(x) is a Gaussian in closed form (Tipping & Bishop, 1999)."""
    vae, marginal = linear_vae(posterior_error=0.8)
    images = marginal.sample((4_000,))
    exact = marginal.log_prob(images).mean().item()
    squares = images.view(-1, 3, 2, 2)
    bounds = [vae.importance_weighted_bound(squares, k).mean().item() for k in (1, 2, 5, 20, 200)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(vae.losses(squares)["elbo_nats"].mean().item(), abs=0.05)
    assert bounds[0] < exact - 0.3
    assert bounds[-1] == pytest.approx(exact, abs=0.01)


@torch.no_grad()
def test_importance_weighted_bound_of_the_exact_posterior_is_the_likelihood_with_one_sample() -> None:
    vae, marginal = linear_vae(posterior_error=0.0)
    images = marginal.sample((100,))
    bound = vae.importance_weighted_bound(images.view(-1, 3, 2, 2), 1)
    torch.testing.assert_close(bound, marginal.log_prob(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", [tiny_vae(), tiny_autoencoder()], ids=lambda model: type(model).__name__)
def test_model_overfits_a_handful_of_images(model: VAE | Autoencoder) -> None:
    torch.manual_seed(0)
    optimizer = model.configure_optimizers()
    before, error_before = model.losses(IMAGES)["loss"].mean(), (model.reconstruct(IMAGES) - IMAGES).square().mean()
    for _ in range(120):
        optimizer.zero_grad()
        model.losses(IMAGES)["loss"].mean().backward()
        optimizer.step()
    assert model.losses(IMAGES)["loss"].mean() < before - 1000
    assert (model.reconstruct(IMAGES) - IMAGES).square().mean() < 0.3 * error_before
