"""The tabs of the page. What they show is computed in opened.py and photos.py; here it is laid out and wired.

Each tab gets the event of its being opened, the models, and the favorites.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from src.core.films import film_bytes
from src.core.images import save_grid, to_pillow
from src.evaluation.latent_space import closed_path, decode, encode, linear, spherical
from src.explorer.opened import NUM_DIRECTIONS, Opened
from src.explorer.photos import PROJECTION_STEPS, cropped, errors, find_square, project

SEED = "a seed"  # the end of a way that is drawn from its seed
COUNT = 16  # images of a model that grows up
REACH, STEPS, FRAMES = 3.0, 101, 16
WAYS: dict[str, Any] = {"spherical": spherical, "linear": linear}
BESIDE = 6  # training images beside a sample
# One listener for all that changes an image: while it answers, only the newest change is remembered, so that no answer
# to an older one comes later. Sliders answer while they are moved, outside the queue (which alone sees states change).
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
AT_ONCE = QUIET | {"queue": False}
Kept = list[dict[str, Any]]  # favorites: the model's number, the latent and the name of each
Shown = list[tuple[Image.Image, str | None]]


def cat(label: str) -> gr.Image:
    """Make a place for one image, below its name, which would cover a part of it."""
    gr.Markdown(f"### {label}")
    options: Any = {"format": "png", "elem_classes": "cat", "buttons": ["download", "fullscreen"], "height": 300}
    return gr.Image(label=label, show_label=False, alt_text=label, interactive=False, **options)


def cats(label: str, columns: int) -> gr.Gallery:
    """Make a place for several images, below its name."""
    gr.Markdown(f"### {label}")
    options: Any = {"format": "png", "elem_classes": "cats", "buttons": [], "height": "auto", "object_fit": "contain"}
    return gr.Gallery(label=label, show_label=False, columns=columns, allow_preview=False, interactive=False, **options)


def seed_field(label: str = "Seed", value: int = 0) -> gr.Number:
    """Make a field for a seed."""
    return gr.Number(value, label=label, precision=0, minimum=0, maximum=2**32 - 1)


def in_columns(models: list[Opened]) -> Iterator[tuple[int, Opened]]:
    """Yield the models with their numbers, each in a column of its own; on a narrow page they stand in a row."""
    with gr.Row():
        for number, opened in enumerate(models):
            with gr.Column(min_width=300):
                yield number, opened


def temporary(suffix: str) -> str:
    """Return the name of a new file that the page may offer."""
    return str(Path(tempfile.mkdtemp(), f"cats{suffix}"))


def with_favorite(kept: Kept, number: int, latent: Tensor, name: str) -> Kept:
    """Return the favorites and one more."""
    return [*kept, {"model": number, "latent": latent, "name": f"favorite {len(kept) + 1} ({name})"}]


def favorites(models: list[Opened], kept: gr.State) -> None:
    """Lay out what was kept, below all tabs."""
    with gr.Column(visible=False) as place:
        gallery, forget = cats("Favorites", 8), gr.Button("Forget the favorites", size="sm")

    def show(some: Kept) -> tuple[Any, Shown]:
        images = [(to_pillow(models[item["model"]].image(item["latent"])), item["name"]) for item in some]
        return gr.update(visible=bool(some)), images

    kept.change(show, kept, [place, gallery], **QUIET)
    forget.click(list, None, kept)


def draw(opens: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out a grid of samples of each model."""
    priors = sorted({prior for opened in models for prior in opened.model.priors()})  # the mixture first
    with gr.Row():
        options: list[Any] = [
            seed_field(),
            gr.Slider(1, 64, 16, step=1, label="Images", buttons=[]),
            gr.Radio(priors, value=priors[0], label="Prior", visible=len(priors) > 1),
            gr.Slider(0, 1.5, 1, step=0.05, label="Temperature", info="below 1: more typical, less varied", buttons=[]),
        ]
    for number, opened in in_columns(models):
        gallery, chosen = cats(opened.name, 8 if len(models) == 1 else 4), gr.State()
        keep = gr.Button("Keep the chosen image (click one)", size="sm", interactive=False)
        save = gr.DownloadButton("Save PNG", size="sm")
        command: Any = gr.Textbox(label="The command line that draws the same", lines=2, buttons=["copy"])
        changes = [opens, *(option.change for option in options)]
        gr.on(changes, partial(drawn, opened), options, [gallery, command, save, keep], **AT_ONCE)
        gallery.select(position, None, [chosen, keep])
        keep.click(partial(keep_drawn, opened, number), [kept, chosen, *options], kept)


