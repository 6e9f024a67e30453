"""A checkpoint's file gives back exactly what was written, and a model of its config alone; all else is refused."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from src.core.errors import UserError
from src.models.base import GenerativeModel
from src.models.checkpoint.config import local_data_options, portable_config, validate_config
from src.models.checkpoint.format import read_file, to_bytes
from src.models.checkpoint.loading import load_model, read_checkpoint
from src.models.gan import GAN
from src.models.vae import VAE
from tests.helpers.commands import config_of, tiny
from tests.helpers.tiny import assert_same, checkpoint_of

Checkpoint = dict[str, Any]


@pytest.fixture(scope="module")
def content() -> Checkpoint:
    """The content of a VAE's checkpoint, without what only training needs."""
    config = portable_config(config_of(*tiny("vae")))
    return checkpoint_of(build_vae(config), config, images_seen=256)


def build_vae(config: dict[str, Any]) -> GenerativeModel:
    from hydra.utils import instantiate

    torch.manual_seed(0)
    model: GenerativeModel = instantiate(config["model"], _convert_="all")
    return model.eval()


def refusal(content: Any, folder: Path) -> str:
    """The sentence with which a file of this content is refused."""
    path = folder / "model.safetensors"
    path.write_bytes(to_bytes(content))
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


def test_values_come_back_exactly_as_they_were(tmp_path: Path) -> None:
    values = {
        "floats": [0.1 + 0.2, 1e-320, -0.0, math.inf, -math.inf, 1.7976931348623157e308],
        "integers": [2**63, -(2**53) - 1, True, None],
        "tuple": (0.9, (1, [2]), ()),
        "keys": {0: "a", 1: {"b": {}}, "$tensor": "x", None: 3},
        "$float": "no number",
        "text": 'quotes " and \\ and \n and \x00 and 猫 "sha256":"' + "0" * 64,
        "a": {"b": torch.tensor(1)},
        "a.b": torch.tensor(2),
        "types": [torch.zeros(2, dtype=kind) for kind in (torch.bfloat16, torch.float64, torch.int64, torch.bool)],
        "empty": [torch.zeros(0, 3), {}, []],
    }
    (tmp_path / "file").write_bytes(to_bytes(values))
    read = read_file(tmp_path / "file")
    assert_same(read, values)
    assert [type(value) for value in read["floats"] + read["integers"] + [read["tuple"]]] == [
        type(value)
        for value in values["floats"] + values["integers"] + [values["tuple"]]  # type: ignore[operator]
    ]
    assert math.copysign(1, read["floats"][2]) == -1
    assert [tensor.dtype for tensor in read["types"]] == [tensor.dtype for tensor in values["types"]]  # type: ignore[attr-defined]


def test_not_a_number_comes_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(to_bytes({"loss": math.nan}))
    assert math.isnan(read_file(tmp_path / "file")["loss"])


def test_tensors_come_back_in_their_layout_of_memory_and_with_memory_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    values = {"last": whole.contiguous(memory_format=torch.channels_last), "part": whole[:1], "again": whole[:1].mT}
    (tmp_path / "file").write_bytes(to_bytes(values))
    read = read_file(tmp_path / "file")
    assert_same(read, values)
    assert read["last"].stride() == values["last"].stride()
    assert read["part"].data_ptr() != read["again"].data_ptr()


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Path("path"), torch.float32], ids=str)
def test_other_values_are_not_written(value: object) -> None:
    with pytest.raises(TypeError, match=r"state\.0\.x is a .*: a checkpoint holds tensors and plain values only"):
        to_bytes({"state": [{"x": value}]})


def test_file_is_a_safetensors_file_of_tensors_by_path(content: Checkpoint, tmp_path: Path) -> None:
    from safetensors import safe_open

    (tmp_path / "file").write_bytes(to_bytes(content))
    with safe_open(tmp_path / "file", "pt") as file:
        assert set(file.keys()) == {f"state_dict.{name}" for name in content["state_dict"]}
        assert json.loads(file.metadata()["tree"])["config"] == content["config"]


def test_config_of_a_checkpoint_names_no_path_and_no_address() -> None:
    config = config_of("data=cat_faces", "data.root=/home/user/cats", "run_dir=/home/user/runs")
    assert config["data"]["root"]
    kept = portable_config(config)
    assert kept.keys() == {"model", "seed", "data"}
    assert not kept["data"].keys() & {"root", "url", "digest", "cache_dir"}
    assert "/home/user" not in str(kept)
    assert "http" not in str(kept)


def test_model_from_the_file_alone_draws_the_same_images(content: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(to_bytes(content))
    loaded, original = load_model(read_checkpoint(tmp_path / "file")), build_vae(content["config"])
    assert not loaded.training
    assert loaded.images_seen == 256
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(loaded.sample(4, noise[0]), original.sample(4, noise[1]))


@pytest.mark.parametrize("kind", [VAE, GAN])
def test_load_from_checkpoint_says_what_to_call(kind: type[GenerativeModel]) -> None:
    with pytest.raises(UserError, match=r"call src.evaluation.from_checkpoint.load_run\('best.safetensors'\).model"):
        kind.load_from_checkpoint("best.safetensors")


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
        "src.models./tmp/module.Name",
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
        {"_target_": "src.models.checkpoint.loading.instantiate", "config": hostile()},
        torch.zeros(2),
    ],
    ids=str,
)
def test_value_that_is_not_plain_is_refused(value: object, content: Checkpoint, tmp_path: Path) -> None:
    assert "refused" in refusal(edited(content, "optimizer", to=value), tmp_path)


