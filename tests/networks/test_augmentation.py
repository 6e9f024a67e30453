"""Transforms against independent computations, their distributions, and whether a GAN can undo them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import affine

from src.core.schedules import Linear
from src.networks.augmentation import AdaptiveAugmentation, Augmentation, cut_out, flip, recolor, translate
from tests.helpers.tiny import SteppedGAN, identical, snapshot, tiny_data, tiny_gan, tiny_vae, train

NOTHING: dict[str, Any] = dict.fromkeys(("translation", "brightness", "contrast", "saturation", "hue", "cutout"), 0.0)
ALL = Augmentation(probability=0.5, horizontal_flip=True, hue=0.1)


def random_images(count: int, size: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def only(**options: Any) -> Augmentation:
    """One transform, always applied."""
    return Augmentation(probability=1.0, **(NOTHING | options))


def test_flip_matches_numpy() -> None:
    images = random_images(2)
    flipped = flip(images, torch.tensor([True, False]))
    assert np.array_equal(flipped[0].numpy(), np.flip(images[0].numpy(), axis=2))
    assert torch.equal(flipped[1], images[1])


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, -5), (-2, 7), (16, 0), (-20, 20)])
def test_translation_matches_torchvision(down: int, right: int) -> None:
    images = random_images(2)
    ours = translate(images, torch.tensor([down, 0]), torch.tensor([right, 0]))
    assert torch.equal(ours[0], affine(images[0], angle=0.0, translate=[right, down], scale=1.0, shear=[0.0]))
    assert torch.equal(ours[1], images[1])


def rotation_about_gray(turns: float) -> np.ndarray:
    """Rodrigues' matrix for the axis (1, 1, 1)."""
    axis = np.ones(3) / math.sqrt(3)
    x, y, z = axis
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 2 * math.pi * turns
    return np.eye(3) + math.sin(angle) * across + (1 - math.cos(angle)) * across @ across


@pytest.mark.parametrize(("brightness", "contrast", "saturation", "hue"),
                         [(0.3, 1, 1, 0), (0, 0.5, 1, 0), (0, 1, 1.7, 0), (0, 1, 0, 0), (0, 1, 1, 0.2),
                          (-0.2, 1.4, 0.6, -0.45)])  # fmt: skip
def test_recoloring_is_a_matrix_on_the_colors(
    brightness: float, contrast: float, saturation: float, hue: float
) -> None:
    images = random_images(1, dtype=torch.float64)
    gray = np.full((3, 3), 1 / 3)
    matrix = contrast * (gray + saturation * (np.eye(3) - gray)) @ rotation_about_gray(hue)
    expected = np.einsum("cd,ndhw->nchw", matrix, images.numpy()) + brightness
    ours = recolor(images, *(torch.tensor([float(value)]) for value in (brightness, contrast, saturation, hue)))
    assert np.allclose(ours.numpy(), expected, atol=1e-6)


def test_hue_of_a_third_of_a_turn_permutes_the_colors() -> None:
    images = random_images(1, dtype=torch.float64)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(recolor(images, zero, one, one, one / 3), images.roll(1, dims=1))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_grays_the_square_and_nothing_else(size: int) -> None:
    images = random_images(1)
    for row, column in [(8, 8), (0, 0), (15, 3)]:
        expected = images.clone().numpy()
        top, left = row - size // 2, column - size // 2
        expected[..., max(top, 0) : top + size, max(left, 0) : left + size] = 0
        assert np.array_equal(cut_out(images, torch.tensor([row]), torch.tensor([column]), size).numpy(), expected)


def test_all_is_differentiable_in_the_images() -> None:
    def augmented(images: Tensor) -> Tensor:
        torch.manual_seed(3)
        return ALL(images, 0)

    images = random_images(2, size=4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(augmented, (images,))
    assert torch.autograd.gradgradcheck(augmented, (images,))


def test_probability_zero_is_the_identity_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        images = random_images(64, dtype=dtype)
        result = ALL.transform(images, 0.0)
        assert torch.equal(result.view(torch.uint8), images.view(torch.uint8))


def test_probability_one_changes_every_image_and_keeps_shape_and_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        images = random_images(64, dtype=dtype)
        result = ALL.transform(images, 1.0)
        assert (result != images).flatten(1).any(dim=1).all()
        assert (result.dtype, result.shape) == (images.dtype, images.shape)


def test_same_seed_same_result_and_the_probability_may_be_a_tensor() -> None:
    def drawn(seed: int, probability: Tensor | float) -> Tensor:
        torch.manual_seed(seed)
        return ALL.transform(random_images(8), probability)

    assert torch.equal(drawn(1, 0.5), drawn(1, torch.tensor(0.5)))
    assert not torch.equal(drawn(1, 0.5), drawn(2, 0.5))


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    expected = ALL.transform(random_images(8), 1.0)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ALL.transform(random_images(8), 1.0), expected)


def share_changed(augmentation: Augmentation, images: Tensor, probability: float) -> float:
    torch.manual_seed(0)
    return float((augmentation.transform(images, probability) != images).flatten(1).any(dim=1).float().mean())


