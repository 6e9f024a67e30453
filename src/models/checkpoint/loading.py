"""The one way from an untrusted checkpoint to a model: its config names only what is allowed, its tensors must fit."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode

from src.config.validation import check, instantiate
from src.core.errors import UserError
from src.core.run_folder import resolve_checkpoint
from src.models.checkpoint.config import LOCAL_DATA_OPTIONS, check_memory, validate_config
from src.models.checkpoint.format import read_file
from src.models.inference import InferenceModel, LatentModel

if TYPE_CHECKING:
    from src.models.base import GenerativeModel

FITTED_PARTS = {"mixture", "augmentation", "beta"}  # what a run fits or adapts as it goes: a new run starts with none
MAX_IMAGES_SEEN = 10**15
Built = TypeVar("Built")
Loaded = TypeVar("Loaded", bound=LatentModel)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content (`config`, `state_dict`, `images_seen`, ...), its config validated.

    Raises UserError, in one sentence, where the file can't be read or is no valid checkpoint of this project.
    """
    checkpoint = read_file(path)
    match checkpoint:
        case {
            "config": {"model": dict() as model, "data": dict() as data},
            "inference": {"config": dict() as inference, "parts": dict()},
            "state_dict": dict() as state,
            "images_seen": seen,
        }:
            pass
        case _:
            raise UserError(
                f"{path} is no checkpoint of this project; give a run folder, or a file of its checkpoints/"
            )
    if type(seen) is not int or not 0 <= seen <= MAX_IMAGES_SEEN:
        raise UserError(f"the checkpoint {path} has seen {seen!r:.80} images, which is no number of images: refused")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.isfinite().all():
            raise UserError(f"the checkpoint {path} holds weights that are not finite numbers: {name!r:.80}")
    for part, config in (("model", model), ("data", data), ("inference", inference)):
        validate_config(config, part)
    check_memory(data)
    for key in LOCAL_DATA_OPTIONS:
        if key in data:
            raise UserError(f"the checkpoint {path} names data.{key}, which no checkpoint does: refused")
    return checkpoint


def load_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> "GenerativeModel":
    """Return the model that read_checkpoint found, in evaluation mode. Raises UserError where weights do not fit.

    What an exported file lacks, such as a discriminator, is as the constructor makes it.
    """
    from src.models.base import GenerativeModel  # which imports Lightning

    state = check_weights(checkpoint)
    return load(checkpoint, checkpoint["config"]["model"], "model", GenerativeModel, state, device)  # type: ignore[type-abstract]


def load_inference_model(checkpoint: dict[str, Any], device: torch.device | str = "cpu") -> InferenceModel:
    """Return what samples and encodes of the model that read_checkpoint found, in evaluation mode.

    Raises UserError where weights do not fit.
    """
    config = checkpoint["inference"]["config"]
    part_by_name = {str(name): part for part, name in checkpoint["inference"]["parts"].items()}
    weights = {name: tensor for name, tensor in checkpoint["state_dict"].items() if part_of(name) in part_by_name}
    state = {f"{part_by_name[part_of(name)]}.{name.partition('.')[2]}": tensor for name, tensor in weights.items()}
    model = build_on_meta(config, "inference", InferenceModel, len(state))
    compare_weights(model.state_dict(), state)
    check_sizes(model, checkpoint["config"]["data"].get("image_size"))
    return load(checkpoint, config, "inference", InferenceModel, state, device)


def load(
    checkpoint: dict[str, Any],
    config: dict[str, Any],
    path: str,
    kind: type[Loaded],
    state: dict[str, Tensor],
    device: torch.device | str,
) -> Loaded:
    """Return the model of a config with the weights that were compared with it, in evaluation mode."""
    model = build(config, path, kind)
    model.load_state_dict(state, strict="export" not in checkpoint)
    model.images_seen = checkpoint["images_seen"]
    check_outputs(model.eval())
    return model.to(device)


def check_sizes(model: LatentModel, image_size: Any) -> None:
    """Raise UserError unless a model on the meta device, where nothing is computed, is one of images of a size."""
    try:
        with torch.device("meta"):
            images = torch.zeros(2, 3, image_size, image_size)
            made = model.eval().decode(torch.zeros(2, model.latent_dim))
            if made.shape != images.shape:
                raise ValueError(f"the model makes images of {made.shape[-1]} pixels")
            if model.encoder is not None:
                model.encode(images)
            if hasattr(model, "discriminator"):
                model.get_submodule("discriminator")(images)
    except (RuntimeError, TypeError, ValueError) as error:
        if "meta tensor" in str(error):  # a network of one's own that looks at values
            return
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the checkpoint's data.image_size={image_size!r:.80} does not fit its networks ({reason}): refused"
        ) from error


@torch.no_grad()
def check_outputs(model: LatentModel) -> None:
    """Raise UserError unless a model's images and losses are numbers: huge weights give none."""
    generator, values = torch.Generator().manual_seed(0), list[Tensor]()
    try:
        with torch.random.fork_rng(devices=[]):
            for prior in model.priors():
                values.append(images := model.sample(2, generator, prior))
                values += model.losses(images).values()
    except RuntimeError:  # a mixture of other weights than probabilities
        values = [torch.tensor(math.nan)]
    if not all(value.isfinite().all() for value in values):
        raise UserError("the checkpoint's weights are so large that its images or losses are not finite: refused")


