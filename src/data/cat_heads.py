"""Find cats' heads in a photo: small networks on the feature maps of EfficientNet-Lite0, trained by this project.

pretrained/cat_heads holds their weights, the command that made them and how good they are.
"""

import threading
from functools import cache

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from src.data.decoding import HEAD_WEIGHTS, Box, Head
from src.metrics.features import EfficientNetLite0

SIDES = (256, 512)  # pixels of the longer side of the copies that are searched
NETWORKS = 2  # of different seeds, whose outputs are averaged
STRIDE, REFERENCE = 16, 64  # pixels between the cells of a feature map; of a box of size exp(0)
LOADING = threading.Lock()  # photos are searched in threads
CAT_CLASSES = slice(281, 286)  # of ImageNet
MAX_OVERLAP = 0.4  # of two heads: the share that both cover
MAX_CANDIDATES = 5  # of a photo
MIN_LOGIT = -2.0  # of a candidate for the second look
SECOND_SIDE, SAME_HEAD = 256, 0.3  # pixels of the second look; overlap of what it finds with the candidate


class HeadNetwork(nn.Module):
    """Feature maps of strides 16 (N, 112, H, W) and 32 (N, 320, H/2, W/2) -> (N, 5, H, W): a logit and a box a cell.

    The box is an offset of its center from the cell's, in cells, and the logarithms of its width and height.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(112, width, 1), nn.Conv2d(320, width, 1)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Conv2d(width, 5, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        joined = relu(self.fine(fine) + interpolate(self.coarse(coarse), scale_factor=2, mode="nearest"))
        return self.output(relu(self.second(relu(self.first(joined)))))


class HeadFinder(nn.Module):
    """Finds the heads in a photo: first in small copies of it, then looks at each place again, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.lite0, self.heads = EfficientNetLite0().network, nn.ModuleList(HeadNetwork() for _ in range(NETWORKS))
        self.heads.to(memory_format=torch.channels_last).requires_grad_(False)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return Lite0's maps of strides 16 and 32: uint8 (N, 3, H, W), H and W multiples of 32."""
        network = self.lite0
        x = (images.float().contiguous(memory_format=torch.channels_last) - 127) / 128
        fine = nn.Sequential(*network._blocks[:11])(network._swish(network._bn0(network._conv_stem(x))))
        return fine, nn.Sequential(*network._blocks[11:])(fine)

    def boxes(self, maps: Tensor) -> Tensor:
        """Return the logit and the box (x0, y0, x1, y1) of every cell, (N, H * W, 5), in pixels of the input."""
        rows, columns = (torch.arange(size) + 0.5 for size in maps.shape[-2:])
        centers = torch.stack([maps[:, 1] + columns, maps[:, 2] + rows[:, None]], -1) * STRIDE
        halves = maps[:, 3:].movedim(1, -1).clamp(-4, 4).exp() * (REFERENCE / 2)
        return torch.cat([maps[:, :1].movedim(1, -1), centers - halves, centers + halves], -1).flatten(1, 2)

    @torch.inference_mode()
    def forward(self, photo: Image.Image) -> list[Head]:
        """Return the heads in an upright photo (RGB), the best first; those with scores below MIN_SCORE are guesses."""
        whole = (0.0, 0.0, float(photo.width), float(photo.height))
        found = torch.cat([self.search(photo, whole, side)[0] for side in SIDES])
        likely = without_overlaps(found[found[:, 0] > min(MIN_LOGIT, found[:, 0].max().item() - 0.1)])[:MAX_CANDIDATES]
        looks = [look for row in likely.tolist() if (look := self.second_look(photo, row))]
        kept = without_overlaps(torch.tensor(looks).reshape(-1, 5), of_smaller=True)
        kept[:, 1:] = kept[:, 1:].clamp(min=0).minimum(torch.tensor([photo.width, photo.height] * 2))
        kept[:, 0].sigmoid_()
        return [Head((x0, y0, x1, y1), score) for score, x0, y0, x1, y1 in kept.tolist()]

    def second_look(self, photo: Image.Image, candidate: list[float]) -> list[float] | None:
        """Return the score's logit and the box of a candidate, seen again at twice its size; None if it was none."""
        region = surroundings(candidate[1:], photo.size)
        found, coarse = self.search(photo, region, SECOND_SIDE)
        found = found[overlaps(found[:, 1:], torch.tensor(candidate[1:])) > SAME_HEAD]
        if not len(found):
            return None
        best = found[found[:, 0].argmax()]
        # The first look knows the surroundings, the second one the details; both weights by cross-validation.
        box = torch.tensor(candidate[1:]).lerp(best[1:], 0.7).tolist()
        network = self.lite0
        pooled = network._swish(network._bn1(network._conv_head(coarse))).mean(dim=(2, 3))
        share = network._fc(pooled).softmax(1)[0, CAT_CLASSES].sum()
        score = (candidate[0] + best[0].item()) / 2 + 0.35 * torch.logit(share, eps=1e-4).item() + 0.45
        return [score, *box]

    def search(self, photo: Image.Image, region: Box, side: int) -> tuple[Tensor, Tensor]:
        """Return every cell's logit and box in pixels of the photo, (M, 5), and the map of stride 32."""
        width, height = region[2] - region[0], region[3] - region[1]
        scale = side / max(width, height)
        size = max(2 * STRIDE, round(width * scale / 32) * 32), max(2 * STRIDE, round(height * scale / 32) * 32)
        copy = photo.resize(size, Image.Resampling.BILINEAR, region, reducing_gap=2.0)
        fine, coarse = self.features(torch.from_numpy(np.array(copy)).permute(2, 0, 1)[None])
        found = self.boxes(torch.stack([head(fine, coarse) for head in self.heads]).mean(dim=0))[0]
        to_photo = torch.tensor([width / size[0], height / size[1]] * 2)
        found[:, 1:] = found[:, 1:] * to_photo + torch.tensor([region[0], region[1]] * 2)
        return found, coarse


