from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode

from src.callbacks.periodic import StepSeeds
from src.core.errors import UserError
from src.core.images import from_uint8
from src.core.schedules import Linear
from src.core.seeds import mixed_seed
from src.models.adversarial import auroc
from src.models.ema import update_ema
from src.models.gan import GAN
from src.networks.augmentation import AdaptiveAugmentation
from src.objectives.adversarial import AdversarialLoss, Hinge, RelativisticPairing
from src.objectives.gradient_penalty import GradientPenalty, Interpolated, ZeroCentered
from tests.helpers.tiny import (
    ADAM,
    LATENT_DIM,
    SteppedGAN,
    identical,
    random_images,
    snapshot,
    stepped_gan,
    tiny_data,
    tiny_gan,
    train,
)

REAL = from_uint8(random_images(4))


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()]


def test_discriminator_step_leaves_generator_unchanged() -> None:
    gan = stepped_gan()
    generator, average = snapshot(gan.generator), snapshot(gan.generator_ema)
    discriminator = snapshot(gan.discriminator)
    gan.train_discriminator(gan.both[1], REAL, gan.generate(REAL), step=0)
    assert identical(gan.generator, generator)
    assert identical(gan.generator_ema, average)
    assert not identical(gan.discriminator, discriminator)
    assert gradients(gan.generator) == [None] * len(generator)


def test_generator_step_leaves_discriminator_unchanged() -> None:
    gan = stepped_gan()
    gan.train_discriminator(gan.both[1], REAL, gan.generate(REAL), step=0)
    generator, discriminator = snapshot(gan.generator), snapshot(gan.discriminator)
    left_behind = gradients(gan.discriminator)
    gan.take_step(gan.both[0], gan.generator_loss(REAL, gan.generate(REAL)).mean())
    assert identical(gan.discriminator, discriminator)
    assert not identical(gan.generator, generator)
    torch.testing.assert_close(gradients(gan.discriminator), left_behind, rtol=0, atol=0)
    assert all(weight.requires_grad for weight in gan.discriminator.parameters())


def test_stale_gradients_change_nothing() -> None:
    clean, stale = stepped_gan(), stepped_gan()
    for weight in (*stale.generator.parameters(), *stale.discriminator.parameters()):
        weight.grad = torch.full_like(weight, 1e3)
    for gan in (clean, stale):
        torch.manual_seed(0)
        gan.training_step(REAL, 0)
    assert identical(stale, snapshot(clean))


def test_step_leaves_the_batch_unchanged() -> None:
    real = REAL.clone()
    stepped_gan().training_step(real, 0)
    assert torch.equal(real, REAL)
    assert not real.requires_grad


def step_by_hand(generator: nn.Module, discriminator: nn.Module, adams: list[torch.optim.Adam], real: Tensor) -> None:
    """Relativistic pairing with R1 and R2, gamma = 1, in plain PyTorch."""
    generated = generator(torch.randn(len(real), LATENT_DIM))
    both = [real.clone().requires_grad_(), generated.detach().requires_grad_()]
    logits = [discriminator(images) for images in both]
    slopes = [torch.autograd.grad(y.sum(), x, create_graph=True)[0] for x, y in zip(both, logits, strict=True)]
    penalty = sum(slope.pow(2).flatten(1).sum(1) for slope in slopes) / 2
    adams[1].zero_grad()
    ((1 + (logits[1] - logits[0]).exp()).log() + penalty).mean().backward()
    adams[1].step()

    fake_logits = discriminator(generated)
    adams[0].zero_grad()
    (1 + (discriminator(real) - fake_logits).exp()).log().mean().backward()
    adams[0].step()


def test_training_matches_plain_pytorch() -> None:
    gan, twin, data = tiny_gan(), tiny_gan(), tiny_data(batch_size=4)
    train(gan, data, max_images=12, callbacks=[StepSeeds(7)])
    adams = [ADAM(twin.generator.parameters()), ADAM(twin.discriminator.parameters())]
    data.trainer = None
    for step, real in zip(range(3), data.train_dataloader(), strict=False):
        torch.manual_seed(mixed_seed(7, 0, 4 * step))
        step_by_hand(twin.generator, twin.discriminator, adams, from_uint8(real))
    for part, by_hand in ((gan.generator, twin.generator), (gan.discriminator, twin.discriminator)):
        difference = parameters_to_vector(part.parameters()) - parameters_to_vector(by_hand.parameters())
        assert difference.abs().max() < 1e-6


