"""A cat's head in a photo, and where the weights of the network that finds it are; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

Box = tuple[float, float, float, float]
MIN_SCORE = 0.5  # of a head that is taken
WEIGHTS = Path(__file__).parents[2] / "pretrained" / "cat_heads" / "head.safetensors"


@dataclass(frozen=True)
class Head:
    """A cat's head: its box from ear tips to chin, (x0, y0, x1, y1) in pixels of the upright photo; score, 0 to 1."""

    box: Box
    score: float
