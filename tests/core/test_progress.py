"""Long work says how much is left, on the screen of rank 0 only; short work shows nothing."""

import re
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from src.core import progress
from src.core.progress import track
from src.evaluation.evaluator import Evaluator
from tests.helpers.tiny import tiny_data, tiny_vae


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """The text that is shown, by a clock on which each look takes a tenth of a second."""
    text, ticks = StringIO(), iter(range(10_000))
    monkeypatch.setattr(progress, "CONSOLE", Console(file=text, width=120))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))
    return text


def test_items_come_through_and_time_left_is_shown(screen: StringIO) -> None:
    batches = [[0] * 10 for _ in range(200)]
    assert list(track(iter(batches), 2000, "reading")) == batches
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(r"reading .* \d+% 0:0\d:\d\d +\d+/2000 *", line)


def test_unknown_total_shows_what_is_done(screen: StringIO) -> None:
    list(track([[0] * 10 for _ in range(60)], None, "reading"))
    assert re.search(r"reading .* \d+/\?", screen.getvalue())


def test_short_work_shows_nothing(screen: StringIO) -> None:
    assert list(track([[1], [2]], 2, "reading")) == [[1], [2]]
    assert not screen.getvalue()


def test_other_ranks_are_silent(screen: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert len(list(track([[0]] * 60, 60, "reading"))) == 60
    assert not screen.getvalue()


def test_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, screen: StringIO) -> None:
    monkeypatch.setattr(progress, "CONSOLE", Console(file=screen, force_terminal=True, width=120))
    list(track([[0]] * 90, 90, "reading"))
    assert "reading" in screen.getvalue()
    assert "\x1b[" in screen.getvalue()


def test_reference_is_bounded_by_evenly_spaced_images() -> None:
    data = tiny_data(41, val_fraction=0.0)
    assert [len(data.images("train", most)) for most in (100, 41, 40, 14, 1)] == [41, 41, 21, 14, 1]
    (images,) = data.share("train", 64, max_images=14)
    assert (images == data.images("train")[::3]).all()
    counted = []
    model = tiny_vae()
    model.losses = lambda images: counted.append(len(images)) or {"loss": images[:, 0, 0, 0]}  # type: ignore[method-assign, func-returns-value]
    Evaluator(model, data, max_reference_images=20).losses("train")
    assert sum(counted) == 14
