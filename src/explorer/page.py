"""The page: its tabs, its look, and the server, which answers this machine alone and asks nobody anything."""

import os
import socket
import tempfile
import threading
import webbrowser
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from src.core.errors import UserError
from src.explorer import tabs
from src.explorer.opened import Opened

# The names of fonts of the system: Gradio's own theme would fetch one from Google.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
FIRST_PORT = 7860
STYLE = """
.gradio-container {max-width: 1280px !important; width: 100%; min-width: 0; margin: 0 auto}
.cat img {width: 100% !important; height: 100% !important; object-fit: contain; image-rendering: pixelated}
.cats img {image-rendering: pixelated}
.cats .grid-wrap {max-height: none !important}
.stays {position: sticky; top: 0; z-index: 2; background: var(--background-fill-primary); align-self: start}
@media (max-width: 640px) {
    .gradio-container {padding: 8px !important}
    .cats .grid-container {--grid-cols: 3 !important; gap: 2px !important}
}
"""
INTRODUCTION = "Images of cats that do not exist. Keep the ones you like; they can be ends of a way between two cats."
TABS = {
    "Draw": tabs.draw,
    "Directions": tabs.directions,
    "Between two cats": tabs.between,
    "My cat": tabs.my_cat,
    "Nearest": tabs.nearest,
    "Growing up": tabs.growing_up,
}


def build(models: list[Opened]) -> gr.Blocks:
    """Return the page of some models, side by side."""
    with gr.Blocks(title="Cat Faces", analytics_enabled=False, delete_cache=(3_600, 3_600)) as page:
        gr.Markdown(f"# Cat Faces\n{INTRODUCTION}\n\n" + "\n\n".join(f"**{opened.name}**" for opened in models))
        kept = gr.State([])
        for name, lay_out in TABS.items():
            with gr.Tab(name) as tab:
                lay_out(page.load if name == "Draw" else tab.select, models, kept)
        tabs.favorites(models, kept)
    return page


def application(models: list[Opened], folder: str) -> FastAPI:
    """Return what answers the browser. folder: of the images on the page."""
    # Before the page is built: its parts remember where they may read.
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    page, app = build(models), FastAPI()

    look: Any = {"theme": gr.themes.Default(**FONTS), "css": STYLE, "footer_links": []}  # type: ignore[arg-type]
    return gr.mount_gradio_app(app, page, "/", run_history=False, ssr_mode=False, mcp_server=False, **look)


def listening(host: str, port: int | None) -> socket.socket:
    """Return a socket at the port, or the first free one from FIRST_PORT on. Raises UserError where it can't be had."""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + 100):
        try:
            return socket.create_server((host, candidate))
        except OSError as error:
            reason = error.strerror
    raise UserError(f"can't serve at host={host} port={port}: {reason}; give another, or port=null for a free one")


def explore(paths: list[str], host: str, port: int | None, open_browser: bool, device: str) -> None:
    """Open the models and serve their page until Ctrl-C."""
    models = [Opened(path, device) for path in paths]
    with listening(host, port) as sock, tempfile.TemporaryDirectory(prefix="cat-faces-") as folder:
        tempfile.tempdir = folder
        url = f"http://{host}:{sock.getsockname()[1]}/"
        config = uvicorn.Config(application(models, folder), log_level="warning", timeout_graceful_shutdown=2)
        print(f"the explorer is at {url} (Ctrl-C ends it)", flush=True)
        if open_browser:
            threading.Timer(1, webbrowser.open, [url]).start()
        uvicorn.Server(config).run([sock])
