from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.callbacks.evaluation import Evaluation
from src.core.errors import UserError
from src.core.images import to_uint8
from src.evaluation.evaluator import Evaluator
from src.metrics.feature_metrics import FeatureMetrics
from src.metrics.frechet import FrechetDistance
from src.models.autoencoder import EncodingModel
from src.models.priors import GaussianMixture
from tests.helpers.feature_networks import PatchMeans
from tests.helpers.tiny import LATENT_DIM, identical, snapshot, tiny_autoencoder, tiny_data, tiny_gan, tiny_vae, train


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_clusters() -> Tensor:
    """Return 3,000 latents: a third in one cluster, the others in a correlated one, in units of a hundred."""
    torch.manual_seed(0)
    near, far = torch.randn(1_000, 2), torch.randn(2_000, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    return 100 * torch.cat([near + torch.tensor([10.0, 0.0]), far - torch.tensor([10.0, 0.0])])


def test_mixture_finds_the_gaussians_that_latents_were_sampled_from() -> None:
    mixture, latents = GaussianMixture(2, 2), two_clusters()
    assert not mixture.is_fitted
    mixture.fit(latents, images_seen=7)
    assert mixture.fitted_at == 7
    near = mixture.means[:, 0].argmax()
    assert mixture.weights[near].item() == pytest.approx(1 / 3, abs=1e-3)
    for component, part in ((near, latents[:1_000]), (1 - near, latents[1_000:])):
        torch.testing.assert_close(mixture.means[component], part.mean(0), atol=0.1, rtol=0)
        covariance = mixture.choleskies[component] @ mixture.choleskies[component].T
        torch.testing.assert_close(covariance, part.T.cov(), rtol=0.01, atol=60.0)


def test_samples_of_the_mixture_have_its_moments() -> None:
    mixture, latents = GaussianMixture(2, 2), two_clusters()
    mixture.fit(latents, images_seen=0)
    samples = mixture.sample(8_000, seeded(0))
    torch.testing.assert_close(samples.mean(0), latents.mean(0), atol=40.0, rtol=0)
    torch.testing.assert_close(samples.T.cov(), latents.T.cov(), rtol=0.05, atol=3e3)


def test_mixture_is_deterministic_and_survives_a_checkpoint() -> None:
    first, second, loaded = GaussianMixture(3, 2), GaussianMixture(3, 2), GaussianMixture(3, 2)
    first.fit(two_clusters(), 5)
    torch.manual_seed(99)
    second.fit(two_clusters(), 5)
    loaded.load_state_dict(first.state_dict())
    for mixture in (second, loaded):
        assert torch.equal(mixture.sample(9, seeded(3)), first.sample(9, seeded(3)))


@pytest.mark.parametrize("num_latents", [0, 1, 2, 5, 40])
def test_two_latents_are_enough_and_fewer_leave_it_unfitted(num_latents: int) -> None:
    mixture = GaussianMixture(10, 4)
    mixture.fit(torch.randn(num_latents, 4, generator=seeded(0)), 0)
    assert mixture.is_fitted == (num_latents > 1)
    if mixture.is_fitted:
        assert mixture.sample(3, seeded(0)).isfinite().all()


@pytest.mark.parametrize(("distance", "used"), [(0.0, 1), (10.0, 4)])
def test_held_out_density_chooses_the_number_of_components(distance: float, used: int) -> None:
    """Four clusters far from each other, or all in one place; eight components overfit both."""
    torch.manual_seed(0)
    latents = torch.randn(2_000, 20) + distance * torch.randn(4, 20).repeat(500, 1)
    mixture = GaussianMixture(8, 20)
    mixture.fit(latents, 0)
    assert int((mixture.weights > 0).sum()) == used
    assert float(mixture.weights.sum()) == pytest.approx(1)


def test_latents_that_are_not_finite_change_nothing() -> None:
    mixture = GaussianMixture(2, 2)
    mixture.fit(two_clusters(), 3)
    before = snapshot(mixture)
    mixture.fit(torch.full((9, 2), float("nan")), 4)
    assert identical(mixture, before)


@pytest.mark.parametrize("build", [tiny_vae, tiny_autoencoder])
def test_images_of_the_mixture_are_the_same_bytes_however_many_are_drawn(build: Callable[[], EncodingModel]) -> None:
    model = build().eval()
    Evaluator(model, tiny_data()).fit_prior()
    whole = torch.cat(list(model.sample_uint8(40, seed=3, prior="mixture")))
    assert not torch.equal(whole, torch.cat(list(model.sample_uint8(40, seed=3))))
    for num_images in (1, 7, 32, 33):
        assert torch.equal(torch.cat(list(model.sample_uint8(num_images, 3, "mixture"))), whole[:num_images])
    image = to_uint8(model.sample(5, seeded(3), "mixture")).float()
    torch.testing.assert_close(image, whole[:5].float(), atol=1, rtol=0)


def test_mixture_of_a_vae_is_fitted_on_samples_of_the_posteriors() -> None:
    vae, data = tiny_vae(mixture_components=1).eval(), tiny_data(200)
    Evaluator(vae, data).fit_prior()
    mean, log_variance = vae.posterior(data.images("train")[:].float() / 127.5 - 1)
    expected = mean.T.cov() + log_variance.exp().mean(0).diag()
    covariance = vae.mixture.choleskies[0] @ vae.mixture.choleskies[0].T
    torch.testing.assert_close(covariance, expected.detach(), atol=0.35, rtol=0)


def test_unknown_prior_is_a_user_error() -> None:
    for model in (tiny_gan(), tiny_vae()):
        with pytest.raises(UserError, match="this model has no prior=mixture; give prior=normal"):
            model.sample(1, prior="mixture")


def test_evaluations_log_both_priors_under_different_names(tmp_path: Path) -> None:
    metrics = {"patches": FeatureMetrics(PatchMeans(), {"fd_patches": FrechetDistance()})}
    model = tiny_vae()
    trainer = train(model, tiny_data(), 16, [Evaluation(8, metrics, num_images=20, cache_dir=str(tmp_path))])
    assert model.mixture.fitted_at == 16
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged["fd_patches"] != logged["fd_patches_mixture"]
    spectrum = [logged[f"val/kl_nats_of_dimension/{index:03d}"] for index in range(LATENT_DIM)]
    assert spectrum == sorted(spectrum, reverse=True)
    assert sum(spectrum) == pytest.approx(logged["val/kl_nats"], rel=1e-4)
    assert 0 <= logged["val/active_units"] <= LATENT_DIM