def test_model_of_another_kind_is_refused(content: Checkpoint, tmp_path: Path) -> None:
    data = copy.deepcopy(content)
    data["config"]["model"] = {"_target_": "src.objectives.adversarial.Hinge"}
    assert "is no GenerativeModel" in refusal(data, tmp_path)


@pytest.mark.parametrize("option", ["root", "url", "digest", "cache_dir"])
def test_data_that_names_a_path_or_an_address_is_refused(option: str, content: Checkpoint, tmp_path: Path) -> None:
    data = copy.deepcopy(content)
    data["config"]["data"][option] = "file:///etc/passwd"
    assert f"names data.{option}, which no checkpoint does: refused" in refusal(data, tmp_path)


def test_paths_of_the_data_come_from_the_command_line_then_from_the_run_folder(tmp_path: Path) -> None:
    stored = {"_target_": "src.data.datamodule.CatFacesDataModule"}
    before = stored | {"root": "before", "digest": None, "cache_dir": "kept", "url": "file:///etc/passwd"}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": before}))
    assert local_data_options(stored, tmp_path) == {"root": "before", "digest": None, "cache_dir": "kept"}
    today = stored | {"root": "today", "digest": "default", "cache_dir": None, "url": "https://public"}
    assert local_data_options(stored, tmp_path, today, ["data.root=today"]) == {
        "root": "today",
        "digest": None,
        "cache_dir": "kept",
        "url": "https://public",
    }
    assert local_data_options(stored, None, today)["root"] == "today"
    assert local_data_options(stored, None, {"_target_": "other", "root": "other"}) == {}


def test_images_of_your_own_that_are_named_nowhere_are_asked_for() -> None:
    with pytest.raises(UserError, match=r"not known where the images of this one are; add data.root=PATH"):
        local_data_options({"_target_": "src.data.datamodule.FolderDataModule"}, None)


@pytest.mark.parametrize("width", [10**9, -1, "wide", None, math.nan, math.inf, 1e300])
def test_size_that_is_none_is_refused(width: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(edited(content, "encoder", "width", to=width), tmp_path)


def test_missing_and_unknown_and_wrong_shaped_tensors_are_refused(content: Checkpoint, tmp_path: Path) -> None:
    name, weight = next(iter(content["state_dict"].items()))
    missing = {key: value for key, value in content["state_dict"].items() if key != name}
    for state in (missing, missing | {name: weight[..., :1]}, content["state_dict"] | {"other": weight}, {}):
        assert "weights do not fit" in refusal(content | {"state_dict": state}, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weight_that_is_not_finite_is_refused(value: float, content: Checkpoint, tmp_path: Path) -> None:
    name, weight = next(iter(content["state_dict"].items()))
    broken = content["state_dict"] | {name: torch.full_like(weight, value)}
    assert f"not finite numbers: '{name}'" in refusal(content | {"state_dict": broken}, tmp_path)


@pytest.mark.parametrize("state", [None, [], "text", {"a": 3}])
def test_state_of_another_kind_is_refused(state: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(content | {"state_dict": state}, tmp_path)


@pytest.mark.parametrize("images_seen", [-1, 10**18, 1.5, True, None, "many"])
def test_images_seen_are_a_number_that_can_be(images_seen: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(content | {"images_seen": images_seen}, tmp_path)


@pytest.mark.parametrize("other", [{}, [], None, {"state_dict": {}}, torch.zeros(3), "text"])
def test_other_content_is_refused(other: object, tmp_path: Path) -> None:
    assert "no checkpoint of this project" in refusal(other, tmp_path)


@pytest.mark.parametrize("config", [None, 3, {}, {"model": None}, {"model": []}, {"model": {"latent_dim": 3}}])
def test_config_of_another_kind_is_refused(config: object, content: Checkpoint, tmp_path: Path) -> None:
    refusal(content | {"config": config}, tmp_path)


def test_file_without_a_checksum_is_refused(content: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        save({name: value.contiguous() for name, value in content["state_dict"].items()}, {"format": "pt"})
    )
    with pytest.raises(UserError, match="it has no checksum, so it is no checkpoint of this project"):
        read_checkpoint(path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_half_a_checkpoint_is_refused(part: float, content: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = to_bytes(content)
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match="is not whole" if part else "no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", [b"hello", b"", b"a: 1\n" * 100, b"PK\x03\x04", bytes(range(256)) * 9])
def test_file_of_another_kind_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(text)
    with pytest.raises(UserError, match=r"no checkpoint|no checksum"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_folder_and_absent_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.safetensors"):
        with pytest.raises(UserError, match="can't read the checkpoint"):
            read_checkpoint(path)


def test_data_of_an_experiment_passes() -> None:
    for data in ("drawn_cats", "cat_faces", "afhq_cat"):
        validate_config(portable_config(config_of(f"data={data}", "data/augmentation=mild"))["data"], "data")