def drawn(opened: Opened, seed: int, count: int, prior: str, temperature: float) -> tuple[Shown, str, str, Any]:
    """Return samples, the command line that draws them, a file of them, and that none is chosen to be kept."""
    images, path = opened.draw(seed, count, prior, temperature), temporary(".png")
    save_grid(images, Path(path), columns=min(8, count))
    command = opened.command(seed, count, prior, temperature)
    return [(to_pillow(image), None) for image in images], command, path, gr.update(interactive=False)


def position(event: gr.SelectData) -> tuple[int, Any]:
    """Return which image of a gallery was clicked, and that it can be kept."""
    return event.index, gr.update(interactive=True)


def keep_drawn(opened: Opened, number: int, kept: Kept, index: int, seed: int, *options: Any) -> Kept:
    """Return the favorites with the chosen sample."""
    return with_favorite(kept, number, opened.latents(seed, *options)[index], f"seed {seed}, image {index + 1}")


class Editor:
    """Sliders along a model's directions, and the image that they make of a latent."""

    def __init__(self, number: int, opened: Opened, kept: gr.State, name: str) -> None:
        self.opened, self.latent = opened, gr.State()
        with gr.Row():
            with gr.Column(min_width=250, elem_classes="stays"):
                self.image, self.note = cat(opened.name), gr.Markdown()
            with gr.Column(min_width=250):
                with gr.Row():
                    reset, keep = gr.Button("Reset", size="sm"), gr.Button("Keep", size="sm")
                self.sliders = [
                    gr.Slider(-REACH, REACH, 0, step=0.1, label=f"direction {index + 1}", buttons=[])
                    for index in range(min(NUM_DIRECTIONS, opened.model.latent_dim))
                ]
        inputs, zeros = [self.latent, *self.sliders], [0] * len(self.sliders)
        gr.on([self.latent.change, reset.click], lambda: zeros, None, self.sliders, **AT_ONCE)
        changes = [self.latent.change, *(slider.change for slider in self.sliders)]
        gr.on(changes, self.show, inputs, self.image, **AT_ONCE)
        keep.click(lambda some, *now: with_favorite(some, number, self.moved(*now), name), [kept, *inputs], kept)

    def moved(self, latent: Tensor | None, *amounts: float) -> Tensor:
        """Return the latent that the sliders make of one."""
        if latent is None:
            raise gr.Error("There is no cat yet.", print_exception=False)
        return self.opened.moved(latent, list(amounts))

    def show(self, *now: Any) -> Image.Image:
        """Return its image."""
        return to_pillow(self.opened.image(self.moved(*now)))

    def prepare(self) -> list[Any]:
        """Return the note and the sliders with the names of the directions, which may take a while at first."""
        found, names = self.opened.directions
        missing = f" The training images are not here: {self.opened.missing}" if self.opened.missing else ""
        return [f"Sorted: {found.meaning}.{missing}", *(gr.update(label=name) for name in names)]


