"""Files made to harm: each is refused in a sentence, at every door, before it costs time, memory or more."""

import builtins
import copy
import os
import pickle
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.evaluate import evaluate
from src.models.checkpoint import read_checkpoint, with_recipe_of
from src.sample import sample
from src.training.fit import fit
from tests.helpers.commands import config_of, tiny

Checkpoint = dict[str, Any]
ROOM = 2**30  # bytes that refusing a file may take at most
DOORS = ["sample", "evaluate", "resume"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    folder.mkdir()
    options = ["max_images=32", "metrics=none", "callbacks.image_grids=null", f"run_dir={folder}"]
    fit(config_of(*tiny("vae", *options)))
    return folder / "checkpoints" / "last.ckpt"


def enter(door: str, path: Path) -> None:
    """Hands the file to an entry point."""
    if door == "sample":
        options = [f"checkpoint={path}", "num_images=2", f"output={path.parent}/samples", "device=cpu"]
        sample(**config_of(*options, name="sample"))
    elif door == "evaluate":
        options = [f"checkpoint={path}", "metrics=none", f"output={path.parent}", "device=cpu"]
        evaluate(**config_of(*options, name="evaluate"))
    else:
        options = ["max_images=64", "metrics=none", f"run_dir={path.parent}/run", f"resume={path}"]
        config = config_of(*tiny("vae", *options))
        fit(with_recipe_of(read_checkpoint(path), config, typed=[]))


def refusal(door: str, path: Path) -> str:
    """The sentence; taken soon, and without the memory that the file would like."""
    started_at = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as refused:
        enter(door, path)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert sentence.isprintable()
    assert time.process_time() - started_at < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < ROOM
    assert not list(path.parent.rglob("sprung*"))
    return sentence


class Call:
    """Pickled, it calls function(*arguments) on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def with_call(function: Callable[..., Any], *arguments: Any) -> Callable[[Checkpoint, Path], Any]:
    return lambda content, folder: (
        content
        | {
            "callbacks": Call(
                function, *[str(folder / "sprung") if argument == "FILE" else argument for argument in arguments]
            )
        }
    )


def with_model(*path: str, to: Any) -> Callable[[Checkpoint, Path], Any]:
    """The config's model with one value replaced; FILE stands for a path that must not come to be."""

    def edit(content: Checkpoint, folder: Path) -> Any:
        copied = copy.deepcopy(content)
        node = copied["config"]["model"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        return copied

    return edit


def with_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Checkpoint, Path], Any]:
    return lambda content, folder: (
        content | {"state_dict": {name: change(weight) for name, weight in content["state_dict"].items()}}
    )


def bomb_of_lists(content: Checkpoint, folder: Path) -> Any:
    """Forty lists that each hold the last one twice: 2^40 values in a few bytes."""
    node: Any = ["lol"]
    for _ in range(40):
        node = [node, node]
    return with_model("optimizer", to=node)(content, folder)


def deep(content: Checkpoint, folder: Path) -> Any:
    node: Any = {}
    for _ in range(100):
        node = {"deeper": node}
    return with_model("optimizer", to=node)(content, folder)


