"""Files made to harm: each is refused in one sentence, at every door, before it costs time or memory."""

import copy
import json
import math
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.evaluate import evaluate
from src.latents import latents
from src.models.base import GenerativeModel
from src.models.checkpoint.format import CHECKSUM_KEY, MAX_HEADER_BYTES, NO_CHECKSUM, read_file, to_bytes, with_checksum
from src.models.checkpoint.loading import build, load_model, read_checkpoint
from src.sample import sample
from src.training.fit import fit
from src.training.resume import resumed_config
from tests.helpers.commands import config_of, tiny
from tests.helpers.tiny import assert_same

Checkpoint = dict[str, Any]
Edit = Callable[[Checkpoint], Any]
GIGABYTE = 2**30
DOORS = ["sample", "evaluate", "latents", "resume"]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    folder.mkdir()
    options = ["max_images=32", "metrics=none", "callbacks.image_grids=null", f"run_dir={folder}"]
    fit(config_of(*tiny("vae", *options)))
    return folder / "checkpoints" / "last.safetensors"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a few kilobytes, which read_checkpoint takes."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    config = {"model": {"latent_dim": 8}, "data": {"image_size": 32}, "seed": 0}
    state = {f"layer.{index}": torch.arange(8.0) for index in range(40)}
    rest = {"images_seen": 32, "callbacks": {"Checkpoints": {"best": {"loss": 0.1}}}, "loops": {"fit": (1, {0: 2})}}
    inference = {"config": {"latent_dim": 8}, "parts": {"decoder": "layer"}}
    path.write_bytes(to_bytes({"config": config, "inference": inference, "state_dict": state, **rest}))
    assert read_checkpoint(path)["images_seen"] == 32
    return path


def enter(door: str, path: Path) -> None:
    """Hands the file to an entry point."""
    options = [f"checkpoint={path}", "device=cpu"]
    if door == "sample":
        sample(**config_of(*options, "num_images=2", f"output={path.parent}/samples", name="sample"))
    elif door == "evaluate":
        evaluate(**config_of(*options, "metrics=none", "fresh_cats=8", f"output={path.parent}", name="evaluate"))
    elif door == "latents":
        few = ["num_images=16", "paths=2", "steps=2", "frames=2", "num_directions=1"]
        latents(**config_of(*options, *few, f"output={path.parent}/latents", name="latents"))
    else:
        options = ["max_images=64", "metrics=none", f"run_dir={path.parent}/run", f"resume={path}"]
        fit(resumed_config(config_of(*tiny("vae", *options)), typed=[]))


def refusal(path: Path, use: Callable[[Path], Any] = read_checkpoint) -> str:
    """The sentence; it comes soon, and without the memory that the file asks for."""
    started_at = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as refused:
        use(path)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert sentence.isprintable()
    assert time.process_time() - started_at < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIGABYTE
    return sentence


