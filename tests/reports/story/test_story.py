"""The whole story from the command line, as small as it gets."""

from pathlib import Path

import pytest

from tests.helpers.commands import succeeded

TINY = ["data.image_size=32", "data.num_images=64", "data.val_fraction=0.25", "num_images=16"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_story_is_trained_once_and_told_on_one_page(tmp_path: Path) -> None:
    story = [*TINY, "betas=[1]", f"output={tmp_path}/story", 'options=["trainer=cpu","max_images=64"]']
    first = succeeded("src.story", *story)
    page = tmp_path / "story" / "index.html"
    text = page.read_text()
    assert str(page) in first
    assert first.count("run folder: ") == 4
    for model in ("autoencoder", "vae", "gan", "vae_beta_1"):
        assert (tmp_path / "story" / model / "summary.json").is_file()
        assert f"run_dir={tmp_path}/story/{model}" in text
    assert "48 to train on;\n16 held out" in text
    assert "<p>untrained</p>" in text
    page.unlink()
    assert "run folder: " not in succeeded("src.story", *story)
    assert page.read_text() == text
