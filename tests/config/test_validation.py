"""Configs against the constructors that they name, read from the source."""

from pathlib import Path
from typing import Any

import pytest

from src.config.signatures import signature_of
from src.config.validation import check, check_value, instantiate, listed
from src.core.errors import UserError
from src.core.types import NonNegativeFloat, Number, PositiveInt, WholeNumber

VAE = {"_target_": "src.models.vae.VAE", "_partial_": True}

AUTOENCODING = {"encoder", "decoder", "likelihood", "optimizer", "latent_dim"}
ADVERSARIAL = {"discriminator", "adversarial_loss", "gradient_penalty", "discriminator_optimizer"}


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


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("src.models.vae.VAE", AUTOENCODING),
        ("src.models.gan.GAN", ADVERSARIAL | {"generator", "generator_optimizer", "latent_dim"}),
        ("src.models.vae_gan.VAEGAN", AUTOENCODING | ADVERSARIAL),
    ],
)
def test_what_is_missing_for_the_base_classes_is_named_too(target: str, wanted: set[str]) -> None:
    start, _, names = refusal({"_target_": target}).rstrip(".").partition(" also wants ")
    assert start == f": {target}"
    assert set(names.split(", ")) == wanted


def test_argument_that_an_heir_gives_its_base_class_is_no_option() -> None:
    ada = {"_target_": "src.networks.augmentation.AdaptiveAugmentation", "probability": 0.5}
    assert refusal(ada).startswith("probability: src.networks.augmentation.AdaptiveAugmentation has no such option; ")


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
    assert listed("vea", ["gan", "autoencoder", "vae"]).startswith("vae, ")
    assert listed("GAN", ["vae", "gan"]).startswith("gan, ")


def test_numbers_among_choices_are_in_order() -> None:
    assert listed("63", ["256", "64", "128", "32"]) == "32, 64, 128, 256"


def test_whole_numbers_may_be_written_as_floats() -> None:
    for value in (2e5, 200_000.0, 200_000):
        assert repr(check_value("max_images", value, PositiveInt)) == "200000"
    assert repr(check_value("limit", 1.0, WholeNumber | Number)) == "1.0"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1"])
def test_number_is_finite_and_no_truth_value(value: object) -> None:
    with pytest.raises(UserError, match="give a number of at least 0"):
        check_value("beta", value, NonNegativeFloat)


SCHEMAS = """
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Optional
from lightning.fabric.connector import _PRECISION_INPUT_STR
from .sizes import Corner, Size
Curve = Callable[[int], float]

@dataclass
class Box:
    size: Size
    corners: list[Corner] = field(default_factory=list)

@dataclass(frozen=True)
class Named(Box):
    name: "str | None" = None

class Model:
    def __init__(self, curve: float | Curve, precision: Optional[_PRECISION_INPUT_STR] = None,
                 widths: tuple[int, int] = (1, 2), odd: Literal[Size.small] = None) -> None: ...
"""


@pytest.fixture
def schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").touch()
    (tmp_path / "schemas" / "sizes.py").write_text('Corner = float\nSize = "Literal[1, 2]"\n')
    (tmp_path / "schemas" / "shapes.py").write_text(SCHEMAS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("schemas")
def test_fields_of_a_dataclass_are_its_options() -> None:
    named = {"_target_": "schemas.shapes.Named", "size": 2}
    assert check(named | {"corners": [1, 2]}) == named | {"corners": [1.0, 2.0]}
    assert refusal(named | {"nme": "a"}) == "nme: schemas.shapes.Named has no such option; it has name, corners, size."
    assert refusal(named | {"name": 3}) == "name=3: not allowed here; give text or null."
    assert refusal({"_target_": "schemas.shapes.Box"}) == ": schemas.shapes.Box also wants size."


@pytest.mark.usefixtures("schemas")
def test_aliases_are_followed_into_their_modules() -> None:
    assert refusal({"_target_": "schemas.shapes.Box", "size": 3}) == "size=3: not allowed here; give one of 1, 2."
    model = {"_target_": "schemas.shapes.Model", "curve": {"_target_": "schemas.shapes.Curve"}}
    assert check(model) == model
    assert check(model | {"precision": "bf16-mixed", "curve": 2, "widths": [3.0, 4]})["widths"] == [3, 4]
    assert refusal(model | {"precision": "bf17-mixed"}).startswith(
        "precision=bf17-mixed: not allowed here; give one of bf16-mixed, "
    )
    assert check(model | {"odd": "anything"})["odd"] == "anything"
    assert refusal(model | {"widths": [3]}) == "widths=[3]: not allowed here; give a list of 2 values."


def test_alias_for_an_object_takes_objects_only() -> None:
    assert refusal({"_target_": "src.models.gan.GAN", "beta2": "high"}) == (
        "beta2=high: not allowed here; give a number of at least 0 and below 1 or null."
    )


@pytest.mark.parametrize("value", [{}, {"start": 1.0}, []])
def test_what_makes_no_object_is_none(value: Any) -> None:
    assert "not allowed here; give a number" in refusal({"_target_": "src.models.gan.GAN", "beta2": value})


def test_error_of_a_constructor_passes_in_its_own_words() -> None:
    with pytest.raises(UserError, match=r"^no network$"):
        instantiate({"_target_": "tests.config.test_validation.Unreachable"})


class Unreachable:
    """A metric whose weights can't be downloaded."""

    def __init__(self) -> None:
        raise UserError("no network")