def file_of(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header and data; where there is a checksum in the header, it is set to the right one."""
    content = (len(header) if length is None else length).to_bytes(8, "little") + header + data
    return bytes(with_checksum(content)) if CHECKSUM_KEY in content else content


def header_of(tree: str | Any, **tensors: Any) -> bytes:
    """A header with a tree (JSON as text, or what becomes it) and entries of tensors."""
    text = tree if isinstance(tree, str) else json.dumps(tree)
    metadata = {"tree": text, "sha256": NO_CHECKSUM.decode()}
    return json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()


def tensor(begin: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def with_model(*path: str, to: Any) -> Edit:
    """Both configs of the model with one value replaced, where they have it."""

    def edit(content: Checkpoint) -> Any:
        copied = copy.deepcopy(content)
        for node in (copied["config"]["model"], copied["inference"]["config"]):
            for key in path[:-1]:
                node = node.get(key, {})
            if path[-1] in node:
                node[path[-1]] = to
        return copied

    return edit


def with_data(key: str, value: Any) -> Edit:
    return lambda content: content | {"config": content["config"] | {"data": content["config"]["data"] | {key: value}}}


def with_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda content: (
        content | {"state_dict": {name: change(weight) for name, weight in content["state_dict"].items()}}
    )


def nested(depth: int) -> Any:
    node: Any = {}
    for _ in range(depth):
        node = {"deeper": node}
    return node


CONTENTS: dict[str, tuple[Edit, str]] = {
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
    "number without end": (with_model("beta", to=10**30), "one of its numbers has 100 bits"),
    "NaN": (with_model("beta", to=math.nan), "model.beta=nan: not allowed here"),
    "infinity": (with_model("optimizer", "lr", to=math.inf), "inf"),
    "deep": (with_model("optimizer", to=nested(100)), "nested more than 48 deep"),
    "width of a billion": (
        lambda content: with_model("encoder", "max_width", to=10**9)(with_model("encoder", "width", to=10**9)(content)),
        "can't be built",
    ),
    "latent of a trillion": (with_model("latent_dim", to=10**12), "can't be built"),
    "missing tensors": (lambda content: content | {"state_dict": {}}, "weights do not fit"),
    "wrong shapes": (with_weights(lambda weight: weight[None].repeat(2, *[1] * weight.ndim)), "weights do not fit"),
    "wrong types": (with_weights(lambda weight: weight.to(torch.int32)), "weights do not fit"),
    "complex numbers": (with_weights(lambda weight: weight.to(torch.complex64)), "weights do not fit"),
    "weights that are NaN": (with_weights(lambda weight: weight * math.nan), "not finite"),
    "another project's": (lambda content: {"model": content["state_dict"]}, "no checkpoint of this project"),
    "a path": (with_data("root", "/etc"), "names data.root"),
    "an address": (with_data("url", "file:///etc/passwd"), "names data.url"),
    "trillion drawings": (with_data("num_images", 10**12), "at most 10,000,000"),
    "batch of a trillion": (with_data("batch_size", 10**12), "at most 65,536"),
    "thousand processes": (with_data("num_workers", 10**3), "at most 256"),
    "ten million large drawings": (
        lambda content: with_data("num_images", 10**7)(with_data("image_size", 256)(content)),
        "num_images=10,000,000 images of 256 pixels; at most 262,144",
    ),
    "batch of 65,536 large drawings": (
        lambda content: with_data("batch_size", 65_536)(with_data("image_size", 256)(content)),
        "batch_size=65,536 images of 256 pixels; at most 4,096",
    ),
    "_partial_ of a number": (with_model("optimizer", "_partial_", to=0.5), "_partial_ flag must be a bool"),
    "images of another size": (with_data("image_size", 64), "image_size=64 does not fit its networks (the model makes"),
    "size of text": (with_data("image_size", "\u202e32"), ""),
    "encoder of another size": (with_model("encoder", "image_size", to=64), ""),
    "huge weights": (
        with_weights(lambda weight: weight * 1e30 if weight.is_floating_point() else weight),
        "not finite",
    ),
    "fewer images seen than none": (lambda content: content | {"images_seen": -1}, "no number of images"),
    "more images seen than a run can reach": (lambda content: content | {"images_seen": 10**16}, "no number of images"),
}
ONLY_IN_TRAINING = ("NaN", "infinity", "_partial_ of a number")


def with_state(part: str, **values: Any) -> Edit:
    """The states of the optimizer's weights, each with some values replaced, or removed (None)."""

    def edit(content: Checkpoint) -> Any:
        copied = copy.deepcopy(content["optimizer_states"])
        for states in copied[0][part].values() if part == "state" else copied[0][part]:
            states.update(values)
            for name in [name for name, value in states.items() if value is None]:
                del states[name]
        return {"optimizer_states": copied}

    return edit


def with_callback(name: str, **values: Any) -> Edit:
    return lambda content: {"callbacks": content["callbacks"] | {name: content["callbacks"][name] | values}}


def with_scalars(**values: Any) -> Edit:
    return lambda content: {"training_scalars": content["training_scalars"] | values}


def with_loop(key: str, value: Any) -> Edit:
    def edit(content: Checkpoint) -> Any:
        loops = copy.deepcopy(content["loops"])
        loops["fit_loop"]["epoch_loop.batch_progress"]["current"][key] = value
        return {"loops": loops}

    return edit


STATES: dict[str, Edit] = {
    "steps that are NaN": with_state("state", step=torch.tensor(math.nan)),
    "steps below none": with_state("state", step=torch.tensor(-5.0)),
    "steps that are text": with_state("state", step="many"),
    "steps of several": with_state("state", step=torch.ones(3)),
    "no steps": with_state("state", step=None),
    "no moments": with_state("state", exp_avg=None),
    "moments that are NaN": lambda content: {
        "optimizer_states": [
            state | {"state": {n: {k: v * math.nan for k, v in part.items()} for n, part in state["state"].items()}}
            for state in content["optimizer_states"]
        ]
    },
    "best of text": with_callback("Checkpoints", best={"images_seen": "many"}),
    "best of a list": with_callback("Checkpoints", best=[1]),
    "warnings of tensors": with_callback("TrainingWarnings", warned={"modes_collapse": torch.ones(2)}),
    "symptoms since text": with_callback("TrainingWarnings", since={"modes_collapse": "many"}),
    "clock of NaN": with_callback("Checkpoints", wall_seconds=math.nan),
    "sums of nothing": with_scalars(counts={}, groups={"loss": torch.ones(1, 1)}),
    "numbers of nothing": with_scalars(counts={}, numbers={"loss": 1.0}),
    "counts of none": with_scalars(counts={"loss": 0}),
    "sums of another shape": with_scalars(groups={"loss": torch.ones(1, 7)}),
    "sums of numbers": with_scalars(groups={"loss": 3}),
    "sums of text": with_scalars(numbers={"loss": "x"}),
    "seconds of NaN": with_scalars(seconds=math.nan),
    "loops below none": with_loop("ready", -1),
    "loops of text": with_loop("ready", "x"),
    "loops of a list": with_loop("completed", [1]),
    "gradients of another shape": lambda content: {"gradients": {"head.weight": torch.ones(1, 3)}},
    "a finished run": lambda content: {"images_seen": 10**15},
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
INFERENCE: dict[str, Any] = {"config": {}, "parts": {}}
TREE = {
    "config": {"model": {}, "data": {}},
    "inference": INFERENCE,
    "state_dict": {"w": {"$tensor": "w"}},
    "images_seen": 1,
}
HEADERS: dict[str, tuple[bytes, str]] = {
    "length of 2^63": (file_of(b"{}", length=2**63), "no checkpoint of this project"),
    "length of 100 MB": (file_of(b"{}", length=10**8), "no checkpoint of this project"),
    "length beyond the end": (file_of(b"{}", length=1000), "not whole"),
    "length of nothing": (file_of(b""), "no checkpoint of this project"),
    "text": (file_of(b"{hello" + CHECKSUM_KEY + NO_CHECKSUM + b'"'), ""),
    "no checksum": (file_of(b'{"__metadata__":{"tree":"{}"}}'), "it has no checksum"),
    "short checksum": (file_of(b'{"__metadata__":{"tree":"{}","sha256":"12"}}'), "can't read the checkpoint"),
    "no tree": (file_of(b'{"__metadata__":{"sha256":"' + NO_CHECKSUM + b'"}}'), "'tree'"),
    "tree of a number": (file_of(header_of("3")), "no checkpoint of this project"),
    "tree cut short": (file_of(header_of('{"a": [1, 2')), "can't read the checkpoint"),
    "tree of a million lists": (file_of(header_of("[" * 10**6)), "can't read the checkpoint"),
    "tree of 15 MB of lists": (file_of(header_of("[" + "[]," * 4_900_000 + "[]]")), "more than 300,000 values"),
    "tree of 15 MB of text": (file_of(header_of('"' + "a" * 15_000_000 + '"')), "no checkpoint of this project"),
    "tree with a number of a million digits": (
        file_of(header_of('{"a": ' + "9" * 10**6 + "}")),
        "can't read the checkpoint",
    ),
    "tree with a huge number": (file_of(header_of('{"a": 1e999}')), "one of its numbers is too large"),
    "tree with a NaN": (file_of(header_of('{"a": NaN}')), "one of its numbers is too large"),
    "tree with a list as a key": (file_of(header_of({"$dict": [[[1], 2]]})), "can't read the checkpoint"),
    "tree with half a pair": (file_of(header_of({"$dict": [[1]]})), "can't read the checkpoint"),
    "tree with a missing tensor": (file_of(header_of(TREE)), "its tensor w is missing"),
    "tensor of nothing": (file_of(header_of({}, x=tensor(0, 4, [1])), b"1234"), "its tensor x belongs to nothing"),
    "header of 200,000 tensors": (
        file_of(header_of({}, **{str(index): tensor(0, 0, [0]) for index in range(200_000)})),
        "more than 300,000 values",
    ),
    "overlapping tensors": (
        file_of(header_of(TREE, w=tensor(0, 8, [2]), x=tensor(4, 12, [2])), bytes(12)),
        "can't read the checkpoint",
    ),
    "hole between tensors": (
        file_of(header_of(TREE, w=tensor(0, 4, [1]), x=tensor(8, 12, [1])), bytes(12)),
        "can't read the checkpoint",
    ),
    "tensor beyond the end": (file_of(header_of(TREE, w=tensor(0, 4000, [1000])), bytes(12)), "not whole"),
    "bytes after the end": (file_of(header_of(TREE, w=tensor(0, 4, [1])), bytes(12)), "not whole"),
    "tensor of 4 TB in 4 bytes": (
        file_of(header_of(TREE, w=tensor(0, 4, [10**12])), bytes(4)),
        "can't read the checkpoint",
    ),
    "shape that overflows": (
        file_of(header_of(TREE, w=tensor(0, 4, [2**40, 2**40])), bytes(4)),
        "can't read the checkpoint",
    ),
    "negative shape": (file_of(header_of(TREE, w=tensor(0, 4, [-1])), bytes(4)), "can't read the checkpoint"),
    "shape of text": (file_of(header_of(TREE, w=tensor(0, 4, ["1"])), bytes(4)), "can't read the checkpoint"),
    "shape of 2^62 and nothing": (file_of(header_of(TREE, w=tensor(0, 0, [2**62, 0]))), ""),
    "shape of a thousand axes": (file_of(header_of(TREE, w=tensor(0, 4, [1] * 1000)), bytes(4)), ""),
    "type that is unknown": (
        file_of(header_of(TREE, w=tensor(0, 4, [1], "X99")), bytes(4)),
        "can't read the checkpoint",
    ),
    "type of four bits": (file_of(header_of(TREE, w=tensor(0, 4, [8], "F4")), bytes(4)), ""),
    "type of eight bits": (
        file_of(header_of(TREE, w=tensor(0, 4, [4], "F8_E4M3")), bytes(4)),
        "which no checkpoint has",
    ),
    "name of escape codes": (
        file_of(header_of({"state_dict": {"$tensor": "\x1b[2J"}}, **{"\x1b[2J": tensor(0, 4, [1], "X99")}), bytes(4)),
        "can't read the checkpoint",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", CONTENTS)
def test_hostile_content_is_refused_at_every_door(name: str, door: str, valid: Path, tmp_path: Path) -> None:
    edit, expected = CONTENTS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(edit(read_file(valid))))
    if name in ONLY_IN_TRAINING and door in ("sample", "latents"):
        enter(door, path)  # the value is used for nothing here
    else:
        assert expected in refusal(path, lambda path: enter(door, path))


def test_unknown_option_without_a_value_is_left_out_on_resuming(valid: Path, tmp_path: Path) -> None:
    content, path = read_file(valid), tmp_path / "model.safetensors"
    content["config"]["model"]["decoder"]["x"] = None
    path.write_bytes(to_bytes(content))
    enter("resume", path)


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_header_is_refused(name: str, tmp_path: Path) -> None:
    content, expected = HEADERS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert expected in refusal(path, lambda path: load_model(read_checkpoint(path)))


@pytest.mark.parametrize("door", DOORS)
def test_hostile_header_is_refused_at_every_door(door: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS["overlapping tensors"][0])
    assert "can't read the checkpoint" in refusal(path, lambda path: enter(door, path))


def test_header_longer_than_any_of_ours_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(header_of('"' + "a" * MAX_HEADER_BYTES + '"')))
    assert "no checkpoint of this project" in refusal(path)


@pytest.mark.parametrize(("declared", "expected"), [(4, "is not whole"), (2**43, "does not fit into the memory")])
def test_file_of_8_terabytes_is_refused(declared: int, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(header_of(TREE, w=tensor(0, declared, [declared // 4]))))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**43)  # a hole: it takes no room on the disk
    assert expected in refusal(path)


@pytest.mark.parametrize("name", STATES)
def test_state_that_does_not_fit_is_refused_before_the_first_step(name: str, valid: Path, tmp_path: Path) -> None:
    content = read_file(valid)
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(content | STATES[name](content)))
    assert "checkpoint" in refusal(path, lambda path: enter("resume", path))


def test_settings_of_the_optimizer_are_the_configs_whatever_the_file_says(valid: Path, tmp_path: Path) -> None:
    content = read_file(valid)
    hostile = with_state("param_groups", lr=1e30, betas=(7.0, "x"), weight_decay=-3.0, initial_lr=1e9, maximize=True)
    weights = []
    for name, states in (("as it was", {}), ("hostile", hostile(content))):
        path = tmp_path / name / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(to_bytes(content | states))
        enter("resume", path)
        weights.append(read_file(path.parent / "run" / "checkpoints" / "last.safetensors"))
    assert_same(weights[0]["state_dict"], weights[1]["state_dict"])
    assert_same(weights[0]["optimizer_states"], weights[1]["optimizer_states"])


@pytest.mark.parametrize("door", ["evaluate", "resume"])
def test_limit_of_one_image_is_refused_where_data_is_needed(door: str, valid: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(with_data("limit_images", 1)(read_file(valid))))
    enter("sample", path)
    assert "give at least 2" in refusal(path, lambda path: enter(door, path))


@pytest.mark.parametrize("door", ["sample", "evaluate", "latents"])
def test_mixture_that_is_none_is_refused(door: str, valid: Path, tmp_path: Path) -> None:
    content, path = read_file(valid), tmp_path / "model.safetensors"
    mixture = {"mixture.weights": -torch.ones(10), "mixture.fitted_at": torch.tensor(32)}
    path.write_bytes(to_bytes(content | {"state_dict": content["state_dict"] | mixture}))
    assert "not finite" in refusal(path, lambda path: enter(door, path))


@pytest.mark.parametrize("door", DOORS)
def test_file_without_a_checksum_is_refused_at_every_door(door: str, valid: Path, tmp_path: Path) -> None:
    content = valid.read_bytes().replace(CHECKSUM_KEY, b'"sha255":"')
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "it has no checksum" in refusal(path, lambda path: enter(door, path))


@pytest.mark.parametrize("door", DOORS)
def test_valid_file_passes_every_door(door: str, valid: Path, tmp_path: Path) -> None:
    enter(door, Path(shutil.copy(valid, tmp_path / "model.safetensors")))


def assert_refused_with_bits_flipped(path: Path, bits: list[int], copied: Path) -> None:
    content = path.read_bytes()
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        copied.write_bytes(flipped)
        with pytest.raises(UserError) as refused:
            read_checkpoint(copied)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 500


def test_bits_that_are_flipped_are_noticed(small: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    num_bits = 8 * small.stat().st_size
    bits = [*range(8 * 16), *generator.sample(range(num_bits), 600)]
    assert_refused_with_bits_flipped(small, bits, tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_bit_of_the_first_4_kilobytes_and_4000_others(valid: Path, tmp_path: Path) -> None:
    others = random.Random(0).sample(range(8 * 4096, 8 * valid.stat().st_size), 4000)
    assert_refused_with_bits_flipped(valid, [*range(8 * 4096), *others], tmp_path / "model.safetensors")


@pytest.mark.parametrize("part", [0, 7, 8, 9, 100, 0.2, 0.5, 0.9, -1])
def test_file_cut_short_is_refused(part: float, small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    end = part if isinstance(part, int) else int(len(content) * part)
    (tmp_path / "model.safetensors").write_bytes(content[:end])
    refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["base.GenerativeModel", "autoencoder.EncodingModel", "adversarial.AdversarialModel"])
def test_a_class_that_others_are_made_from_is_no_model(name: str) -> None:
    with pytest.raises(UserError):
        build({"_target_": f"src.models.{name}"}, "model", GenerativeModel)  # type: ignore[type-abstract]