class Changes(Callback):
    """Records which networks each step changes."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, model: GAN, *args: Any) -> None:  # type: ignore[override]
        self.before = [snapshot(part) for part in (model.discriminator, model.generator, model.generator_ema)]

    def on_train_batch_end(self, trainer: Trainer, model: GAN, *args: Any) -> None:  # type: ignore[override]
        parts = (model.discriminator, model.generator, model.generator_ema)
        discriminator, generator, average = (
            not identical(part, before) for part, before in zip(parts, self.before, strict=True)
        )
        self.seen.append((discriminator, generator, average))


def test_three_discriminator_updates_to_one_of_the_generator() -> None:
    changes = Changes()
    train(tiny_gan(discriminator_steps=3), tiny_data(batch_size=4), max_images=36, callbacks=[changes])
    discriminator_only, both = (True, False, False), (True, True, True)
    assert changes.seen == 3 * [discriminator_only, discriminator_only, both]


def test_lazy_penalty_runs_at_its_interval() -> None:
    gan = stepped_gan(gradient_penalty=ZeroCentered(1.0, 0.0, interval=3))
    assert ["r1" in gan.training_step(REAL, 0) for _ in range(7)] == [True, False, False, True, False, False, True]


def test_average_forgets_half_in_a_halflife_for_every_batch_size() -> None:
    for batch_sizes in ([1000], [100] * 10, [1, 599, 400]):
        average, network = nn.Linear(3, 2), nn.Linear(3, 2)
        start, goal = parameters_to_vector(average.parameters()), parameters_to_vector(network.parameters())
        start = start.detach().clone()
        for num_images in batch_sizes:
            update_ema(average, network, num_images, halflife_images=500)
        torch.testing.assert_close(parameters_to_vector(average.parameters()), 0.25 * start + 0.75 * goal)


def test_average_copies_buffers() -> None:
    average, network = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    network(torch.randn(2, 3, 4, 4))
    update_ema(average, network, 1, halflife_images=500)
    for name, buffer in network.named_buffers():
        assert torch.equal(average.get_buffer(name), buffer)


def generator_weights(gan: GAN) -> Tensor:
    return parameters_to_vector(gan.generator.parameters()).detach().clone()


def test_average_at_a_constant_rate_is_its_closed_form() -> None:
    gan = stepped_gan(ema_halflife_images=10.0, ema_rampup=1e9)
    weights = [generator_weights(gan)]
    for _ in range(6):
        gan.training_step(REAL, 0)
        weights.append(generator_weights(gan))
    decay = 0.5 ** (4 / 10)
    expected = decay**6 * weights[0] + sum((1 - decay) * decay ** (6 - t) * weights[t] for t in range(1, 7))
    assert all(not torch.equal(before, after) for before, after in pairwise(weights))
    torch.testing.assert_close(parameters_to_vector(gan.generator_ema.parameters()), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("discriminator_steps", [1, 3])
def test_halflife_ramps_up_with_the_images_seen(discriminator_steps: int) -> None:
    """The average starts at zero, the generator is constant; the half-life is half the images seen, at most 20."""
    still = {"generator_optimizer": lambda weights: torch.optim.SGD(weights, lr=0.0)}
    gan = stepped_gan(ema_halflife_images=20.0, ema_rampup=0.5, discriminator_steps=discriminator_steps, **still)
    for weight in gan.generator_ema.parameters():
        weight.zero_()
    halflives_passed = 0.0
    for images_seen in range(4, 77, 4):
        gan.training_step(REAL, 0)
        if images_seen % (4 * discriminator_steps) == 0:
            halflives_passed += 4 * discriminator_steps / min(20, 0.5 * images_seen)
    expected = (1 - 0.5**halflives_passed) * generator_weights(gan)
    torch.testing.assert_close(parameters_to_vector(gan.generator_ema.parameters()), expected)


def test_halflife_of_zero_is_no_average() -> None:
    gan = stepped_gan(ema_halflife_images=0.0)
    gan.training_step(REAL, 0)
    assert identical(gan.generator_ema, snapshot(gan.generator))


def test_samples_come_from_the_average() -> None:
    gan = stepped_gan()
    gan.training_step(REAL, 0)
    for weight in gan.generator.parameters():
        nn.init.zeros_(weight)
    latents = torch.randn(2, LATENT_DIM)
    assert torch.equal(gan.decode(latents), gan.generator_ema(latents))
    assert gan.sample(2).abs().max() > 0


def test_schedules_set_both_optimizers_before_the_step() -> None:
    gan = stepped_gan(
        learning_rate_factor=Linear(1.0, 0.0, over_images=16),
        beta2=Linear(0.9, 0.99, over_images=8),
        gradient_penalty=ZeroCentered(Linear(4.0, 0.0, over_images=8), 1.0),
    )
    logged = [gan.training_step(REAL, 0) for _ in range(5)]
    assert [step["generator_learning_rate"] for step in logged] == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3, 0])
    assert [step["discriminator_learning_rate"] for step in logged] == [s["generator_learning_rate"] for s in logged]
    assert [step["beta2"] for step in logged] == pytest.approx([0.9, 0.945, 0.99, 0.99, 0.99])
    assert [step["r1_gamma"] for step in logged] == pytest.approx([4, 2, 0, 0, 0])
    assert [gan.gradient_penalty.weights["r1"], "r1" in logged[1], "r1" in logged[2]] == [0, True, False]
    assert all(optimizer.param_groups[0]["betas"] == (0.0, 0.99) for optimizer in gan.both)


def test_schedules_depend_only_on_the_images_seen() -> None:
    """The learning rate at a number of images does not depend on earlier steps."""
    gan = stepped_gan(learning_rate_factor=Linear(1.0, 0.0, over_images=100))
    for images_seen in (40, 10, 75):
        gan.images_seen = images_seen
        gan.apply_schedules()
        assert gan.both[0].param_groups[0]["lr"] == pytest.approx(2e-3 * (1 - images_seen / 100))


def test_schedules_go_on_after_a_checkpoint() -> None:
    before, after = (stepped_gan(learning_rate_factor=Linear(1.0, 0.0, over_images=40)) for _ in range(2))
    for _ in range(3):
        before.training_step(REAL, 0)
    for restored, optimizer in zip(after.both, before.both, strict=True):
        restored.load_state_dict(optimizer.state_dict())
    after.images_seen = before.images_seen
    for gan in (before, after):
        gan.apply_schedules()
        assert gan.both[0].param_groups[0]["lr"] == pytest.approx(2e-3 * (1 - 12 / 40))


def test_beta2_for_an_optimizer_without_one_is_a_user_error() -> None:
    sgd: dict[str, Any] = {"generator_optimizer": partial(torch.optim.SGD, lr=0.1)}
    with pytest.raises(UserError, match=r"model\.beta2: SGD has no beta2"):
        tiny_gan(beta2=0.9, **sgd).configure_optimizers()


class NoWaiting(TorchDispatchMode):
    """Fails on operations that read a tensor's value on the host and so wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits for the device"
        assert func is not torch.ops.aten.nonzero.default, "the host waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", [RelativisticPairing(), Hinge()])
