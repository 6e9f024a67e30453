"""`python -m src.export checkpoint=RUN output=DIR`: a folder of a model that needs nothing of this project."""

from src.config.cli import run
from src.core.types import CheckpointPath, OutputPath


def export(
    checkpoint: CheckpointPath,
    output: OutputPath,
    name: str | None,
    license: str | None,
    onnx: bool,
    publish: str | None,
    private: bool,
    wandb: bool,
) -> None:
    """Write the model's weights, ONNX files, a card, a grid and an app.

    publish: also upload them to the Hub. wandb: the checkpoint's W&B run gets them as an artifact.
    """
    from pathlib import Path

    from src.evaluation.from_checkpoint import load_run
    from src.reports.export.card import license_of, measured
    from src.reports.export.folder import publish as upload
    from src.reports.export.folder import write_folder

    folder = Path(output).absolute()
    run = load_run(checkpoint, "cpu")
    given = license_of(run.config["data"], license)
    if wandb:  # before the work
        from src.logger.wandb import continue_run

        logger = continue_run(run.content, run.folder)
    files = write_folder(run, folder, name or folder.name, given, onnx)
    for file in files:
        print(f"{folder / file}: {(folder / file).stat().st_size / 1e6:.2f} MB")
    print(f"training images: {given.text}")
    if wandb:
        logger.log_folder(folder, files, measured(run) | {"images_seen": run.content["images_seen"]})
        logger.finish(0)
    if publish:
        print(f"published: {upload(folder, files, publish, private)}")


if __name__ == "__main__":
    run(export)
