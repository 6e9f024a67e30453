"""An exported folder: its files give the model's images and latents, without this project and without PyTorch."""

import base64
import getpass
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from src.api import Run, open_run, train
from src.core.errors import UserError
from src.core.images import from_uint8
from src.evaluation.from_checkpoint import load_run
from src.export import export
from src.models.checkpoint.loading import initialize_from
from src.reports.export.card import LICENSES, license_of, measured
from src.training.launcher import start
from tests.helpers.commands import REPOSITORY, command, config_of, tiny

# One fixture trains and exports four models.
pytestmark = pytest.mark.timeout(900)
SMALL = ["metrics=none", "callbacks.image_grids=null"]
KINDS = ("autoencoder", "vae", "vae_gan", "gan")
# Run in a process that has no PyTorch, the lines of the card draw a grid.
WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "src", "lightning"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: train(*tiny(kind, *SMALL, "max_images=64", f"run_dir={folder / kind}")) for kind in KINDS}


@pytest.fixture(scope="module")
def exported(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    for kind, run in runs.items():
        export(**config_of(f"checkpoint={run.folder}", f"output={folder / kind}", name="export"))
    return {kind: folder / kind for kind in runs}


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_decoder_draws_the_images_of_the_model(
    kind: str, batch: int, runs: dict[str, Run], exported: dict[str, Path]
) -> None:
    latents = runs[kind].model.sample_prior(batch, torch.Generator().manual_seed(3))
    (images,) = session(exported[kind] / "decoder.onnx").run(None, {"latents": latents.numpy()})
    expected = runs[kind].decode(latents).numpy()
    assert images.dtype == np.uint8
    assert images.shape == expected.shape
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_gives_the_latents_of_the_model(kind: str, runs: dict[str, Run], exported: dict[str, Path]) -> None:
    file = exported[kind] / "encoder.onnx"
    assert file.exists() == (kind != "gan")
    if file.exists():
        images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
        (latents,) = session(file).run(None, {"images": images})
        with torch.no_grad():
            expected = runs[kind].model.encode(from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2)))
        np.testing.assert_allclose(latents, expected.numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_file_holds_what_draws_and_names_nobody(kind: str, exported: dict[str, Path]) -> None:
    with safe_open(exported[kind] / "model.safetensors", "pt") as file:
        parts = {key.split(".")[1] for key in file.keys()}  # noqa: SIM118
        tree = json.loads(file.metadata()["tree"])
    own = {
        "gan": {"generator_ema"},
        "autoencoder": {"encoder", "decoder", "head", "mixture"},
        "vae": {"encoder", "decoder", "head", "mixture"},
        "vae_gan": {"encoder", "decoder_ema", "head", "mixture"},
    }
    assert parts - {"likelihood"} == own[kind]
    assert tree.keys() == {"config", "inference", "images_seen", "state_dict", "export"}
    for path in exported[kind].iterdir():
        content = path.read_bytes()
        for word in (str(REPOSITORY), str(exported[kind].parent), "/home/", "site-packages"):
            assert word.encode() not in content, (path, word)
        if getpass.getuser() != "root":
            assert getpass.getuser().encode() not in content


@pytest.mark.parametrize("kind", KINDS)
def test_folder_opens_like_a_run(kind: str, runs: dict[str, Run], exported: dict[str, Path], tmp_path: Path) -> None:
    opened = open_run(exported[kind])
    prior = opened.model.priors()[-1]
    assert torch.equal(opened.sample(5, 1, prior).pixels, runs[kind].sample(5, 1, prior).pixels)
    assert opened.curves == {}
    if kind != "gan":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
        assert torch.equal(opened.encode(image), runs[kind].encode(image))
    options = ["metrics=none", "num_images=8"]
    before, after = (
        run.evaluate(*options, "fresh_cats=64", f"output={tmp_path / name}")
        for name, run in (("a", runs[kind]), ("b", opened))
    )
    assert before | {"checkpoint": ""} == after | {"checkpoint": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_lines_of_the_card_draw_a_grid_without_torch(kind: str, exported: dict[str, Path], tmp_path: Path) -> None:
    for path in exported[kind].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    card = (tmp_path / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 1 + (kind != "gan")
    imports, *lines = blocks[0].splitlines()
    lines = lines if len(blocks) == 1 else [line for line in lines if not line.startswith("latents = ")]
    script = "\n".join([WITHOUT_TORCH, imports, *blocks[1:], *lines])
    result = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "cats.png").size == (4 * 32, 4 * 32)


def test_prior_has_the_moments_of_the_mixture(runs: dict[str, Run], exported: dict[str, Path]) -> None:
    prior, mixture = np.load(exported["vae"] / "prior.npz"), runs["vae"].loaded.model.mixture
    assert mixture is not None
    count = len(prior["weights"])
    assert prior["weights"].sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(prior["weights"], mixture.weights[:count], rtol=1e-6)
    np.testing.assert_array_equal(prior["means"], mixture.means[:count])
    samples = mixture.sample(20_000, torch.Generator().manual_seed(0)).numpy()
    spread = np.einsum("kij,klj->kil", prior["choleskies"], prior["choleskies"])
    mean = np.einsum("k,ki->i", prior["weights"], prior["means"])
    second = np.einsum("k,kil->il", prior["weights"], spread + np.einsum("ki,kl->kil", prior["means"], prior["means"]))
    scale = np.sqrt(np.diag(second).max())
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.05 * scale)
    np.testing.assert_allclose(samples.T @ samples / len(samples), second, atol=0.05 * scale**2)


@pytest.mark.slow
def test_app_draws_with_both_priors(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    spec = importlib.util.spec_from_file_location("exported_app", exported["vae"] / "app.py")
    assert spec
    assert spec.loader
    app: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    images = {prior: app.draw(1, 6, prior, 1.0) for prior in app.PRIORS}
    assert images.keys() == {"mixture", "normal"}
    assert all(len(some) == 6 and some[0].shape == (32, 32, 3) for some in images.values())
    cold = app.latents(0, 3, "normal", 0.0)
    assert not cold.any()


def test_card_has_the_format_of_the_hub(exported: dict[str, Path]) -> None:
    for kind, folder in exported.items():
        text = (folder / "README.md").read_text()
        header = yaml.safe_load(text.split("---\n")[1])
        assert header["license"] == "mit"
        assert header["pipeline_tag"] == "unconditional-image-generation"
        assert kind.replace("_", "") in header["tags"]
        assert "64 images (with repetition)" in text
        assert "{{" not in text
        assert "{%" not in text
        assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["data"]["num_images"] == 64


def test_card_names_metrics_and_their_number_of_samples(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["gan"]
    facts = {"fd_lite0": 123.4, "copied_lite0": 0.25, "num_images": 1_000, "reference": "val", "images_seen": 64}
    (tmp_path / "a").mkdir()
    for stale in ("decoder.onnx", "encoder.onnx", "prior.npz"):  # of another model
        (tmp_path / "a" / stale).touch()
    try:
        (run.folder / "metrics.json").write_text(json.dumps(facts | {"own_data": False}))
        assert "fd_lite0" not in measured(load_run(run.folder, "cpu"))  # a distance from other images
        (run.folder / "metrics.json").write_text(json.dumps(facts | {"own_data": True}))
        for source, output in ((run.folder, "a"), (tmp_path / "a", "b")):
            options = [f"checkpoint={source}", f"output={tmp_path / output}", "onnx=false", "name=Tabby"]
            export(**config_of(*options, name="export"))
    finally:
        (run.folder / "metrics.json").unlink()
    text = (tmp_path / "a" / "README.md").read_text()
    assert "| fd_lite0 | 123.4 |" in text
    assert "1,000 samples" in text
    assert "held-out images" in text
    assert "share of samples that are copies" in text
    assert text == (tmp_path / "b" / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["README.md", "grid.png", "model.safetensors"]


def test_an_export_into_a_run_folder_hides_no_checkpoint(runs: dict[str, Run], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["gan"].folder, folder)
    export(**config_of(f"checkpoint={folder}", f"output={folder}", "onnx=false", name="export"))
    assert (folder / "model.safetensors").is_file()
    assert open_run(folder).loaded.path == folder / "checkpoints" / "best.safetensors"


def test_each_data_set_has_its_license(runs: dict[str, Run]) -> None:
    choices = {"drawn_cats": "mit", "afhq_cat": "cc-by-nc-4.0", "cat_faces": "other"}
    for data, expected in choices.items():
        config = config_of(f"data={data}")["data"]
        assert license_of(config, None).id == expected
        assert license_of(config, None).text in {known.text for known in LICENSES.values()}
    own = {"_target_": "src.data.datamodule.FolderDataModule"}
    assert license_of(own, None).id == "unknown"
    assert license_of(own, "cc-by-4.0").id == "cc-by-4.0"
    with pytest.raises(UserError, match="license=mit: the images that it was trained on are AFHQ"):
        license_of(config_of("data=afhq_cat")["data"], "mit")


def test_training_goes_on_from_an_exported_folder(exported: dict[str, Path], tmp_path: Path) -> None:
    model = train(*tiny("gan", *SMALL, "max_images=16", f"run_dir={tmp_path}/gan")).loaded.model
    sentence = initialize_from(model, exported["gan"])
    assert sentence.endswith("weights of generator, generator_ema; discriminator start anew")
    original = open_run(exported["gan"]).model.decoder.state_dict()
    for network in (model.generator, model.generator_ema):
        assert all(torch.equal(tensor, original[name]) for name, tensor in network.state_dict().items())  # type: ignore[union-attr]
    with pytest.raises(UserError, match="an exported model has no optimizers to go on with; give init_from="):
        start(config_of(*tiny("gan", f"run_dir={tmp_path}/x", f"resume={exported['gan']}")), [])


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the Hugging Face Hub: repositories, uploads of large files, commits."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer({"error": "Invalid username or password."}, 401)
        base = f"http://{self.headers['Host']}"
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            server.created.append(json.loads(body))
            return self.answer({"url": f"{base}/someone/tabby", "name": "someone/tabby"})
        if "/preupload/" in self.path:
            large = (".onnx", ".safetensors", ".png", ".npz")
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(large) else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                item | {"actions": {"upload": {"href": f"{base}/objects/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.files[value["path"]] = server.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del server.files[value["path"]]
            return self.answer(
                {"commitUrl": f"{base}/someone/tabby/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
            )
        return self.answer({"error": self.path}, 404)

    def do_PUT(self) -> None:
        server: Any = self.server
        server.objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_GET(self) -> None:
        server: Any = self.server
        if "/tree/" in self.path:
            there = {"type": "file", "oid": "0" * 40}
            return self.answer([there | {"path": name, "size": len(file)} for name, file in server.files.items()])
        return self.answer({"error": self.path}, 404)

    def answer(self, content: Any, status: int = 200) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.created, server.objects, server.files = [], {}, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_folder_is_published_after_saying_what_and_where(hub: Any, exported: dict[str, Path], tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    there: dict[str, Any] = {
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": "hf_secret",
    }
    output = tmp_path / "tabby"
    arguments = [f"checkpoint={exported['vae']}", f"output={output}", "onnx=false"]
    hub.files["prior.npz"] = b"of a model that was published there before"
    result = command("src.export", *arguments, "publish=someone/tabby", "private=true", **there)
    assert result.returncode == 0, result.stderr
    files = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert hub.files == files
    assert hub.created[0]["name"] == "tabby"
    assert hub.created[0]["visibility"] == "private"
    announced = result.stdout.index("uploading 3 files")
    assert f"to {address}/someone/tabby (private)" in result.stdout[announced:]

    hub.files.clear()
    refused = command("src.export", *arguments, "publish=someone/tabby", **there | {"HF_TOKEN": "hf_wrong"})
    assert refused.returncode == 2
    assert "log in by `hf auth login`" in refused.stderr
    assert "hf_wrong" not in refused.stdout + refused.stderr
    assert hub.files == {}
    assert command("src.export", *arguments, **there).returncode == 0
    assert hub.files == {}
    wrong = command("src.export", *arguments, "publish=tabby", **there)
    assert "publish=tabby: give user/name" in wrong.stderr