def test_step_never_waits_for_the_device(loss: AdversarialLoss) -> None:
    def sgd(weights: Any) -> torch.optim.Optimizer:  # Adam reads its step counters, which lie on the host
        return torch.optim.SGD(weights, lr=0.01)

    parts = {"generator_optimizer": sgd, "discriminator_optimizer": sgd, "augmentation": AdaptiveAugmentation()}
    gan = stepped_gan(adversarial_loss=loss, **parts)
    with NoWaiting():
        gan.training_step(REAL, 0)


def test_generator_step_evaluates_real_images_only_for_relativistic_losses() -> None:
    for loss, num_batches in ((RelativisticPairing(), 4), (Hinge(), 3)):
        gan = stepped_gan(adversarial_loss=loss, gradient_penalty=ZeroCentered(0.0, 0.0))
        batches: list[Any] = []
        gan.discriminator.register_forward_pre_hook(lambda module, inputs, seen=batches: seen.append(inputs))
        gan.training_step(REAL, 0)
        assert len(batches) == num_batches


def test_scalars_of_a_step_match_their_names() -> None:
    gan = stepped_gan(ema_halflife_images=8.0)
    scalars = gan.training_step(REAL, 0)
    for name in ("generator", "discriminator"):
        gradient = torch.cat([weight.grad.flatten() for weight in getattr(gan, name).parameters()])
        torch.testing.assert_close(scalars[f"{name}_gradient_norm"], gradient.norm())
    average, weights = parameters_to_vector(gan.generator_ema.parameters()), generator_weights(gan)
    torch.testing.assert_close(scalars["ema_distance"], (average - weights).norm() / weights.norm())
    assert {"r1", "r2", "real_logits", "fake_logits", "discriminator_loss", "generator_loss"} <= scalars.keys()


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    assert auroc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])) == 0.75
    assert auroc(torch.tensor([9.0, 8.0]), torch.tensor([7.0, 6.0])) == 1
    assert auroc(torch.zeros(3), torch.zeros(3)) == 0