HOSTILE: dict[str, tuple[Callable[[Checkpoint, Path], Any], str]] = {
    "os.system": (with_call(os.system, "touch FILE"), "it asks for posix.system"),
    "eval": (with_call(builtins.eval, "open('sprung', 'w')"), "it asks for "),
    "torch.hub.load": (with_call(torch.hub.load, "someone/else", "model"), "it asks for torch.hub.load"),
    "torch.load": (with_call(torch.load, "FILE"), "it asks for torch.serialization.load"),
    "bytearray of 100 GB": (with_call(bytearray, 10**11), "it asks for "),
    "_target_ os.system": (with_model("encoder", to={"_target_": "os.system"}), "asks for os.system"),
    "_target_ torch.hub.load": (with_model("encoder", to={"_target_": "torch.hub.load"}), "asks for torch.hub.load"),
    "_target_ eval": (with_model("encoder", to={"_target_": "builtins.eval"}), "asks for builtins.eval"),
    "_target_ by an import": (
        with_model("encoder", to={"_target_": "src.training.launcher.os.system"}),
        "asks for src.training.launcher.os.system",
    ),
    "_target_ an own function": (
        with_model("encoder", to={"_target_": "src.models.base.to_uint8"}),
        "asks for src.models.base.to_uint8",
    ),
    "interpolation": (with_model("beta", to="${oc.env:HOME}"), "a reference to something outside"),
    "escape codes": (with_model("beta", to="\x1b[2J\x07"), "which is no text of a config"),
    "number without end": (with_model("beta", to=10**30), "a number of 100 bits"),
    "list of itself": (bomb_of_lists, "nested without end"),
    "deep": (deep, "nested without end"),
    "width of a billion": (
        lambda content, folder: with_model("encoder", "max_width", to=10**9)(
            with_model("encoder", "width", to=10**9)(content, folder), folder
        ),
        "can't be built",
    ),
    "latent of a trillion": (with_model("latent_dim", to=10**12), "can't be built"),
    "missing tensors": (lambda content, folder: content | {"state_dict": {}}, "weights do not fit"),
    "wrong shapes": (with_weights(lambda weight: weight[None].repeat(2, *[1] * weight.ndim)), "weights do not fit"),
    "wrong types": (with_weights(lambda weight: weight.to(torch.int32)), "weights do not fit"),
    "complex numbers": (with_weights(lambda weight: weight.to(torch.complex64)), "weights do not fit"),
    "100 GB in one number": (
        lambda content, folder: content | {"extra": torch.zeros(1).expand(10**5, 250_000)},
        "more than the file holds",
    ),
    "sparse": (
        lambda content, folder: content | {"extra": torch.zeros(3, 3).to_sparse()},
        "it asks for torch._utils._rebuild_sparse_tensor",
    ),
    "another project's": (lambda content, folder: {"model": content["state_dict"]}, "no checkpoint of this project"),
}
CONTENTS = {
    "trillion drawings": ("num_images", 10**12, "10,000,000 is the most"),
    "batch of a trillion": ("batch_size", 10**12, "65,536 is the most"),
}
STATES: dict[str, Callable[[Checkpoint], Any]] = {
    "callback": lambda content: {"callbacks": {name: [3] for name in content["callbacks"]}},
    "callbacks": lambda content: {"callbacks": {name: {"seed": 1} for name in content["callbacks"]}},
    "optimizer": lambda content: {"optimizer_states": [{"state": {}, "param_groups": []}]},
    "moments": lambda content: {
        "optimizer_states": [
            state
            | {
                "state": {
                    n: {k: v[..., :1] if v.ndim else v for k, v in part.items()} for n, part in state["state"].items()
                }
            }
            for state in content["optimizer_states"]
        ]
    },
    "loops": lambda content: {"loops": {"fit_loop": 3}},
    "version": lambda content: {"pytorch-lightning_version": "none"},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_at_every_door(name: str, door: str, sound: Path, tmp_path: Path) -> None:
    edit, expected = HOSTILE[name]
    content = edit(torch.load(sound, weights_only=True), tmp_path)
    torch.save(content, tmp_path / "model.ckpt")
    assert expected in refusal(door, tmp_path / "model.ckpt")


@pytest.mark.parametrize("door", DOORS[1:])
@pytest.mark.parametrize("name", CONTENTS)
def test_data_without_end_is_refused(name: str, door: str, sound: Path, tmp_path: Path) -> None:
    key, value, expected = CONTENTS[name]
    content = torch.load(sound, weights_only=True)
    content["config"]["data"][key] = value
    torch.save(content, tmp_path / "model.ckpt")
    assert expected in refusal(door, tmp_path / "model.ckpt")


@pytest.mark.parametrize("name", STATES)
def test_state_that_does_not_fit_is_refused_before_the_first_step(name: str, sound: Path, tmp_path: Path) -> None:
    content = torch.load(sound, weights_only=True)
    torch.save(content | STATES[name](content), tmp_path / "model.ckpt")
    assert "checkpoint" in refusal("resume", tmp_path / "model.ckpt")


def rewritten(sound: Path, to: Path, change: Callable[[str, bytes], tuple[str, bytes]], compression: int) -> None:
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(to, "w", compression) as target:
        for name in source.namelist():
            target.writestr(*change(name, source.read(name)))


def test_archive_with_names_outside_of_itself_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    rewritten(
        sound, path, lambda name, text: (f"../../{name}" if "version" in name else name, text), zipfile.ZIP_STORED
    )
    assert "outside of itself" in refusal("sample", path)


def test_compressed_bomb_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    rewritten(
        sound, path, lambda name, text: (name, bytes(10**8) if name.endswith("/0") else text), zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 10**6
    assert "compressed" in refusal("sample", path)


def test_storage_that_declares_more_than_the_file_has_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"

    def enlarge(name: str, text: bytes) -> tuple[str, bytes]:
        # The number of elements of the first storage, as pickle writes integers of four bytes.
        if not name.endswith("data.pkl"):
            return name, text
        start = text.index(b"cpuq")
        number = text.index(b"M", start)
        return name, text[:number] + b"\x8a\x08" + (10**11).to_bytes(8, "little") + text[number + 3 :]

    rewritten(sound, path, enlarge, zipfile.ZIP_STORED)
    assert "no checkpoint that can be trusted" in refusal("sample", path)


def test_pickle_of_a_newer_protocol_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Call(os.system, f"touch {tmp_path}/sprung"), protocol=4))
    assert "builds objects of its own" in refusal("sample", tmp_path / "model.ckpt")


def test_sound_file_passes_every_door(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sound, tmp_path / "model.ckpt"))
    for door in DOORS:
        enter(door, path)
