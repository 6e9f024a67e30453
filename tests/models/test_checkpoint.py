"""A checkpoint is all that a model needs, and nothing that it holds is run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.evaluation.from_checkpoint import data_config
from src.models.base import GenerativeModel
from src.models.checkpoint import load_model, read_checkpoint
from src.models.vetting import vet
from tests.helpers.commands import config_of, tiny

Checkpoint = dict[str, Any]


class Trap:
    """Pickled, it calls Path(folder / "sprung").touch() on loading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.folder / "sprung",)


@pytest.fixture(scope="module")
def content() -> Checkpoint:
    """What a run saves of a VAE, less what only training needs."""
    config = config_of(*tiny("vae"))
    model = build_vae(config)
    return {"config": config, "state_dict": model.state_dict(), "images_seen": 256}


def build_vae(config: dict[str, Any]) -> GenerativeModel:
    from hydra.utils import instantiate

    torch.manual_seed(0)
    model: GenerativeModel = instantiate(config["model"], _convert_="all")
    return model.eval()


def refusal(content: Any, folder: Path) -> str:
    """The sentence that a file of this content is refused with; nothing may run on the way."""
    path = folder / "model.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError) as refused:
        load_model(read_checkpoint(path))
    assert not (folder / "sprung").exists()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    return str(refused.value)


def edited(content: Checkpoint, *path: str, to: Any) -> Checkpoint:
    """A copy with one value of the config's model replaced."""
    copied = copy.deepcopy(content)
    node = copied["config"]["model"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = to
    return copied


def test_model_from_the_file_alone_draws_the_same_images(content: Checkpoint, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    loaded, original = load_model(read_checkpoint(tmp_path / "model.ckpt")), build_vae(content["config"])
    assert not loaded.training
    assert loaded.images_seen == 256
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(loaded.sample(4, noise[0]), original.sample(4, noise[1]))


def test_pickled_call_is_not_run(content: Checkpoint, tmp_path: Path) -> None:
    assert "no checkpoint" in refusal(content | {"extra": Trap(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "pathlib.Path.touch",
        "hydra.utils.instantiate",
        "src.training.launcher.os.system",
        "src.training.launcher.launch",
        "src.models.gan.copy.deepcopy",
        "src.data.public.AFHQCat",
        "",
        3,
    ],
)
@pytest.mark.parametrize("place", ["encoder", "optimizer"])
def test_config_names_only_what_the_project_documents(
    target: object, place: str, content: Checkpoint, tmp_path: Path
) -> None:
    hostile = edited(content, place, to={"_target_": target, "_args_": [f"touch {tmp_path}/sprung"]})
    assert f"asks for {target}" in refusal(hostile, tmp_path)


def test_hostile_target_of_the_model_itself_is_refused(content: Checkpoint, tmp_path: Path) -> None:
    hostile = edited(content, "_target_", to="os.system")
    assert "asks for os.system" in refusal(hostile, tmp_path)


def test_hostile_target_deep_in_a_list_is_refused(content: Checkpoint, tmp_path: Path) -> None:
    hostile = edited(content, "optimizer", "betas", to=[0.9, {"_target_": "builtins.eval", "_args_": ["1"]}])
    assert "asks for builtins.eval" in refusal(hostile, tmp_path)


def hostile() -> dict[str, Any]:
    return {"_target_": "shutil.copyfile", "src": "/etc/hostname", "dst": "sprung"}


@pytest.mark.parametrize(
    "value",
    [
        (hostile(),),
        [(hostile(),)],
        {"_target_": "torch.optim.Adam", "_partial_": True, "params": (hostile(),)},
        {"_target_": "torch.optim.Adam", "_partial_": True, "_args_": [hostile()]},
        "${oc.create:{_target_:shutil.copyfile}}",
        "${oc.env:HOME}",
        {"_target_": "src.training.launcher.os.system", "command": "touch sprung"},
        {"_target_": "src.models.checkpoint.instantiate", "config": hostile()},
        torch.zeros(2),
    ],
    ids=str,
)
def test_what_is_no_plain_value_is_refused(value: object, content: Checkpoint, tmp_path: Path) -> None:
    assert "refused" in refusal(edited(content, "optimizer", to=value), tmp_path)


def test_model_of_another_kind_is_refused(content: Checkpoint, tmp_path: Path) -> None:
    data = copy.deepcopy(content)
    data["config"]["model"] = {"_target_": "src.objectives.adversarial.Hinge"}
    assert "is no GenerativeModel" in refusal(data, tmp_path)


def test_data_of_an_unknown_address_is_refused() -> None:
    known = config_of("data=cat_faces")["data"]
    vet(known, "data")
    with pytest.raises(UserError, match="would download from file:///etc/passwd"):
        vet(known | {"url": "file:///etc/passwd"}, "data")


def test_data_given_for_evaluation_is_used_whole() -> None:
    own = config_of("data.limit_images=100")["data"]
    assert data_config(own, {"root": None}, "train") == own
    elsewhere = data_config(own, {"root": "cats.zip"}, "train")
    assert elsewhere["_target_"].endswith(".FolderDataModule")
    assert (elsewhere["val_fraction"], elsewhere["limit_images"]) == (0, None)
    assert data_config(own, {"root": "cats.zip"}, "val")["val_fraction"] == own["val_fraction"]


def test_a_checkpoint_does_not_say_where_images_are_kept(tmp_path: Path) -> None:
    own = config_of("data.limit_images=100")["data"]
    assert data_config(own | {"cache_dir": str(tmp_path)}, {"root": None}, "train") == own


@pytest.mark.parametrize("width", [10**9, -1, "wide", None])
def test_size_that_is_none_is_refused(width: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(edited(content, "encoder", "width", to=width), tmp_path)


def test_missing_and_unknown_and_wrong_shaped_tensors_are_refused(content: Checkpoint, tmp_path: Path) -> None:
    name, weight = next(iter(content["state_dict"].items()))
    missing = {key: value for key, value in content["state_dict"].items() if key != name}
    for state in (missing, missing | {name: weight[..., :1]}, content["state_dict"] | {"other": weight}, {}):
        assert "weights do not fit" in refusal(content | {"state_dict": state}, tmp_path)


@pytest.mark.parametrize("state", [None, [], "text", {"a": 3}])
def test_state_of_another_kind_is_refused(state: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(content | {"state_dict": state}, tmp_path)


@pytest.mark.parametrize("other", [{}, [], None, {"state_dict": {}}, torch.zeros(3), "text"])
def test_other_content_is_refused(other: object, tmp_path: Path) -> None:
    assert "no checkpoint of this project" in refusal(other, tmp_path)


@pytest.mark.parametrize("config", [None, 3, {}, {"model": None}, {"model": []}, {"model": {"latent_dim": 3}}])
def test_config_of_another_kind_is_refused(config: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(content | {"config": config}, tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(part: float, content: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", [b"hello", b"", b"a: 1\n" * 100, b"PK\x03\x04", bytes(range(256)) * 9])
def test_file_of_another_kind_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(text)
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "model.ckpt")


def test_folder_and_absent_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.ckpt"):
        with pytest.raises(UserError, match="can't read the checkpoint"):
            read_checkpoint(path)
