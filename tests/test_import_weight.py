"""The files of this project that drawing an image loads: a reader who wants to follow it reads these."""

import subprocess
import sys
from pathlib import Path

from src.models.checkpoint.config import portable_config
from src.models.checkpoint.format import to_bytes
from tests.helpers.commands import REPOSITORY, config_of, tiny
from tests.helpers.tiny import checkpoint_of

MAX_FILES, MAX_LINES = 25, 2_800


def test_drawing_from_a_gan_loads_few_of_our_files(tmp_path: Path) -> None:
    from hydra.utils import instantiate

    config = portable_config(config_of(*tiny("gan")))
    model = instantiate(config["model"], _convert_="all")
    (tmp_path / "gan.safetensors").write_bytes(to_bytes(checkpoint_of(model, config)))
    code = f"""if True:
        import sys
        from src.config.cli import run
        from src.sample import sample
        sys.argv[1:] = ["checkpoint=gan.safetensors", "num_images=2", "output=cats", "device=cpu"]
        run(sample)
        assert not {{"lightning", "torchmetrics", "torchvision", "sklearn", "threadpoolctl"}} & sys.modules.keys()
        files = sorted({{m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "src" and m.__file__}})
        print(*[file for file in files if file.startswith({str(REPOSITORY / "src")!r})], sep="\\n", file=sys.stderr)"""
    command, environment = [sys.executable, "-c", code], {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "cats" / "00001.png").is_file()
    assert (tmp_path / "cats.png").is_file()
    lines = {path: len(Path(path).read_text().splitlines()) for path in result.stderr.splitlines() if "/src/" in path}
    loaded = {str(Path(path).relative_to(REPOSITORY)): count for path, count in lines.items() if count}
    assert "src/sample.py" in loaded
    assert len(loaded) <= MAX_FILES, loaded
    assert sum(loaded.values()) <= MAX_LINES, loaded