def check_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the config's model. Raises UserError unless they fit; needs no memory for the model."""
    from src.models.base import GenerativeModel

    state, config = checkpoint["state_dict"], checkpoint["config"]["model"]
    model = build_on_meta(config, "model", GenerativeModel, len(state))  # type: ignore[type-abstract]
    ours = model.state_dict()
    if "export" in checkpoint:
        ours, state, _ = of_shared_parts(ours, state)
    compare_weights(ours, state)
    check_sizes(model, checkpoint["config"]["data"].get("image_size"))
    return state


def without_training(checkpoint: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content with no more than samples and encodes, to be read by load_run. facts: about it."""
    names = set(checkpoint["inference"]["parts"].values())
    state = {name: tensor for name, tensor in checkpoint["state_dict"].items() if part_of(name) in names}
    kept = {key: checkpoint[key] for key in ("config", "inference", "images_seen")}
    return kept | {"state_dict": state, "export": {"metrics": {}} | facts}


class WithoutInitialization(TorchFunctionMode):
    """Leaves weights as they are: the first random number on the meta device would import torch's compiler, seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_random = args and getattr(func, "__name__", "") in ("normal_", "uniform_")
        return args[0] if is_random else func(*args, **(kwargs or {}))


def build_on_meta(config: dict[str, Any], path: str, kind: type[Built], num_tensors: int) -> Built:
    """Return the object of a config without memory for its weights; UserError if it has far more than num_tensors."""
    parts = itertools.count()

    def count(*args: Any) -> None:
        if next(parts) >= 100 + 20 * num_tensors:
            raise UserError(
                "the checkpoint's weights do not fit the model of the config: it has far more than the file"
            )

    with (
        torch.device("meta"),
        WithoutInitialization(),
        nn_module.register_module_buffer_registration_hook(count),
        nn_module.register_module_module_registration_hook(count),
        nn_module.register_module_parameter_registration_hook(count),
    ):
        return build(config, path, kind)


def initialize_from(model: "GenerativeModel", path: str | Path) -> str:
    """Give a new model the networks of another run; return a sentence about the parts that start anew.

    A part is a network, or the likelihood. Raises UserError with the first tensor that does not fit.
    """
    ours = {name: tensor for name, tensor in model.state_dict().items() if part_of(name) not in FITTED_PARTS}
    parts = {part_of(name) for name in ours}
    ours, theirs, shared = of_shared_parts(ours, read_checkpoint(resolve_checkpoint(path))["state_dict"])
    if not shared:
        raise UserError(f"init_from={path}: no part of it is one of this model, which has {', '.join(sorted(parts))}")
    compare_weights(ours, theirs)
    model.load_state_dict(theirs, strict=False)
    anew = f"; {', '.join(sorted(parts - shared))} start anew" if parts - shared else ""
    return f"init_from={path}: weights of {', '.join(sorted(shared))}{anew}"


def part_of(name: str) -> str:
    """Return the part of a model that a tensor belongs to: a network, or the likelihood."""
    return name.partition(".")[0]


def of_shared_parts(
    ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """Return both models' tensors of the parts that both have, and these parts.

    Where the other model has only the average of a network, as in an exported file, or only the network, both get its
    weights.
    """
    missing = ours.keys() - theirs.keys()
    twins = {
        name: name.replace("_ema.", ".", 1) if "_ema." in name else name.replace(".", "_ema.", 1) for name in missing
    }
    theirs = theirs | {name: theirs[twin] for name, twin in twins.items() if twin in theirs}
    shared = {part_of(name) for name in ours} & {part_of(name) for name in theirs}
    first, second = (
        {name: tensor for name, tensor in tensors.items() if part_of(name) in shared} for tensors in (ours, theirs)
    )
    return first, second, shared


def compare_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise UserError with the first tensor that is missing, unknown, or of another shape or kind of numbers."""

    def describe(tensor: Tensor | None) -> str:
        if tensor is None:
            return "absent"
        kind = str(tensor.dtype).removeprefix("torch.").replace("bfloat", "float").rstrip("0123456789")
        return f"{list(tensor.shape)} of {kind}"

    for name in sorted(ours.keys() | theirs.keys()):
        is_ours, is_theirs = describe(ours.get(name)), describe(theirs.get(name))
        if is_ours != is_theirs:
            raise UserError(
                f"the checkpoint's weights do not fit the model of the config: {name!r:.80} is {is_theirs}, but should "
                f"be {is_ours}"
            )


def build(config: dict[str, Any], path: str, kind: type[Built]) -> Built:
    """Return the object that a part of a checkpoint's config describes. Raises UserError unless it is a `kind`."""
    validate_config(config, path)
    try:
        built = instantiate(check(config, path))
    except UserError:
        raise
    except Exception as error:  # Hydra, OmegaConf and constructors raise nearly anything
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"the checkpoint's {path} can't be built: {reason}") from error
    if not isinstance(built, kind):
        raise UserError(f"the checkpoint's {path} is no {kind.__name__}: refused")
    return built
