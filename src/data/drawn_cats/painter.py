"""Paints cat faces, back to front: backdrop, fur, muzzle, eyes, whiskers.

Lengths are in head radii, from the middle of the head, v downwards; colors are RGB in [0, 1]. Fields and shapes are
explained in shapes.py. Whatever is mirrored is drawn once, in m = |s|, the distance from the middle of the face.
"""

from collections.abc import Mapping

import numpy as np

from src.data.drawn_cats.shapes import Field, blend, bump, coverage, ellipse, lerp, ramp, rotate, stroke

COATS = ("black", "gray", "white", "ginger", "cream", "brown")


def _colors(text: str) -> Field:
    """Convert hexadecimal words to colors (K, 3, 1)."""
    return np.array([[[int(word[i : i + 2], 16) / 255] for i in (0, 2, 4)] for word in text.split()], np.float32)


# The fur and its markings in each of the COATS, and how white the muzzle is.
_LOOKS = {
    "solid": ("38353f 8b93a0 f3eee6 dc8c46 ecd0a4 7d5b46", "4a4650 a3aab5 fbf8f2 eaa45f f6e2c0 967259", 0.17),
    "tabby": ("7a6f64 a7adb6 dcd7d0 e39c55 f0d8b2 a98a66", "2c2727 484d58 88827d aa541f cd9b63 49331f", 0.6),
    "bicolor": ("36343c 858d9a b7a79c d98641 e6c391 7a5742", "f8f4ee f8f4ee f8f4ee f8f4ee f8f4ee f8f4ee", 1.0),
    "points": ("e9dcc8 e4e3e3 f3ede6 f6e6d0 f4e9d8 ecdbc4", "4a3932 6c7480 a5958f cc8a56 c39a6d 684635", 0.0),
    "calico": ("de8b46 e6c598 e8ac70 d67e3a edcb9d c98c54", "37333a 7f8794 625a60 3f3431 9c908c 4f392d", 1.0),
}
PATTERNS = tuple(_LOOKS)
_IRIS = _colors("c4692a dd9a2e d3bf45 86bd57 57b39c 4f9be0")
_NOSE_PINK, _NOSE_DARK, _EAR_PINK = _colors("f0a09a"), _colors("45292b"), _colors("e6a399")
_WHITE, _SHINE, _INK = _colors("f8f4ee"), _colors("fffefa"), _colors("241a1c")
_COOL_SHADE, _WARM_LIGHT = _colors("a09fac"), _colors("7d7468")


