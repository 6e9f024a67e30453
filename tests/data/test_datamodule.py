from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor

from src.core.errors import UserError
from src.core.images import from_uint8, to_pillow
from src.data.datamodule import DrawnCatsDataModule, FolderDataModule, ImageDataModule
from src.data.drawn_cats.factors import draw_cats
from src.models.base import GenerativeModel
from tests.helpers.tiny import ScriptedModel, as_process, random_images, tiny_data, train


def first_batches(data: ImageDataModule, count: int = 6) -> list[Tensor]:
    return list(islice(data.train_dataloader(), count))


class Batches(Callback):
    """Records the batches that training steps are given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, model: GenerativeModel, batch: Tensor, *args: Any
    ) -> None:
        self.seen.append(batch)


def test_batches_travel_as_bytes_and_arrive_as_images() -> None:
    batches = Batches()
    train(ScriptedModel(), tiny_data(batch_size=8), max_images=24, callbacks=[batches])
    travelling = first_batches(tiny_data(batch_size=8), 3)
    for arrived, sent in zip(batches.seen, travelling, strict=True):
        assert (sent.dtype, sent.shape) == (torch.uint8, (8, 3, 32, 32))
        assert arrived.dtype == torch.float32
        assert torch.equal(arrived, from_uint8(sent))
        assert [arrived.min().item(), arrived.max().item()] == [-1, 1]


def test_images_are_not_augmented() -> None:
    data, originals = tiny_data(40, val_fraction=0.2), random_images(40)
    assert (len(data.images("train").names), len(data.images("val").names)) == (32, 8)
    for reference in ("train", "val"):
        images = data.images(reference)
        for image, name in zip(images[:], images.names, strict=True):
            assert torch.equal(image, originals[int(name.removesuffix(".png"))])


def test_held_out_images_are_never_trained_on() -> None:
    data = tiny_data(40, val_fraction=0.2, horizontal_flip=False)
    trained_on = {bytes(image.numpy().data) for batch in first_batches(data, 20) for image in batch}
    assert trained_on == {bytes(image.numpy().data) for image in data.images("train")[:]}
    assert trained_on.isdisjoint(bytes(image.numpy().data) for image in data.images("val")[:])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_goes_to_exactly_one_rank(world_size: int) -> None:
    data = tiny_data(40, val_fraction=0.25)
    shares = [list(as_process(data, rank, world_size).share("train", batch_size=4)) for rank in range(world_size)]
    assert all(len(batch) <= 4 for share in shares for batch in share)
    images = torch.cat([batch for share in shares for batch in share])
    assert sorted(map(bytes, images.flatten(1).numpy())) == sorted(
        map(bytes, data.images("train")[:].flatten(1).numpy())
    )


def test_batches_of_two_ranks_joined_are_those_of_one() -> None:
    one, first, second = (
        first_batches(as_process(tiny_data(), rank, world_size)) for rank, world_size in ((0, 1), (0, 2), (1, 2))
    )
    for whole, *halves in zip(one, first, second, strict=True):
        assert torch.equal(torch.cat(halves), whole)


def test_stream_continues_where_the_model_stands() -> None:
    unbroken = first_batches(as_process(tiny_data(batch_size=4)), 8)
    resumed = first_batches(as_process(tiny_data(batch_size=4), images_seen=12), 5)
    assert torch.equal(torch.cat(resumed), torch.cat(unbroken[3:]))


def test_limit_keeps_the_first_images() -> None:
    data = tiny_data(40, limit_images=10, val_fraction=0.2)
    names = data.images("train").names + data.images("val").names
    assert sorted(names) == [f"{number}.png" for number in range(10)]


def test_reference_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.0 of 40; give data\.val_fraction of at least 0\.025"):
        tiny_data(val_fraction=0.0).images("val")


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.9999 of 40 images leaves none to train on; give less"):
        tiny_data(val_fraction=0.9999).images("train")


def test_a_single_image_is_refused() -> None:
    with pytest.raises(UserError, match="images in memory: only 1 image; give at least 2"):
        tiny_data(1).setup()


def test_workers_change_nothing() -> None:
    assert torch.equal(torch.cat(first_batches(tiny_data(num_workers=2))), torch.cat(first_batches(tiny_data())))


def test_seed_orders_and_split_seed_splits() -> None:
    data, reordered, resplit = tiny_data(), tiny_data(seed=1), tiny_data(split_seed=1)
    assert data.images("val").names == reordered.images("val").names != resplit.images("val").names
    assert not torch.equal(first_batches(data)[0], first_batches(reordered)[0])


def test_one_of_each_group_is_kept_on_request_and_groups_stay_on_one_side_anyway(tmp_path: Path) -> None:
    originals = random_images(20, size=32)
    (tmp_path / "cats").mkdir()
    for number, image in enumerate(originals):
        for copy in ("a", "b"):
            to_pillow(image).save(tmp_path / "cats" / f"{number}{copy}.png")
    whole = FolderDataModule(str(tmp_path / "cats"), image_size=32, val_fraction=0.25)
    assert [len(whole.images(side)) for side in ("train", "val")] == [30, 10]
    cats = [{name[:-5] for name in whole.images(side).names} for side in ("train", "val")]
    assert not cats[0] & cats[1]
    one_each = FolderDataModule(str(tmp_path / "cats"), image_size=32, val_fraction=0.25, deduplicate=True)
    assert [len(one_each.images(side)) for side in ("train", "val")] == [15, 5]
    assert {name[-5] for side in ("train", "val") for name in one_each.images(side).names} == {"a"}


@pytest.mark.parametrize("rank", [0, 1])
def test_number_of_images_left_out_is_shown_by_one_rank(
    rank: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cats").mkdir()
    for number, image in enumerate(random_images(40, size=32)):
        to_pillow(image).save(tmp_path / "cats" / f"{number}.png")
    (tmp_path / "cats" / "broken.png").write_bytes(b"")
    data = FolderDataModule(str(tmp_path / "cats"), image_size=32, batch_size=4)
    as_process(data, rank, 2).setup()
    said = capsys.readouterr().err
    assert ("1 of 41 images left out: broken.png (" in said) == (rank == 0)
    assert ("manifest.json" in said) == (rank == 0)


@pytest.mark.parametrize("reference", ["train", "val"])
def test_factors_belong_to_the_images_of_their_side(reference: Literal["train", "val"]) -> None:
    images = DrawnCatsDataModule(30, 0, image_size=32, val_fraction=0.2).images(reference)
    assert images.factors is not None
    assert torch.equal(images[:], torch.from_numpy(draw_cats(images.factors.numpy(), 32)))
