"""Fine-tuning: a new run that starts with the networks of another one, and frozen layers of a discriminator."""

from pathlib import Path

import pytest
import torch

from src.api import Run, train
from src.core.errors import UserError
from src.models.checkpoint.loading import initialize_from
from tests.helpers.commands import tiny
from tests.helpers.tiny import snapshot, stepped_gan, tiny_autoencoder, tiny_gan

SMALL = ["metrics=none", "callbacks.image_grids=null"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(*tiny("vae", *SMALL, f"run_dir={tmp_path_factory.mktemp('init') / 'vae'}"))


def run_from(origin: Run, folder: Path, model: str, *overrides: str) -> Run:
    return train(*tiny(model, *SMALL, f"init_from={origin.folder}", f"run_dir={folder}", "max_images=16", *overrides))


def test_new_run_starts_with_the_networks_of_the_other(
    vae: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_from(vae, tmp_path, "vae", "model.optimizer.lr=1e-12", "data.drawing_seed=5")
    assert f"init_from={vae.folder}: weights of decoder, encoder, head, likelihood\n" in capsys.readouterr().out
    assert run.model.images_seen == 16
    for name, value in vae.model.state_dict().items():
        if name.startswith(("encoder", "decoder", "head")):
            torch.testing.assert_close(run.model.state_dict()[name], value, atol=1e-9, rtol=0)


def test_parts_that_the_other_run_lacks_start_anew(
    vae: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["model/networks=conv_vae", "model.encoder.max_width=16"]
    run = run_from(vae, tmp_path, "vae_gan", *networks, "model.optimizer.lr=1e-12")
    assert "weights of decoder, decoder_ema, encoder, head, likelihood; discriminator start anew" in (
        capsys.readouterr().out
    )
    # The average begins with the network's weights, and needs no short memory to forget a random start.
    weights = run.model.state_dict()
    for name in filter(lambda name: name.startswith("decoder_ema."), weights):
        torch.testing.assert_close(weights[name], vae.model.state_dict()[name.replace("_ema", "")], atol=1e-6, rtol=0)
    assert run.config["model"]["ema_rampup"] is None


def test_fitted_mixture_is_not_taken_over(vae: Run) -> None:
    model = train(*tiny("vae", *SMALL, "max_images=16", f"run_dir={vae.folder}-other")).loaded.model
    before = int(model.mixture.fitted_at)  # type: ignore[union-attr]
    assert before == 16
    initialize_from(model, vae.folder)
    assert int(model.mixture.fitted_at) == before  # type: ignore[union-attr]


def test_other_networks_are_refused_by_the_first_tensor_that_does_not_fit(vae: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'decoder\.0\.bias' is \[256\] of float, but should be \[512\] of float"):
        run_from(vae, tmp_path / "wide", "vae", "model.encoder.max_width=32")
    with pytest.raises(UserError, match="no part of it is one of this model, which has discriminator, generator"):
        run_from(vae, tmp_path / "gan", "gan")
    with pytest.raises(UserError, match=r"is absent, but should be|but should be absent|but should be \["):
        initialize_from(tiny_autoencoder(), vae.folder)


def test_init_from_holds_only_where_there_is_no_checkpoint_yet(
    vae: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="init_from starts a new run, resume continues one"):
        run_from(vae, tmp_path, "vae", f"resume={vae.folder}")
    run_from(vae, tmp_path / "run", "vae", "resume=last")
    assert "weights of decoder" in capsys.readouterr().out
    longer = run_from(vae, tmp_path / "run", "vae", "resume=last", "max_images=32")
    assert longer.model.images_seen == 32
    assert "weights of decoder" not in capsys.readouterr().out


def test_average_forgets_the_file_by_its_half_life_alone_and_so_does_a_resumed_run(tmp_path: Path) -> None:
    origin = train(*tiny("gan", *SMALL, f"run_dir={tmp_path / 'gan'}"))
    options = ["resume=last", "model.ema_halflife_images=1e9"]
    for images in (16, 32):
        run = run_from(origin, tmp_path / "run", "gan", *options, f"max_images={images}")
        averages = {name: tensor for name, tensor in run.loaded.model.state_dict().items() if "_ema." in name}
        assert run.loaded.model.images_seen == images
        assert averages
        for name, average in averages.items():
            torch.testing.assert_close(average, origin.loaded.model.state_dict()[name], atol=1e-6, rtol=1e-6)
    typed = run_from(origin, tmp_path / "typed", "gan", "model.ema_rampup=0.5")
    assert typed.config["model"]["ema_rampup"] == 0.5


def test_a_discriminator_with_all_layers_frozen_is_refused() -> None:
    with pytest.raises(UserError, match=r"freeze_discriminator_layers=9 freezes all \d+; give fewer"):
        tiny_gan(freeze_discriminator_layers=9)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_frozen_layers_of_the_discriminator_never_change(layers: int) -> None:
    gan = stepped_gan(freeze_discriminator_layers=layers)
    gan.train()
    before = snapshot(gan.discriminator)
    for step in range(3):
        gan.training_step(torch.rand(4, 3, 32, 32) * 2 - 1, step)
    changed = {name.partition(".")[0] for name, value in gan.discriminator.state_dict().items()
               if not torch.equal(value, before[name])}  # fmt: skip
    with_weights = list(dict.fromkeys(name.partition(".")[0] for name in before))
    assert changed == set(with_weights[layers:])
