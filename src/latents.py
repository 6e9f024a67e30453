"""`python -m src.latents checkpoint=P`: traversals, interpolations and a map of a model's latent space."""

from typing import Any, Literal

from src.config.cli import run
from src.config.validation import check_value
from src.core.types import CheckpointPath, ImagesPath, OutputPath, PositiveInt, Seed


def latents(
    checkpoint: CheckpointPath,
    reference: Literal["train", "val"],
    num_images: PositiveInt,
    num_directions: PositiveInt,
    paths: PositiveInt,
    steps: PositiveInt,
    map: Literal["pca", "tsne"],
    map_cells: PositiveInt,
    animation: Literal["webp", "gif", "apng"],
    frames: PositiveInt,
    seed: Seed,
    output: OutputPath | None,
    device: Literal["auto", "cpu", "cuda", "mps"],
    data: dict[str, Any],
) -> None:
    """Writes images of the latent space; those of real images' codes only for models that encode."""
    if data.get("root") and "_target_" not in data:
        check_value("data.root", data["root"], ImagesPath)

    import json
    from pathlib import Path

    import torch

    from src.evaluation.from_checkpoint import load_run
    from src.evaluation.latent_space import encode, flatten, most_active
    from src.models.autoencoder import EncodingModel
    from src.reports.latents import LatentImages

    run = load_run(checkpoint, device)
    model = run.model
    folder = Path(output) if output else run.folder / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = LatentImages(model, folder, steps, frames, animation)
    generator = torch.Generator().manual_seed(seed)

    noise = model.sample_prior(2 * paths, generator)
    drawn.interpolations("samples", "samples", noise, torch.zeros(model.latent_dim))
    codes, start = model.sample_prior(16, generator), noise[0]
    if isinstance(model, EncodingModel):
        source = run.data(data, reference)
        print(f"data: {source.source.description}", flush=True)
        found = source.images(reference)
        images = found[torch.randperm(len(found), generator=generator)[:num_images]]
        codes = encode(model, images)
        # With fewer images than ends of paths some are taken again.
        ends = torch.arange(2 * paths) % len(codes)
        start = codes[0]
        drawn.interpolations("images", "real images", codes[ends], codes.mean(dim=0), images[ends])
        drawn.map(flatten(codes, map), images, map_cells, map)
    directions = most_active(model, codes, num_directions)
    drawn.traversals(directions, start)

    report = {
        "files": drawn.written,
        "directions": {"sorted_by": directions.meaning, "activity": directions.activity.tolist()},
        "num_codes": len(codes),
        "seed": seed,
        "checkpoint": checkpoint,
        "images_seen": model.images_seen,
    }
    (folder / "latents.json").write_text(json.dumps(report, indent=2) + "\n")
    for name, text in drawn.written.items():
        print(f"{folder / name}: {text}")


if __name__ == "__main__":
    run(latents)
