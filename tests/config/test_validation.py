"""Configs against the constructors that they name, read from the source."""

from typing import Any

import pytest

from src.config.signatures import signature_of
from src.config.validation import check, nearest_first
from src.core.errors import UserError

VAE = {"_target_": "src.models.vae.VAE", "_partial_": True}


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as refused:
        check(config)
    return str(refused.value)


def test_values_take_the_type_of_the_annotation() -> None:
    checked = check(VAE | {"latent_dim": 64.0, "beta": 4, "free_bits": 1})
    assert [type(checked[key]) for key in ("latent_dim", "beta", "free_bits")] == [int, float, float]


@pytest.mark.parametrize("value", [True, "3", None, float("nan"), float("inf"), 0, -1, 1.5, [3], {"a": 3}])
def test_positive_whole_number_is_nothing_else(value: object) -> None:
    assert "whole number of at least 1" in refusal(VAE | {"latent_dim": value})


def test_options_of_a_base_class_are_known_through_its_heirs() -> None:
    signature = signature_of("src.data.datamodule.DrawnCatsDataModule")
    assert signature is not None
    assert {"num_images", "drawing_seed", "image_size", "batch_size"} <= signature.parameters.keys()
    assert not signature.takes_others


def test_source_of_an_heir_is_no_option() -> None:
    data = {"_target_": "src.data.datamodule.DrawnCatsDataModule", "num_images": 3, "drawing_seed": 0, "root": "."}
    assert refusal(data).startswith("root: src.data.datamodule.DrawnCatsDataModule has no such option; it has ")


def test_what_is_missing_is_named() -> None:
    assert "also wants drawing_seed" in refusal(
        {"_target_": "src.data.datamodule.DrawnCatsDataModule", "num_images": 3}
    )


def test_partial_may_leave_out_what_the_caller_gives() -> None:
    optimizer = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}
    assert check(optimizer) == optimizer


def test_mistakes_deep_inside_are_named_by_their_path() -> None:
    trainer = {"_target_": "lightning.Trainer", "precision": "32"}
    assert refusal({"outer": [{"trainer": trainer}]}).startswith("outer[0].trainer.precision=32: not allowed here; ")


def test_class_without_source_is_left_to_itself() -> None:
    config = {"_target_": "torch.nn.no_such_module.Thing", "anything": 1}
    assert check(config) == config


@pytest.mark.parametrize("target", ["src.models.vea.VAE", "src.models.vae.VEA", "VAE", 3])
def test_class_that_this_project_lacks_is_refused(target: object) -> None:
    assert refusal({"model": {"_target_": target}}).startswith(f"model._target_={target}: there is no such class; ")


def test_checking_imports_nothing() -> None:
    config = {"_target_": "antigravity.Anything", "anything": 1}
    assert check(config) == config


def test_nearest_comes_first() -> None:
    assert nearest_first("vea", ["gan", "autoencoder", "vae"])[0] == "vae"
    assert nearest_first("GAN", ["vae", "gan"])[0] == "gan"
