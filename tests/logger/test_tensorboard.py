import io

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from src.callbacks.image_grids import ImageGrids
from src.callbacks.training_scalars import TrainingScalars
from src.core.images import to_uint8
from tests.helpers.tiny import ScriptedModel, tiny_data, train


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """Return the events of a run of 12 images, as TensorBoard reads them."""
    folder = tmp_path_factory.mktemp("run")
    logger = TensorBoardLogger(save_dir=folder, name="tensorboard", version="")
    callbacks = [TrainingScalars(4), ImageGrids(folder=str(folder / "images"), every_images=8, num_images=1)]
    train(ScriptedModel(), tiny_data(batch_size=4), 12, callbacks, [logger])
    logger.finalize("success")
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_scalars_lie_on_the_axis_of_images_seen(events: EventAccumulator) -> None:
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(4, 0.0), (8, 4.0), (12, 8.0)]
    assert [event.step for event in events.Scalars("train/images_per_second")] == [4, 8, 12]


def test_images_are_the_models(events: EventAccumulator) -> None:
    images = events.Images("samples")
    assert [image.step for image in images] == [0, 8, 12]
    sample = to_uint8(ScriptedModel().sample(1, torch.Generator().manual_seed(0)))[0]
    grid_of_one = np.array(Image.open(io.BytesIO(images[-1].encoded_image_string)))
    assert np.array_equal(grid_of_one, sample.permute(1, 2, 0).numpy())