class CatPainter:
    """N cats of one pattern; `factors` holds a column (N, 1) for each name in drawn_cats.FACTORS."""

    def __init__(self, pattern: str, factors: Mapping[str, Field], image_size: int) -> None:
        self.pattern, self.f = pattern, factors
        f = factors
        axis = (np.arange(image_size, dtype=np.float32) + 0.5) * (2 / image_size) - 1
        self.y, self.x = (grid.reshape(1, -1) for grid in np.meshgrid(axis, axis, indexing="ij"))
        radius = 0.71 + 0.035 * f["scale"]
        self.pixel = 2 / (image_size * radius)
        u, v = rotate(self.x - 0.07 * f["shift_x"], self.y - 0.2 - 0.05 * f["shift_y"], 0.16 * f["roll"])
        self.u, self.v = u / radius, v / radius
        self.head_width = 1.04 + 0.09 * f["head_width"]
        self.eccentricity = np.square(self.u / self.head_width) + np.square(self.v / 0.96)
        # The face sits on the front of a ball: turning it moves the middle most.
        self.s = self.u - 0.25 * f["yaw"] / (1 + self.eccentricity)
        self.m = np.abs(self.s)

        coat, tone = np.rint(f["coat"][:, 0]).astype(int), 1 + 0.13 * f["tone"][:, :, None]
        fur, marking, whiteness = _LOOKS[self.pattern]
        self.fur = _colors(fur)[coat] * tone
        self.marking = _colors(marking)[coat] * (1 if self.pattern == "bicolor" else tone)
        self.muzzle = lerp(self.fur, _WHITE, whiteness)
        hue = f["eye_hue"][:, :, None]
        if self.pattern == "points":
            self.muzzle, hue = self.marking, 0.9 + 0.1 * hue
        left = np.minimum((hue * 5).astype(np.int8), 4)
        self.iris = lerp(_IRIS[left[:, 0, 0]], _IRIS[left[:, 0, 0] + 1], hue * 5 - left)

    def paint(self) -> Field:
        """Return images (N, 3, image_size^2) in [0, 1]."""
        self.image = self._backdrop()
        self._fur()
        self._muzzle()
        self._eyes()
        self._whiskers()
        return np.clip(self.image, 0, 1)

    def _backdrop(self) -> Field:
        """Return a background whose color sets off the fur, brighter where the light comes from."""
        f = self.f
        thirds = np.arange(3, dtype=np.float32)[:, None] / 3
        phase = 2 * np.pi * (f["backdrop"][:, :, None] + thirds)
        paleness = self.fur.mean(axis=1, keepdims=True)
        glow = bump(self.x - 0.9 * f["light"], self.y + 0.6, 2.2, 2.2)
        return (0.7 - 0.2 * paleness + 0.1 * np.cos(phase)) * (0.9 - 0.12 * self.y + 0.3 * glow)[:, None]

    def _fur(self) -> None:
        u, v, pixel = self.u, self.v, self.pixel
        angle = np.arctan2(v - 0.12, self.m)  # 0 to the side, pi / 2 to the chin
        head, body = self._head(angle), ellipse(u, v - 1.85, 1.2, 1.15)
        ears, along, across = self._ears()
        strands = self._strands(angle)
        head, ears, body = head + 0.009 * strands, ears + 0.005 * strands, body + 0.03 * strands
        in_head, in_ears = coverage(head, pixel), coverage(ears, pixel)
        outline = np.maximum(np.maximum(in_head, in_ears), coverage(body, pixel))
        in_ears *= 1 - in_head

        color = self._coat(angle, in_ears, 0.015 * strands)
        hollow = coverage(ears + 0.11, 0.05 + pixel) * ramp(along, -0.1, 0.25) * in_ears
        pink = lerp(_EAR_PINK, self.fur, 0.25) * (0.8 + 0.35 * along)[:, None]
        blend(color, pink, hollow)
        hairs = coverage(across + 0.1 + 0.16 * along - 0.05 * np.sin(22 * along), 0.08 + pixel)
        blend(color, lerp(self.fur, _WHITE, 0.45), 0.6 * hairs * hollow * ramp(along, 0.75, 0.3))

        color *= _COOL_SHADE + _WARM_LIGHT * self._shade(head, in_head, strands)[:, None]
        shadow = np.square(np.maximum(1 - np.maximum(head, 0) / 0.6, 0))
        self.image *= 1 - 0.3 * shadow[:, None]
        blend(self.image, color, outline)

    def _head(self, angle: Field) -> Field:
        """Return the distance to the head, an egg with tufts on its cheeks."""
        tufts = (1 - np.abs(np.sin(8 * angle - 0.6))) * bump(angle - 0.55, 0 * angle, 0.8, 1)
        width = self.head_width * (1 + 0.12 * self.v - 0.1 * self.v * self.v)
        egg = np.sqrt(np.square(self.u / width) + np.square(self.v / 0.94))
        return (egg - 1) * 0.94 - tufts * (0.03 + 0.17 * self.f["fluff"])

    def _strands(self, angle: Field) -> Field | float:
        """Return fine hairs, in [-1, 1]; too fine to see in small images, where they fade to 0."""
        visibility = np.clip(1.6 - 40 * self.pixel, 0, 1)
        if not visibility.any():
            return 0.0
        wave = 3 * np.sin(14 / (0.6 + self.eccentricity) + 7 * angle)
        return visibility * (0.6 * np.sin(61 * angle + wave) + 0.4 * np.sin(38 * angle - 2 * wave))

    def _ears(self) -> tuple[Field, Field, Field]:
        """Return the distance to the ears, and the place along them (0 at the base, 1 at the tip) and across."""
        f = self.f
        length, tilt = 0.9 + 0.16 * f["ear_size"], 0.43 + 0.2 * f["ear_tilt"]
        across, along = rotate(np.abs(self.u) - 0.52 * self.head_width, -(self.v + 0.5), -tilt)
        along = along / length
        half_width = (0.54 + 0.04 * f["ear_size"]) * (1 - along) * (0.9 + 0.45 * along)
        sides = (np.sqrt(across * across + 0.003) - half_width) * 0.87
        return np.maximum(sides, -0.35 - along), along, across

    def _shade(self, head: Field, in_head: Field, strands: Field | float) -> Field:
        """Return the light on the fur: on the head as on a ball; ears and body are behind it, in its shade."""
        side = 0.5 * self.f["light"] * self.u
        ball = side / self.head_width - 0.5 * self.v + 0.62 * np.sqrt(np.maximum(1.02 - self.eccentricity, 0))
        ball += 0.25 * bump(self.s - 0.05 * self.f["light"], self.v + 0.1, 0.2, 0.6)  # the bridge of the nose
        near = np.maximum(1 - np.maximum(head, 0) / 0.4, 0)
        behind = 0.42 + 0.4 * side - 0.3 * near - 0.25 * (self.v > 0)
        return lerp(behind, ball, in_head) + 0.07 * strands

    def _coat(self, angle: Field, in_ears: Field, ruffle: Field | float) -> Field:
        """Return the color of the fur (N, 3, P) before light falls on it; hairs ruffle the edges of the markings."""
        f, s, v, pixel = self.f, self.s + ruffle, self.v, self.pixel
        m = np.abs(s)
        size, shift = f["marking_size"], f["marking_shift"]
        color = np.repeat(self.fur, m.shape[1], axis=2)
        if self.pattern == "solid":
            blend(color, self.marking, bump(s - 0.2 * shift, v + 0.1, 0.8, 0.9 + 0.3 * size))
        if self.pattern == "tabby":
            forehead = ramp(v, -0.25, -0.5) * ramp(m, 0.7, 0.5)
            cheeks = ramp(m, 0.58, 0.72) * ramp(v, 0.75, 0.5) * ramp(v, -0.35, -0.1)
            rays = np.cos((angle + ruffle + np.pi / 2) * (13 + 0.7 * size) + 1.2 * shift * s)
            stripes = ramp(rays, -0.05 - 0.35 * size, 0.5 - 0.25 * size) * np.maximum(forehead, cheeks)
            blend(color, lerp(self.fur, _WHITE, 0.3), 0.8 * bump(m - 0.36, v + 0.02, 0.42, 0.45))
            blend(color, self.marking, 0.85 * stripes)
            blend(color, self.marking, 0.5 * in_ears)
        if self.pattern == "points":
            mask = bump(s - 0.1 * shift, v - 0.28, 0.95 + 0.12 * size, 0.95 + 0.12 * size)
            blend(color, self.marking, np.maximum(ramp(mask, 0.0, 0.8), in_ears))
        if self.pattern == "calico":
            border = 0.3 * np.sin(4 * v + 3 * shift) + 0.2 * shift
            blend(color, self.marking, coverage(border - s, 0.04 + pixel))
        if self.pattern in ("bicolor", "calico"):
            blaze = 0.11 + 0.07 * size + (0.8 + 0.2 * size) * np.maximum(v + 0.12, 0)
            middle = np.abs(s - 0.16 * shift * ramp(v, 0.1, -0.8))
            blend(color, _WHITE, coverage(middle - blaze * ramp(v, -0.95, -0.4), 0.05 + pixel))
        return color

    def _crop(self, top: float, bottom: float) -> tuple[Field, Field, Field, Field]:
        """Return the image where top < v < bottom, as a view, and s, m and v there."""
        pixels = np.flatnonzero(((self.v > top) & (self.v < bottom)).any(axis=0))
        rows = slice(pixels[0], pixels[-1] + 1)
        return self.image[:, :, rows], self.s[:, rows], self.m[:, rows], self.v[:, rows]

    def _muzzle(self) -> None:
        f = self.f
        image, s, x, y = self._crop(-0.1, 1.2)
        size = 1.03 + 0.15 * f["muzzle_size"]
        pixel = self.pixel / size
        s, x, y = s / size, x / size, (y - 0.2) / size  # from the nose
        puffs = ellipse(x - 0.17, y - 0.25, 0.27, 0.2)
        blend(image, 0.45 * image, 0.55 * bump(x, y - 0.52, 0.5, 0.26) * ramp(puffs, -0.03, 0.1))
        blend(image, self.muzzle * 0.85, 0.9 * coverage(ellipse(x, y - 0.44, 0.2, 0.13), 0.06 + pixel))
        light = 1.06 - 0.4 * y + 0.16 * bump(x - 0.17, y - 0.19, 0.24, 0.2) + 0.3 * f["light"] * s
        blend(image, self.muzzle * light[:, None], 0.95 * coverage(puffs, 0.1 + pixel))

        ink = lerp(_INK, self.fur, 0.15)
        lips = np.abs(np.sqrt(np.square(x - 0.115) + np.square(y - 0.2)) - 0.115)
        lips = np.where(y > 0.2, lips, np.sqrt(np.square(x - 0.23) + np.square(y - 0.2)))
        philtrum = np.maximum(x, np.abs(y - 0.12) - 0.09)
        blend(image, ink, 0.8 * stroke(np.minimum(lips, philtrum), 0.017, pixel))
        for across, down in ((0.17, 0.2), (0.24, 0.27), (0.29, 0.19)):
            blend(image, ink, 0.4 * coverage(ellipse(x - across, y - down, 0.014, 0.014), 0.01 + pixel))

        side, top = 0.78 * x + 0.63 * (y - 0.1), 0.12 * x - y - 0.045
        nose = 0.5 * (side + top + np.sqrt(np.square(side - top) + 0.05**2))  # the larger, its corner rounded off
        tone = lerp(_NOSE_PINK, _NOSE_DARK, f["nose_tone"][:, :, None])
        blend(image, 0.45 * tone, coverage(nose - 0.022, 0.02 + pixel))
        blend(image, tone * (1.1 - 3.0 * y)[:, None], coverage(nose, 0.015 + pixel))
        blend(image, _WHITE, 0.45 * bump(s - 0.04 * f["light"], y + 0.015, 0.06, 0.03))

    def _eyes(self) -> None:
        f = self.f
        image, s, m, v = self._crop(-0.65, 0.55)
        size = 1.12 + 0.15 * f["eye_size"]
        pixel = self.pixel / size
        x, y = rotate((m - 0.42) / size, (v + 0.06) / size, -0.2)
        lid = np.where(y < 0, 0.205 + 0.045 * f["eye_openness"], 0.175 + 0.015 * f["eye_openness"])
        almond = np.abs(y) - lid * (1 - np.square(x / 0.27))
        almond /= np.sqrt(1 + np.square(2 / 0.27**2 * lid * x))
        blend(image, 0.5 * image, 0.4 * bump(x + 0.05, y + 0.02, 0.42, 0.36))
        blend(image, lerp(_INK, self.fur, 0.06), coverage(almond - 0.035, 0.025 + pixel))

        # Both eyes look and shine the same way, so these are not mirrored.
        x = x * np.sign(s) - 0.05 * f["gaze"]
        y = y + 0.012
        radius = np.sqrt(x * x + y * y)
        light = (0.85 + 1.1 * y + 0.25 * bump(x, y - 0.1, 0.2, 0.16)) * (1 - 0.55 * ramp(radius, 0.15, 0.23))
        iris = self.iris * light[:, None]
        blend(iris, _INK, coverage(ellipse(x, y, 0.035 + 0.085 * f["pupil_width"], 0.15), 0.02 + pixel))
        glint = 0.07 * f["light"]
        blend(iris, _SHINE, coverage(ellipse(x - glint, y + 0.063, 0.042, 0.042), 0.02 + pixel))
        blend(iris, _SHINE, 0.35 * coverage(ellipse(x + glint, y - 0.1, 0.025, 0.025), 0.02 + pixel))
        blend(image, iris, coverage(almond, 0.01 + pixel))

    def _whiskers(self) -> None:
        image, _, m, v = self._crop(-0.1, 1.2)
        along = m - 0.28
        lines = np.zeros_like(v)
        for start, slope in ((0.36, -0.1), (0.42, 0.06), (0.48, 0.22)):
            tilt = slope - 0.12 * self.f["whisker_lift"]
            line = start + along * (tilt + 0.04 * along)
            steepness = tilt + 0.08 * along
            distance = np.abs(v - line) / np.sqrt(1 + steepness * steepness)
            lines = np.maximum(lines, stroke(distance, 0.011, self.pixel))
        blend(image, _SHINE, 0.8 * lines * ramp(along, 0, 0.1) * ramp(along, 1.05, 0.6))
