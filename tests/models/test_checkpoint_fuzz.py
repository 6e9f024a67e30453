"""Thousands of damaged and changed checkpoints in one process: used or refused in a sentence, never a traceback."""

import copy
import json
import math
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.evaluate import evaluate
from src.evaluation.from_checkpoint import load_run
from src.latents import latents
from src.models.checkpoint.format import read_file, to_bytes, with_checksum
from src.training.fit import fit
from src.training.resume import resumed_config
from tests.helpers.commands import config_of, tiny

GIGABYTE, SLOWEST_S, RESUMED = 2**30, 10.0, 20  # every 20th of the files that can be sampled from is trained on
VALUES: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63 - 1, 10**15, 0.5, -1e300, 1e300, math.nan, math.inf, "", "x", "\x1b[2J\n",
    "${oc.env:HOME}", "src.models.vae.VAE", "a" * 5000, [], [1, "x"], {}, {"x": 1}, (1, 2), {1: 2},
]  # fmt: skip
Path_ = list[Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Checkpoints of a VAE and of a GAN, of two steps each."""
    contents = []
    for model in ("vae", "gan"):
        run = tmp_path_factory.mktemp("runs") / model
        run.mkdir()
        options = ["max_images=32", "metrics=none", "callbacks.image_grids=null", f"run_dir={run}"]
        fit(config_of(*tiny(model, "model.latent_dim=4", *options)))
        contents.append((run / "checkpoints" / "last.safetensors").read_bytes())
    return contents


def places(node: Any, path: Path_ | None = None) -> list[Path_]:
    """The paths of all values of a tree, tensors and containers among them."""
    path = path or []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, item in items for place in places(item, [*path, key]))]


def changed_value(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, torch.Tensor) or rng.random() < 0.2:
        scaled = [value * factor for factor in (-1, 10**9)] if type(value) in (int, float) else []
        return copy.deepcopy(rng.choice([*VALUES, *scaled, torch.ones(2)]))
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda t: t[None],
        lambda t: t.flatten()[:-1],
        lambda t: t.to(torch.int32),
        lambda t: t.double(),
        lambda t: t * math.nan,
        lambda t: t * -1,
        lambda t: t.double().mul(1e30).to(t.dtype),
        lambda t: torch.zeros_like(t),
    ]
    return rng.choice(changes)(value)


def changed_tree(content: bytes, path: Path, rng: random.Random) -> bytes:
    """A file in which one to three values are replaced, removed, or swapped with another; the checksum is right."""
    path.write_bytes(content)
    tree = copy.deepcopy(read_file(path))
    for _ in range(rng.randint(1, 3)):
        # Parts first: most values are weights, of which one is as good as another.
        part = rng.choice([place for place in places(dict.fromkeys(tree)) if place])[0]
        place = [part, *rng.choice(places(tree[part]))]
        node: Any = tree
        for key in place[:-1]:
            node = node[key]
        kind = rng.random()
        if kind < 0.15:
            del node[place[-1]]
        elif kind < 0.25:
            node[place[-1]] = copy.deepcopy(tree.get(rng.choice(list(tree))))
        elif kind < 0.3 and isinstance(node, dict):
            node[rng.choice(["x", "_target_", "\x1b[31m", "root", "seed"])] = copy.deepcopy(rng.choice(VALUES))
        else:
            node[place[-1]] = changed_value(node[place[-1]], rng)
        if not tree:
            break
    return to_bytes(tree)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes overwritten, cut out, doubled or cut off, often in the header."""
    pieces = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        end = min(len(pieces), rng.choice([16, 2000, len(pieces)]))
        at, length = rng.randrange(max(end, 1)), rng.randint(1, 40)
        match rng.randrange(5):
            case 0 if pieces:
                pieces[at] ^= 1 << rng.randrange(8)
            case 1:
                pieces[at : at + length] = rng.randbytes(length)
            case 2:
                del pieces[at : at + length]
            case 3:
                pieces[at:at] = pieces[at : at + length]
            case 4 if rng.random() < 0.3:
                del pieces[at:]
    return bytes(pieces)


def spliced(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """One file's header over another's tensors, or a header of which entries are exchanged; the lengths are right."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    match rng.randrange(4):
        case 0:
            data = other[8 + int.from_bytes(other[:8], "little") :]
        case 1:
            one, two = rng.sample(names, 2)
            header[one], header[two] = header[two], header[one]
        case 2:
            name = rng.choice(names)
            header[rng.choice(["x", "\x1b[2J", name + "\n"])] = header.pop(name)
        case 3:
            entry = header[rng.choice(names)]
            key = rng.choice(list(entry))
            wrong: dict[str, list[Any]] = {
                "dtype": ["F16", "I64", "X", 3],
                "shape": [[], [0], [-1], [2**40, 2**40], "x"],
            }
            entry[key] = rng.choice(wrong.get(key, [[0, 0], [0, 2**60], [-4, 4], [4], "x"]))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def case(number: int, files: list[bytes], path: Path) -> tuple[str, bytes]:
    """A model and the content of a file."""
    rng = random.Random(number)
    kind = number % 2
    content, other = files[kind], files[1 - kind]
    way = rng.random()
    if way < 0.6:
        changed = changed_tree(content, path, rng)
    else:
        changed = damaged_bytes(content, rng) if way < 0.8 else spliced(content, other, rng)
    with suppress(ValueError):  # no place for a checksum is left
        changed = bytes(with_checksum(changed)) if rng.random() < 0.8 else changed
    return ("vae", "gan")[kind], changed


def use(model: str, path: Path, everywhere: bool) -> None:
    """Sample, as most users of a file do; everywhere: evaluate, show the latents and train on too."""
    load_run(path, "cpu").model.sample(1)
    if everywhere:
        options = [f"checkpoint={path}", "device=cpu", f"output={path.parent}/out"]
        evaluate(**config_of(*options, "metrics=none", "max_bound_images=2", "fresh_cats=8", name="evaluate"))
        few = ["num_images=8", "paths=1", "steps=2", "frames=2", "num_directions=1"]
        latents(**config_of(*options, *few, name="latents"))
        run = ["max_images=48", "metrics=none", "callbacks.image_grids=null", f"run_dir={path.parent}/run"]
        fit(resumed_config(config_of(*tiny(model, *run, f"resume={path}")), typed=[]))


@pytest.mark.parametrize("cases", [25, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_changed_checkpoints(cases: int, files: list[bytes], tmp_path: Path) -> None:
    path, used, refused, everywhere = tmp_path / "model.safetensors", 0, 0, 0
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for number in range(cases):
        model, content = case(number, files, path)
        path.write_bytes(content)
        started_at = time.process_time()
        try:
            use(model, path, everywhere=(is_everywhere := used % RESUMED == 0))
            used, everywhere = used + 1, everywhere + is_everywhere
            sentence = ""
        except UserError as error:
            refused, sentence = refused + 1, str(error)
        except BaseException:
            print(f"case {number}", file=sys.stderr)
            raise
        assert not sentence or (sentence.isprintable() and len(sentence) < 1000), number
        slowest = max(slowest, time.process_time() - started_at)
        assert slowest < SLOWEST_S, number
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"{cases} cases: {used} used ({everywhere} at every door), {refused} refused; at most {slowest:.2f} s, "
        f"all together {grown / 1e6:.0f} MB"
    )
    assert grown < GIGABYTE
    assert min(used, refused) > cases // 50
