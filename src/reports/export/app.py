"""A page that draws cats: the decoder.onnx beside this file, by onnxruntime. Needs gradio, numpy and onnxruntime."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import onnxruntime

FOLDER = Path(__file__).parent
DECODER = onnxruntime.InferenceSession(FOLDER / "decoder.onnx", providers=["CPUExecutionProvider"])
FACTS = DECODER.get_modelmeta().custom_metadata_map
PRIORS = ["mixture", "normal"] if (FOLDER / "prior.npz").exists() else ["normal"]


def latents(seed: int, count: int, prior: str, temperature: float) -> np.ndarray:
    """Sample latents (count, D) of the prior; the temperature multiplies the standard deviations."""
    generator = np.random.default_rng(seed)
    noise = temperature * generator.standard_normal((count, int(FACTS["latent_dim"])))
    if prior == "normal":
        return noise.astype(np.float32)
    mixture = np.load(FOLDER / "prior.npz")
    component = generator.choice(len(mixture["weights"]), count, p=mixture["weights"])
    spread = np.einsum("nij,nj->ni", mixture["choleskies"][component], noise)
    return (mixture["means"][component] + spread).astype(np.float32)


def draw(seed: float, count: float, prior: str, temperature: float) -> list[np.ndarray]:
    """Return images, uint8 (H, W, 3) each."""
    sampled = latents(int(seed), int(count), prior, temperature)
    return list(DECODER.run(None, {"latents": sampled})[0])


with gr.Blocks(title=FACTS["name"]) as page:
    gr.Markdown(f"# {FACTS['name']}\nCats that do not exist. Training images: {FACTS['data_license']}.")
    with gr.Row():
        options: list[Any] = [
            gr.Number(0, label="Seed", precision=0, minimum=0),
            gr.Slider(1, 64, 16, step=1, label="Images"),
            gr.Radio(PRIORS, value=PRIORS[0], label="Prior", visible=len(PRIORS) > 1),
            gr.Slider(0, 1.5, 1, label="Temperature"),
        ]
    gallery = gr.Gallery(label="Cats", columns=8, object_fit="contain")
    gr.on([page.load, *(option.change for option in options)], draw, options, gallery)

if __name__ == "__main__":
    page.launch()
