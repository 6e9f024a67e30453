"""A run from its config to its summary: errors in the words of whoever raised them, no empty table."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException

from src.config.validation import instantiate
from src.core.errors import UserError
from src.training.fit import fit
from src.training.summary import print_summary
from tests.helpers.commands import config_of


def raise_user_error() -> None:
    raise UserError("no network: give metrics.weights_path=PATH")


def test_user_error_of_a_constructor_comes_through_as_it_is() -> None:
    with pytest.raises(UserError, match=r"^no network: give metrics.weights_path=PATH$"):
        instantiate({"inner": {"_target_": "tests.training.test_fit.raise_user_error"}})
    with pytest.raises(InstantiationException, match="unexpected keyword argument"):
        instantiate({"_target_": "tests.training.test_fit.raise_user_error", "option": 1})


@pytest.mark.parametrize("name", ["checkpoints", "training_scalars"])
def test_a_run_needs_its_checkpoints_and_scalars(name: str, tmp_path: Path) -> None:
    config = config_of("data.image_size=32", "data.num_images=8", f"run_dir={tmp_path}")
    config["callbacks"][name] = None
    with pytest.raises(UserError, match=rf"^callbacks.{name}=null: every run needs it; leave this option out$"):
        fit(config)


@pytest.mark.parametrize(
    ("final", "shown"),
    [
        ({"train/generator_loss": 1.0, "kl_nats_of_dimension/000": 2.0}, False),
        ({"train/generator_loss": 1.0, "fd_lite0": 2.0}, True),
    ],
)
def test_summary_shows_a_table_only_of_what_there_is(
    final: dict[str, float], shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary: dict[str, Any] = {"images_seen": 64_000, "wall_time_seconds": 7.0, "final": final, "best": {}}
    print_summary(summary, tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("64,000 images in 7 s\n")
    assert printed.endswith("summary.json\n")
    assert ("metric" in printed, "fd_lite0" in printed, "generator_loss" in printed) == (shown, shown, False)