def surroundings(box: list[float], size: tuple[int, int]) -> Box:
    """Return a square region of twice a box's size around it, moved into the photo or cut to it."""
    side = 2 * max(box[2] - box[0], box[3] - box[1])
    region = []
    for axis in (0, 1):
        extent = min(side, size[axis])
        start = min(max((box[axis] + box[axis + 2] - extent) / 2, 0), size[axis] - extent)
        region.append((start, start + extent))
    return region[0][0], region[1][0], region[0][1], region[1][1]


def overlaps(boxes: Tensor, box: Tensor, of_smaller: bool = False) -> Tensor:
    """Return the intersection of boxes (M, 4) with one box (4,) over their union, or over the smaller: (M,)."""
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp(min=0)
    areas, area, common = (boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod(), sides.prod(1)
    return common / (torch.minimum(areas, area) if of_smaller else areas + area - common).clamp(min=1e-6)


def without_overlaps(found: Tensor, of_smaller: bool = False) -> Tensor:
    """Return the best of each place, the best first: scores and boxes, (M, 5)."""
    found, kept = found[found[:, 0].argsort(descending=True)], []
    while len(found):
        kept.append(found[0])
        found = found[overlaps(found[:, 1:], found[0, 1:], of_smaller) <= MAX_OVERLAP]
    return torch.stack(kept) if kept else found


@cache
def head_finder() -> HeadFinder:
    """Return the trained finder."""
    finder = HeadFinder()
    finder.heads.load_state_dict(load_file(HEAD_WEIGHTS))
    return finder.eval()


def find_heads(photo: Image.Image) -> list[Head]:
    """Return the heads in an upright photo, the best first; scores of MIN_SCORE and more count as found."""
    with LOADING:
        finder = head_finder()
    return finder(photo.convert("RGB"))
