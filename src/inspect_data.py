"""`python -m src.inspect_data data=folder data.root=PATH`: writes a page that describes a set of images."""

from src.config.cli import run
from src.core.types import ObjectConfig, OutputPath


def inspect_data(data: ObjectConfig, output: OutputPath) -> None:
    """Write index.html, which needs no other file, to the folder output."""
    from pathlib import Path

    from src.config.validation import instantiate
    from src.reports.inspect_data.page import write_page

    images = instantiate(data)
    print(f"data: {images.source.description}", flush=True)
    numbers = write_page(images, data, Path(output))
    for name, number in numbers.items():
        print(f"{number:10,.0f}  {name}")
    print(f"the page: {Path(output) / 'index.html'}")


if __name__ == "__main__":
    run(inspect_data)