@pytest.mark.parametrize("transform", [{"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 1.0}, {"hue": 0.3},
                                       {"cutout": 0.5}])  # fmt: skip
def test_share_of_changed_images_is_the_probability(transform: dict[str, float]) -> None:
    """4,000 draws: four standard deviations are 0.03."""
    assert share_changed(only(**transform), random_images(4_000, size=8), 0.3) == pytest.approx(0.3, abs=0.03)


def test_flip_mirrors_half_of_its_images() -> None:
    assert share_changed(only(horizontal_flip=True), random_images(4_000, size=8), 0.6) == pytest.approx(0.3, abs=0.03)


def uniform(values: Tensor, low: float, high: float) -> None:
    """Assert uniformity by Kolmogorov-Smirnov: at n = 4,000 1.95 / sqrt(n) is exceeded once in a thousand."""
    assert low <= float(values.min())
    assert float(values.max()) <= high
    rank = torch.arange(1, len(values) + 1) / len(values)
    assert float(((values.sort().values - low) / (high - low) - rank).abs().max()) < 1.95 / math.sqrt(len(values))


def test_parameters_are_uniform_over_their_ranges() -> None:
    torch.manual_seed(0)
    gray = torch.full((4_000, 3, 8, 8), 0.5)
    uniform(only(brightness=0.4)(gray, 0)[:, 0, 0, 0] - 0.5, -0.4, 0.4)
    uniform(only(contrast=0.3)(gray, 0)[:, 0, 0, 0] / 0.5, 0.7, 1.3)
    color = gray * torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    uniform(only(saturation=1.0)(color, 0)[:, 0, 0, 0] / 0.5, 0.0, 2.0)
    turned = only(hue=0.2)(color, 0)[:, :, 0, 0]
    sideways = (turned[:, 2] + turned[:, 0] - 2 * turned[:, 1]) / math.sqrt(3)
    uniform(torch.atan2(sideways, turned[:, 0] - turned[:, 2]) / (2 * math.pi), -0.2, 0.2)


def counts(values: Tensor, low: int, high: int) -> None:
    """Assert that every integer in the range occurs about equally often."""
    share = torch.bincount(values - low, minlength=high - low + 1) / len(values)
    assert len(share) == high - low + 1
    assert float((share * len(share) - 1).abs().max()) < 0.25


def test_positions_are_uniform() -> None:
    torch.manual_seed(0)
    dots = torch.zeros(4_000, 3, 16, 16)
    dots[:, :, 8, 8] = 1
    moved = only(translation=0.25)(dots, 0)[:, 0].flatten(1).argmax(1)
    counts(moved // 16, 4, 12)
    counts(moved % 16, 4, 12)
    holes = only(cutout=0.0625)(torch.ones(4_000, 3, 16, 16), 0)[:, 0].flatten(1).argmin(1)
    counts(holes // 16, 0, 15)
    counts(holes % 16, 0, 15)


def test_probability_follows_its_schedule() -> None:
    augmentation = Augmentation(Linear(0.0, 1.0, over_images=100))
    images = random_images(16)
    assert torch.equal(augmentation(images, 0), images)
    assert not torch.equal(augmentation(images, 50), images)
    assert augmentation.update(torch.zeros(1), torch.zeros(1), 50)["augmentation_probability"] == 0.5


def test_adaptive_probability_rises_while_the_discriminator_separates_the_images_and_falls_otherwise() -> None:
    ada = AdaptiveAugmentation(target=0.6, speed_images=1_000, memory_images=10, maximum=0.5)
    separated, mixed = (torch.ones(50), -torch.ones(50)), (torch.randn(50), torch.randn(50))
    assert float(ada.update(*separated, 0)["augmentation_probability"]) == pytest.approx(0.05)
    for _ in range(20):
        logged = ada.update(*separated, 0)
    assert float(logged["augmentation_probability"]) == 0.5  # the maximum
    assert float(logged["overfitting"]) == pytest.approx(1)
    for _ in range(8):
        ada.update(*mixed, 0)
    assert float(ada.probability) == pytest.approx(0.5 - 8 * 0.05, abs=0.051)  # the first sign may be an old one
    assert ada.probability_at(0) is ada.probability


def test_overfitting_is_the_mean_sign_where_the_zero_lies_between_the_means() -> None:
    """Adding a constant to all logits changes nothing, as in a relativistic loss."""
    real, fake = torch.tensor([-1.0, 0.5, 3.0, 2.0]), torch.tensor([-2.0, -0.5, -1.0, -1.0])
    for moved in (0.0, 100.0):
        ada = AdaptiveAugmentation(memory_images=1)
        logged = ada.update(real + moved, fake + moved, 0)
        assert float(logged["overfitting"]) == pytest.approx(0.5 * (1 - 0.5**4))


def test_constant_logits_are_no_overfitting() -> None:
    ada = AdaptiveAugmentation()
    assert float(ada.update(torch.zeros(8), torch.zeros(8), 0)["overfitting"]) == 0


def test_adaptive_state_is_in_the_checkpoint() -> None:
    ada, other = (AdaptiveAugmentation(speed_images=100, memory_images=8) for _ in range(2))
    ada.update(torch.ones(16), -torch.ones(16), 0)
    other.load_state_dict(ada.state_dict())
    assert float(other.probability) == float(ada.probability) > 0
    assert torch.equal(other.overfitting, ada.overfitting)


class Seen(torch.nn.Module):
    """A discriminator that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach())
        return self.weight * images.mean(dim=(1, 2, 3))


def test_gan_shows_its_discriminator_augmented_images_only() -> None:
    """Real and generated images, in both steps; each step transforms the real ones anew."""
    gray = only(saturation=0.0, brightness=0.5)
    discriminator = Seen()
    gan = tiny_gan(SteppedGAN, augmentation=gray, discriminator=discriminator)
    real = torch.zeros(4, 3, 32, 32)
    logged = gan.training_step(real, 0)
    reals = [discriminator.shown[0], discriminator.shown[2]]
    assert len(discriminator.shown) == 4
    assert all(len(shown.flatten(1).unique(dim=0)) == 4 and not shown.eq(0).any() for shown in reals)
    assert not torch.equal(*reals)
    assert logged["augmentation_probability"] == 1


def test_gradients_reach_the_generator_through_the_transforms() -> None:
    gan = tiny_gan(SteppedGAN, augmentation=ALL)
    before = snapshot(gan.generator)
    gan.training_step(torch.rand(4, 3, 32, 32), 0)
    assert not identical(gan.generator, before)


def test_training_batches_are_augmented_and_no_others() -> None:
    batches: list[Tensor] = []

    def keep(images: Tensor, images_seen: int) -> Tensor:
        batches.append(images)
        return images + 100

    seen: list[Tensor] = []
    model = tiny_vae()
    step = model.training_step
    model.training_step = lambda images, batch_idx: (seen.append(images), step(images - 100, batch_idx))[1]  # type: ignore
    data = tiny_data(8, augmentation=keep)
    train(model, data, 8)
    assert len(batches) == len(seen) == 2
    assert all(torch.equal(batch + 100, shown) for batch, shown in zip(batches, seen, strict=True))
    assert all(batch.dtype == torch.uint8 for batch in data.share("train", 8))


def batches_of(start: int, max_images: int) -> list[Tensor]:
    """Return the batches of a run whose model has seen `start` images."""
    seen: list[Tensor] = []
    model = tiny_vae()
    model.images_seen = start
    step: Callable[..., Any] = model.training_step
    model.training_step = lambda images, batch_idx: (seen.append(images.clone()), step(images, batch_idx))[1]  # type: ignore
    torch.manual_seed(start)  # the global seed must not matter
    train(model, tiny_data(8, val_fraction=0.0, augmentation=ALL), max_images)
    return seen


def test_a_resumed_run_sees_the_same_transforms() -> None:
    whole, rest = batches_of(0, 16), batches_of(8, 16)
    assert len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not torch.equal(whole[0], whole[2])


def observed(transform: Callable[[Tensor], Tensor], states: Tensor) -> np.ndarray:
    """Return the transition matrix (S, S') of a transform on a finite set of images (S, 3, H, W)."""
    outcomes = [transform(state.expand(4_000, -1, -1, -1)).flatten(1) for state in states]
    every, index = torch.cat(outcomes).unique(dim=0, return_inverse=True)
    shares = [torch.bincount(part, minlength=len(every)) / len(part) for part in index.split(4_000)]
    return torch.stack(shares).double().numpy()


@pytest.mark.parametrize("options", [{"horizontal_flip": True}, {"translation": 0.25}, {"cutout": 0.5},
                                     {"horizontal_flip": True, "translation": 0.25, "cutout": 0.5}])  # fmt: skip
def test_transforms_can_be_undone_below_a_probability_of_one_half(options: dict[str, Any]) -> None:
    """On a finite set of images a transform that is applied with probability p is (1 - p) I + p K on distributions, K
    a Markov matrix, whose eigenvalues are at most 1 in size: those of the mixture are at least 1 - 2 p. So below one
    half two distributions that look alike after the transforms were alike before them, and a generator that fits what
    the discriminator sees shows nothing of them (Karras et al., 2020, appendix C)."""
    torch.manual_seed(0)
    side, p = 4, 0.2
    dots = torch.zeros(side * side, 3, side, side)
    dots.view(side * side, 3, -1)[torch.arange(side * side), :, torch.arange(side * side)] = 1
    matrix = observed(lambda images: only(**options).transform(images, p), dots)
    applied = len(options) + ("translation" in options)  # along each axis
    assert np.linalg.svd(matrix)[1].min() > (1 - 2 * p) ** applied - 0.02


def test_flip_of_probability_one_cannot_be_undone() -> None:
    torch.manual_seed(0)
    dots = torch.eye(4).view(4, 1, 1, 4).expand(-1, 3, 4, -1)
    smallest = [
        np.linalg.svd(observed(lambda images, p=p: only(horizontal_flip=True).transform(images, p), dots))[1].min()  # type: ignore
        for p in (0.5, 0.8, 1.0)
    ]
    assert smallest == pytest.approx([0.5, 0.2, 0.0], abs=0.03)
