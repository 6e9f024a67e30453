import pytest
import torch
from torch import Tensor

from src.core.images import to_uint8
from src.models.base import GenerativeModel
from src.networks.dcgan import DCGANGenerator
from tests.helpers.tiny import LATENT_DIM, tiny_autoencoder, tiny_gan, tiny_vae

MODELS: list[GenerativeModel] = [tiny_gan().eval(), tiny_vae().eval(), tiny_autoencoder().eval()]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_in_calls(model: GenerativeModel, sizes: list[int], seed: int) -> Tensor:
    generator = seeded(seed)
    return torch.cat([model.sample(size, generator) for size in sizes])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_samples_do_not_depend_on_the_split_into_calls(model: GenerativeModel) -> None:
    whole = sample_in_calls(model, [7], seed=1)
    assert whole.shape == (7, 3, 32, 32)
    assert whole.abs().max() <= 1
    for sizes in ([1] * 7, [3, 4], [5, 2]):
        torch.testing.assert_close(sample_in_calls(model, sizes, seed=1), whole)
        assert torch.equal(to_uint8(sample_in_calls(model, sizes, seed=1)), to_uint8(whole))


@pytest.mark.parametrize("latent_dim", [1, 3, 15, 16, 17, 64])
def test_latents_do_not_depend_on_the_split_into_calls(latent_dim: int) -> None:
    model = tiny_gan()
    model.decode, model.latent_dim = lambda latents: latents, latent_dim  # type: ignore[method-assign]
    assert torch.equal(sample_in_calls(model, [2, 1, 4], seed=1), sample_in_calls(model, [7], seed=1))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_samples_depend_only_on_their_generator(model: GenerativeModel) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = model.sample(2, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(model.sample(2, seeded(5)), first)
    assert not torch.equal(model.sample(2, seeded(6)), first)


def test_samples_without_generator_follow_the_global_seed() -> None:
    torch.manual_seed(1)
    first, second = MODELS[0].sample(2), MODELS[0].sample(2)
    torch.manual_seed(1)
    assert torch.equal(MODELS[0].sample(2), first)
    assert not torch.equal(second, first)


def test_latents_are_standard_normal() -> None:
    model = tiny_gan()
    model.decode = lambda latents: latents  # type: ignore[method-assign]
    latents = model.sample(5000, seeded(0))
    torch.testing.assert_close(latents.mean(0), torch.zeros(model.latent_dim), atol=0.06, rtol=0)
    torch.testing.assert_close(latents.T.cov(), torch.eye(model.latent_dim), atol=0.08, rtol=0)


@pytest.mark.parametrize("width", [8, 24])
def test_images_of_a_seed_are_the_same_bytes_however_many_are_drawn(width: int) -> None:
    model = tiny_gan(generator=DCGANGenerator(64, LATENT_DIM, width, 8 * width, "group")).eval()
    whole = torch.cat(list(model.sample_uint8(70, seed=3)))
    torch.testing.assert_close(whole.float(), to_uint8(model.sample(70, seeded(3))).float(), atol=1, rtol=0)
    for num_images in (1, 5, 32, 33, 64):
        assert torch.equal(torch.cat(list(model.sample_uint8(num_images, seed=3))), whole[:num_images])
    assert not torch.equal(next(model.sample_uint8(7, seed=4)), whole[:7])