def directions(opens: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out sliders along the principal directions of each model."""
    with gr.Row():
        seed, start = seed_field(), gr.Button("Random start")
    start.click(lambda: int(torch.randint(2**31, ())), None, seed)
    for number, opened in in_columns(models):
        editor = Editor(number, opened, kept, "moved")
        gr.on([opens, seed.change], lambda seed, opened=opened: opened.latents(seed)[0], seed, editor.latent, **QUIET)
        opens(editor.prepare, None, [editor.note, *editor.sliders], show_progress_on=editor.note)


def between(opens: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out the way from one cat to another."""
    with gr.Row():
        seeds: list[Any] = [seed_field("Seed of the first"), seed_field("Seed of the second", 1)]
        path = gr.Radio([*WAYS], value="spherical", label="Way")
    percent = gr.Slider(0, 100, 50, step=1, label="Percent of the way", buttons=[])
    for number, opened in in_columns(models):
        with gr.Row():
            ends: list[Any] = [gr.Dropdown([SEED], value=SEED, label=f"{end} cat") for end in ("First", "Second")]
        image, make = cat(opened.name), gr.Button("Make a film", size="sm")
        film, files = cat("There and back"), gr.Files(label="Films", visible=False)
        inputs: list[Any] = [kept, *ends, *seeds, path]

        def choices(some: Kept, number: int = number) -> list[Any]:
            return [gr.update(choices=[SEED, *(item["name"] for item in some if item["model"] == number)])] * 2

        kept.change(choices, kept, ends, **QUIET)
        changes = [opens, *(item.change for item in [percent, path, *ends, *seeds])]
        gr.on(changes, partial(on_the_way, opened), [percent, *inputs], image, **AT_ONCE)
        make.click(partial(films, opened), inputs, [film, files])


def end_latents(opened: Opened, kept: Kept, first: str, second: str, *seeds: int) -> Tensor:
    """Return the two latents of a way, (2, D): favorites, or those of the seeds."""
    found = {item["name"]: item["latent"] for item in kept}
    pairs = zip((first, second), seeds, strict=True)
    return torch.stack([found[end] if end in found else opened.latents(seed)[0] for end, seed in pairs])


def on_the_way(opened: Opened, percent: float, *way: Any) -> Image.Image:
    """Return the image at so many percent of a way."""
    first, second = end_latents(opened, *way[:-1])
    return to_pillow(opened.image(WAYS[way[-1]](first, second, STEPS)[int(percent)]))


def films(opened: Opened, *way: Any) -> tuple[str, Any]:
    """Write films of the way there and back; return the WebP, and all of them."""
    latents = torch.stack(list(closed_path(end_latents(opened, *way[:-1]), WAYS[way[-1]], FRAMES)))
    frames, names = list(decode(opened.model, latents)), [temporary(f".{kind}") for kind in ("webp", "mp4")]
    for name in names:
        Path(name).write_bytes(film_bytes(frames, Path(name).suffix[1:], "bicubic"))
    return names[0], gr.update(value=names, visible=True)


def my_cat(_: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out a photo, the square of it, and what each model makes of it."""
    size = max(opened.image_size for opened in models)
    with gr.Row():
        with gr.Column(min_width=300):
            photo = gr.Image(label="Photo", type="pil", sources=["upload", "clipboard"], height=300, buttons=[])
        with gr.Column(min_width=300):
            before = cat("What the model sees of it")
    with gr.Row():
        labels = ("Left edge", "Top edge", "Side")
        square: Any = [gr.Slider(0, 1, 0, step=1, label=f"{label}, in pixels", buttons=[]) for label in labels]
    find = gr.Button("Find this cat in the model", variant="primary")

    def found(image: Image.Image | None) -> list[Any]:
        if image is None:
            return [gr.skip()] * 3
        limits = image.width - 1, image.height - 1, min(image.size)
        return [gr.update(value=at, maximum=most) for at, most in zip(find_square(image), limits, strict=True)]

    def show(image: Image.Image | None, *given: int) -> Image.Image | None:
        return None if image is None else to_pillow(cropped(image, given, size))

    photo.change(found, photo, square, **QUIET)
    gr.on([part.change for part in (photo, *square)], show, [photo, *square], before, **AT_ONCE)
    for number, opened in in_columns(models):
        result, editor = gr.Markdown(), Editor(number, opened, kept, "my cat")
        found_latent = find.click(partial(represent, opened), [photo, *square], [editor.latent, result])
        found_latent.then(editor.prepare, None, [editor.note, *editor.sliders], **QUIET)


def represent(
    opened: Opened,
    photo: Image.Image | None,
    left: int,
    top: int,
    side: int,
    progress: Any = gr.Progress(),  # noqa: B008
) -> tuple[Tensor, str]:
    """Return the latent of a square of a photo, and how well it shows it, in words."""
    if photo is None:
        raise gr.Error("Give a photo first.", print_exception=False)
    target = cropped(photo, (left, top, side), opened.image_size)
    if opened.model.encoder is not None:
        latent, how = encode(opened.model, target[None])[0], "encoded"
    else:
        latent = project(opened.model, target, lambda share, text: progress(share, desc=text))
        how = f"projected, in {PROJECTION_STEPS} steps"
    pixels, features = errors(opened.model, target, latent)
    text = f"pixels differ by {pixels:.0f} of 255 (root mean square), features by {features:.2f} of at most 1.41"
    return latent, f"Below: {how}; {text}."


def nearest(_: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out samples beside their nearest training images."""
    with gr.Row():
        seed, count = seed_field(), gr.Slider(1, 8, 4, step=1, label="Samples", buttons=[])
    look = gr.Button("Look for the nearest training images", variant="primary")
    for opened in models:
        gallery, verdict = cats(f"{opened.name}: a sample a row, then its nearest", BESIDE + 1), gr.Markdown()
        look.click(partial(neighbors, opened), [seed, count], [gallery, verdict])


def neighbors(opened: Opened, seed: int, count: int) -> tuple[Shown, str]:
    """Return samples, each followed by its nearest training images, and which of them are copies."""
    if opened.data is None:
        return [], f"The training images are not here: {opened.missing}"
    samples = opened.draw(seed, count, opened.model.default_prior, 1.0)
    found, shown = opened.search.nearest(samples), Shown()
    for index, sample in enumerate(samples):
        distances = found.distances[index, :BESIDE].tolist()
        captions = [f"sample {index + 1}", *(f"{distance:.2f}" for distance in distances)]
        images = [sample, *opened.searched[found.positions[index, :BESIDE]]]
        shown += zip(map(to_pillow, images), captions, strict=True)
    copies = [str(index + 1) for index in found.are_copies.nonzero()[:, 0].tolist()]
    return shown, f"Copies of a training image: {', '.join(copies) or 'none of these'}."


def growing_up(opens: Any, models: list[Opened], kept: gr.State) -> None:
    """Lay out the same noise at every checkpoint of the runs."""
    times = sorted({time for opened in models for time in opened.times})
    label = f"Time: 0 is after {times[0]:,} images, {len(times) - 1} after {times[-1]:,}"
    with gr.Row():
        time: Any = gr.Slider(0, max(len(times) - 1, 1), len(times) - 1, step=1, label=label, buttons=[])
        seed = seed_field()
    for _, opened in in_columns(models):
        outputs: list[Any] = [cats(opened.name, 4), gr.Markdown()]
        gr.on([opens, seed.change, time.change], partial(grown, opened, times), [time, seed], outputs, **AT_ONCE)


def grown(opened: Opened, times: list[int], index: int, seed: int) -> tuple[Shown, str]:
    """Return what the same noise was at a time, and when that is."""
    seen, model = opened.at(times[min(int(index), len(times) - 1)])
    alone = "" if len(opened.times) > 1 else " No other checkpoint is here."
    images = decode(model, opened.latents(seed, COUNT, "normal"))
    return [(to_pillow(image), None) for image in images], f"After **{seen:,}** images.{alone}"