def bf16(gan: SteppedGAN, images: Tensor) -> dict[str, Any]:
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        return gan.training_step(images, 0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("penalty", [ZeroCentered(1.0, 1.0), Interpolated(10.0)])
def test_penalized_step_of_the_discriminator_is_exact_in_mixed_precision(
    penalty: GradientPenalty, channels_last: bool
) -> None:
    """Penalties and the discriminator's gradient on the same images match float32 to 1e-5."""
    exact, mixed = (stepped_gan(gradient_penalty=penalty, channels_last=channels_last) for _ in range(2))
    fake = exact.generate(REAL).detach()
    scalars = []
    for gan, enabled in ((exact, False), (mixed, True)):
        gan.generate = lambda real: fake.clone()  # type: ignore[method-assign]
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scalars.append(gan.train_discriminator(gan.both[1], REAL, gan.generate(REAL), step=0))
    torch.testing.assert_close(scalars[1], scalars[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients(mixed.discriminator), gradients(exact.discriminator), rtol=1e-5, atol=1e-6)


def test_mixed_precision_stays_near_float32() -> None:
    """Over ten steps penalties match to 5%, the averaged generator to 5% of its distance from the start."""
    optimizer = partial(torch.optim.SGD, lr=0.1)  # Adam makes small gradients large, and so their rounding
    parts = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer, "ema_halflife_images": 8.0}
    exact, mixed = stepped_gan(**parts), stepped_gan(**parts)
    start = generator_weights(exact)
    for _ in range(10):
        torch.manual_seed(1)
        in_float32 = exact.training_step(REAL, 0)
        in_bf16 = bf16(mixed, REAL)
        torch.testing.assert_close(in_bf16["r1"], in_float32["r1"], rtol=0.05, atol=1e-4)
        torch.testing.assert_close(in_bf16["r2"], in_float32["r2"], rtol=0.05, atol=1e-4)
    averages = [parameters_to_vector(gan.generator_ema.parameters()) for gan in (exact, mixed)]
    assert all(weight.dtype == torch.float32 for weight in mixed.parameters())
    assert (averages[1] - averages[0]).norm() < 0.05 * (averages[0] - start).norm()


def test_memory_layout_changes_only_speed() -> None:
    plain, other = stepped_gan(), stepped_gan(channels_last=True)
    for gan in (plain, other):
        torch.manual_seed(1)
        gan.training_step(REAL, 0)
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in other.parameters() if weight.ndim == 4
    )
    for weight, same in zip(other.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, same, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_train_like_plain_ones() -> None:
    """The names of the weights stay, and the penalty, which can't be compiled, is computed without compilation."""
    plain, compiled = stepped_gan(), stepped_gan(compile_networks=True)
    compiled.on_fit_start()
    for gan in (plain, compiled):
        gan.gradient_penalty = ZeroCentered(1.0, 1.0, interval=2)
        for step in range(3):
            torch.manual_seed(step)
            gan.training_step(REAL, 0)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    difference = parameters_to_vector(compiled.parameters()) - parameters_to_vector(plain.parameters())
    assert difference.abs().max() < 1e-4
