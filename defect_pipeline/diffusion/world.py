"""A procedural world of surfaces with marks on them: what the embedded backbone learns before it meets a component.

Everything is drawn in batches of torch operations on one device. A surface is a material (spectral noise with a
direction and a roughness of its own, lay lines, weave, corrosion), tinted, structured by seams, holes and edges, and
lit unevenly. A mark is a mask (cracks, scratches, pits, stains, chips ...) and the way it changes the surface, said in
the caption.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

MATERIALS = (
    "brushed metal", "cast metal", "milled metal", "painted metal", "corroded metal",
    "concrete", "ceramic", "fabric", "rolled steel", "plastic",
)  # fmt: skip
MARKS = ("crack", "scratch", "pit", "spot", "stain", "chip", "fray", "patch", "inclusion", "burn")
SLACK = 3  # px
NOUNS = ("surface", "component", "part", "plate")


@dataclass(frozen=True)
class Surfaces:
    """images (n, 3, S, S) in [0, 1]; masks (n, S, S) bool, empty if unmarked; one caption and mark ("" = none) each."""

    images: Tensor
    masks: Tensor
    captions: list[str]
    marks: list[str]


class _Draw:
    """Per-image random numbers of a batch, shaped (n, 1, 1) to broadcast over pixels."""

    def __init__(self, n: int, size: int, generator: Generator) -> None:
        self.n, self.size, self.generator, self.device = n, size, generator, generator.device
        axis = (torch.arange(size, device=self.device) + 0.5) / size
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")  # (S, S) in (0, 1)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        shape = shape or (1, 1)
        return low + (high - low) * torch.rand((self.n, *shape), generator=self.generator, device=self.device)

    def choose(self, n_options: int) -> Tensor:
        return torch.randint(0, n_options, (self.n, 1, 1), generator=self.generator, device=self.device)

    def chance(self, p: float) -> Tensor:
        return (self.uniform() < p).float()

    def rotated(self) -> tuple[Tensor, Tensor]:
        """Coordinates (n, S, S) about the centre along and across a random direction; axis-aligned half of the time."""
        angle = self.uniform(0, math.pi)
        angle = torch.where(self.chance(0.5) > 0, (angle / (math.pi / 2)).round() * math.pi / 2, angle)
        x, y = self.x - 0.5, self.y - 0.5
        return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()

    def noise(self, roughness: Tensor, stretch: Tensor, angle: Tensor, low: Tensor | float = 0.0) -> Tensor:
        """Gaussian fields (n, S, S) of unit variance with power falling as f ** -roughness, drawn out along ``angle``
        by ``stretch`` and without frequencies below ``low`` cycles per image."""
        fy = torch.fft.fftfreq(self.size, 1 / self.size, device=self.device)[:, None]
        fx = torch.fft.rfftfreq(self.size, 1 / self.size, device=self.device)[None]
        along, across = fx * angle.cos() + fy * angle.sin(), fy * angle.cos() - fx * angle.sin()
        f = ((along * stretch) ** 2 + across**2).sqrt()
        amplitude = torch.where((f > 0.5) & (f > low), f.clamp(min=0.5) ** -roughness, torch.zeros_like(f))
        white = torch.randn(self.n, self.size, self.size, generator=self.generator, device=self.device)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(self.size, self.size))
        return field / field.flatten(1).std(1).clamp(min=1e-6)[:, None, None]


def draw_surfaces(n: int, size: int, generator: Generator, *, marked: float = 0.7) -> Surfaces:
    """n surfaces of ``size`` pixels, a share ``marked`` of them with one kind of mark; on the generator's device."""
    draw = _Draw(n, size, generator)
    materials = draw.choose(len(MATERIALS))
    relief, structure = _material(draw, materials), _structure(draw)
    kinds = draw.choose(len(MARKS))
    has_mark = draw.chance(marked)
    soft = _mark_mask(draw, kinds) * has_mark  # (n, S, S) in [0, 1]
    effect, tint, dark = _mark_effect(draw, kinds, soft)
    relief = relief * (1 - 0.7 * soft * draw.chance(0.5)) + effect
    light = _light(draw)
    grey = (light * (structure.shade + relief)).clamp(0, 1.3)
    images = _colour(draw, grey, soft, tint)
    images = torch.where(structure.void[:, None] > 0.5, images * 0.08, images)
    images = (
        images
        + torch.randn(images[:, :1].shape, generator=generator, device=draw.device) * draw.uniform(0, 0.006)[:, None]
    )
    contrast, gain = draw.uniform(0.85, 1.15)[:, None], draw.uniform(0.85, 1.15)[:, None]
    images = (((images - 0.5) * contrast + 0.5) * gain).clamp(0, 1)
    masks = _annotated(draw, soft > 0.25) & (structure.void < 0.5)
    marks = [
        MARKS[k] if m else "" for k, m in zip(kinds.flatten().tolist(), masks.flatten(1).any(1).tolist(), strict=True)
    ]
    captions = _captions(draw, materials, marks, dark)
    return Surfaces(images, masks, captions, marks)


def _material(draw: _Draw, kind: Tensor) -> Tensor:
    """Relief (n, S, S) about zero of each image's material."""
    angle = draw.uniform(0, math.pi)
    angle = torch.where(draw.chance(0.6) > 0, (angle / (math.pi / 2)).round() * math.pi / 2, angle)

    def per_kind(*values: tuple[float, float]) -> Tensor:  # one (low, high) range for each of MATERIALS
        table = torch.tensor(values, device=draw.device)[kind.flatten()]
        return (table[:, 0] + draw.uniform().flatten() * (table[:, 1] - table[:, 0]))[:, None, None]

    one = (1.0, 1.0)
    stretch = per_kind((8, 40), one, (6, 20), one, (1, 2), one, one, (1, 3), (3, 20), one)
    rough = per_kind(
        (0.6, 1.2), (0.9, 1.6), (0.6, 1.2), (1.2, 2), (1, 1.6), (0.7, 1.3), (1.2, 2), (0.8, 1.2), (0.6, 1.3), (1.2, 2)
    )
    level = per_kind(
        (0.01, 0.035), (0.01, 0.03), (0.01, 0.03), (0.003, 0.012), (0.015, 0.05), (0.01, 0.035), (0.003, 0.01),
        (0.01, 0.02), (0.01, 0.04), (0.003, 0.01),
    )  # fmt: skip
    relief = draw.noise(rough, stretch, angle) * level
    relief = relief + draw.noise(draw.uniform(1.2, 2.2), draw.uniform(1, 4), angle) * draw.uniform(0, 0.03)
    fine = (
        draw.noise(draw.uniform(0, 0.5), stretch.sqrt(), angle, low=draw.uniform(6, 24))
        * draw.uniform(0, 0.01)
        * draw.chance(0.5)
    )

    along, across = draw.rotated()
    curve = draw.uniform(-1.5, 1.5) * along**2
    lay = torch.sin(2 * math.pi * draw.uniform(10, 40) * (across + curve) + 2 * relief / level.clamp(min=0.01))
    milled = (kind == 2).float() * draw.uniform(0.015, 0.07)
    weave = torch.sin(2 * math.pi * draw.uniform(12, 36) * across) * torch.sin(
        2 * math.pi * draw.uniform(12, 36) * along
    )
    woven = (kind == 7).float() * draw.uniform(0.02, 0.08)
    patches = torch.sigmoid((draw.noise(draw.uniform(1.0, 1.6), draw.uniform(1, 2), angle) - 0.8) * 6)
    rust = (kind == 4).float() * draw.uniform(-0.35, -0.05)
    return relief + fine + milled * lay + woven * weave + rust * patches


@dataclass(frozen=True)
class _Structure:
    shade: Tensor  # (n, S, S) brightness about 0.5
    void: Tensor  # (n, S, S) 1 where there is no surface


def _structure(draw: _Draw) -> _Structure:
    """Seams, rows of holes, steps and an outline; each image has some of them or none."""
    pixel = 1 / draw.size
    shade = draw.uniform(0.45, 0.7).expand(-1, draw.size, draw.size)
    for p in (0.3, 0.1):  # seams: a dark line with a lit lip, or a raised weld bead
        along, across = draw.rotated()
        d = across + draw.uniform(-0.35, 0.35) + draw.uniform(-0.4, 0.4) * along**2
        width = draw.uniform(0.5, 5) * pixel
        line = -draw.uniform(0.05, 0.4) * torch.exp(-((d / width) ** 2))
        lip = draw.uniform(0, 0.25) * torch.exp(-(((d - 2 * width) / width) ** 2))
        shade = shade + draw.chance(p) * (line + lip)
    for p in (0.15,):  # a step between two plates
        along, across = draw.rotated()
        d = across + draw.uniform(-0.4, 0.4)
        shade = shade + draw.chance(p) * draw.uniform(-0.25, 0.25) * torch.sigmoid(d / (draw.uniform(0.5, 3) * pixel))
    along, across = draw.rotated()  # a grid of holes on a bent sheet
    pitch, aspect = draw.uniform(0.14, 0.5), draw.uniform(0.8, 1.6)
    u = along / pitch + draw.uniform(0, 1)
    v = (
        across * (1 + draw.uniform(0, 0.8) * along**2) / (pitch * aspect)
        + draw.uniform(0, 1)
        + 0.5 * (u.floor() % 2) * draw.chance(0.4)
    )
    du, dv = (u - u.floor() - 0.5) * pitch, (v - v.floor() - 0.5) * pitch * aspect
    rows = (v.floor().abs() < draw.uniform(0.5, 5)).float()
    r = (du**2 + (dv * draw.uniform(0.6, 1.4)) ** 2).sqrt() - pitch * draw.uniform(0.12, 0.32)
    holes = draw.chance(0.45) * rows
    soft = draw.uniform(0.6, 2.0) * pixel
    rim = torch.exp(-((r / (2.0 * soft)) ** 2)) * draw.uniform(0, 0.3)
    inside = torch.sigmoid(-r / soft) * holes
    shade = shade + rim * holes
    shade = shade * (1 - inside * draw.uniform(0.8, 0.97))
    along, across = draw.rotated()  # the outline of the part, and a round field of view
    edge = (across + draw.uniform(0.25, 0.5) < 0).float() * draw.chance(0.1)
    lens = ((draw.x - 0.5) ** 2 + (draw.y - 0.5) ** 2).sqrt()
    stop = (lens > draw.uniform(0.47, 0.7)).float() * draw.chance(0.12)
    return _Structure(shade, torch.maximum(edge, stop))


def _light(draw: _Draw) -> Tensor:
    """Illumination (n, S, S) about one: slope, vignette, hot spot and the sheen of a cylinder."""
    along, across = draw.rotated()
    light = 1 + draw.uniform(-0.4, 0.4) * along
    cx, cy = draw.uniform(-0.1, 1.1), draw.uniform(-0.1, 1.1)
    r2 = (draw.x - cx) ** 2 + (draw.y - cy) ** 2
    light = light + draw.chance(0.3) * draw.uniform(0.1, 0.4) * torch.exp(-r2 / draw.uniform(0.03, 0.4))
    sheen = torch.exp(-(((across - draw.uniform(-0.3, 0.3)) / draw.uniform(0.08, 0.4)) ** 2))
    light = light + draw.chance(0.3) * draw.uniform(-0.2, 0.3) * sheen
    return light * (1 - draw.chance(0.4) * draw.uniform(0, 1.2) * ((draw.x - 0.5) ** 2 + (draw.y - 0.5) ** 2))


def _segments_distance(draw: _Draw, points: Tensor) -> Tensor:
    """Distance (n, S, S) of every pixel to the polylines ``points`` (n, k, 2)."""
    a, b = points[:, :-1, None, None], points[:, 1:, None, None]  # (n, k-1, 1, 1, 2)
    p = torch.stack([draw.x, draw.y], -1)  # (S, S, 2)
    ab = b - a
    h = (((p - a) * ab).sum(-1) / ab.square().sum(-1).clamp(min=1e-8)).clamp(0, 1)
    return ((p - a - h[..., None] * ab).square().sum(-1)).amin(1).sqrt()


def _walk(draw: _Draw, start: Tensor, heading: Tensor, step: Tensor, wander: Tensor, k: int) -> Tensor:
    """Random walks (n, k, 2) from ``start`` (n, 1, 2)."""
    turns = torch.randn(draw.n, k - 1, generator=draw.generator, device=draw.device) * wander.flatten()[:, None]
    angle = heading.flatten()[:, None] + turns.cumsum(1) * 0.5 + turns
    moves = torch.stack([angle.cos(), angle.sin()], -1) * step.flatten()[:, None, None]
    return torch.cat([start, start + moves.cumsum(1)], 1)


def _mark_mask(draw: _Draw, kind: Tensor) -> Tensor:
    """Soft masks (n, S, S) of each image's kind of mark, computed only for the images that have the kind."""
    masks = torch.zeros(draw.n, draw.size, draw.size, device=draw.device)
    for index, name in enumerate(MARKS):
        members = (kind.flatten() == index).nonzero().flatten()
        if len(members):
            part = _Draw(len(members), draw.size, draw.generator)
            masks[members] = _SHAPES[name](part)
    return masks


def _annotated(draw: _Draw, marks: Tensor) -> Tensor:
    """Marks (n, S, S) bool as people outline them: exactly, or up to SLACK pixels too wide."""
    wide = torch.stack([F.max_pool2d(marks.float(), 2 * r + 1, stride=1, padding=r) for r in range(SLACK + 1)], dim=1)
    chosen = draw.choose(SLACK + 1)[..., None].expand(-1, 1, draw.size, draw.size)
    return wide.gather(1, chosen)[:, 0] > 0


def _crack(draw: _Draw) -> Tensor:
    pixel = 1 / draw.size
    start, heading = draw.uniform(0.1, 0.9, 1, 2), draw.uniform(0, 2 * math.pi)
    main = _walk(draw, start, heading, draw.uniform(0.02, 0.07), draw.uniform(0.1, 0.6), 12)
    fork = _walk(
        draw, main[:, 5:6], heading + draw.uniform(-1.2, 1.2), draw.uniform(0.01, 0.05), draw.uniform(0.1, 0.6), 7
    )
    width = draw.uniform(0.5, 2.2) * pixel
    d = _segments_distance(draw, main)
    forked = torch.minimum(d, _segments_distance(draw, fork) + 0.3 * width)
    d = torch.where(draw.chance(0.6) > 0, forked, d)
    return torch.sigmoid((width - d) / (0.35 * pixel))


def _scratch(draw: _Draw) -> Tensor:
    pixel = 1 / draw.size
    start, heading = draw.uniform(0.1, 0.9, 1, 2), draw.uniform(0, 2 * math.pi)
    width, mask = draw.uniform(0.4, 1.6) * pixel, torch.zeros(draw.n, draw.size, draw.size, device=draw.device)
    for p in (1.0, 0.5, 0.3):
        line = _walk(
            draw,
            start + draw.uniform(-0.06, 0.06, 1, 2),
            heading + draw.uniform(-0.1, 0.1),
            draw.uniform(0.03, 0.14),
            draw.uniform(0, 0.05),
            6,
        )
        mask = torch.maximum(
            mask, draw.chance(p) * torch.sigmoid((width - _segments_distance(draw, line)) / (0.35 * pixel))
        )
    return mask


def _discs(draw: _Draw, count: int, spread: float, radius: tuple[float, float]) -> Tensor:
    pixel = 1 / draw.size
    centre = draw.uniform(0.15, 0.85, 1, 2)
    points = centre + torch.randn(draw.n, count, 2, generator=draw.generator, device=draw.device) * draw.uniform(
        0.2 * spread, spread
    )
    radii = draw.uniform(*radius, count) * pixel * draw.uniform(0.6, 1.5)[:, 0]
    keep = draw.uniform(0, 1, count) < draw.uniform(0.2, 1)[:, 0]
    keep[:, 0] = True
    wobble = draw.noise(draw.uniform(0.8, 1.4), draw.uniform(1, 1.5), draw.uniform(0, 3)) * pixel
    d = torch.full((draw.n, draw.size, draw.size), 9.0, device=draw.device)
    for i in range(count):
        r = ((draw.x - points[:, i, 0, None, None]) ** 2 + (draw.y - points[:, i, 1, None, None]) ** 2).sqrt() - radii[
            :, i, None, None
        ]
        d = torch.where(keep[:, i, None, None], torch.minimum(d, r), d)
    return torch.sigmoid(-(d + 0.7 * wobble) / (0.5 * pixel))


def _blob(
    draw: _Draw,
    reach: tuple[float, float],
    ragged: tuple[float, float],
    softness: tuple[float, float],
    at_edge: bool = False,
) -> Tensor:
    """An irregular region about a centre: an ellipse whose outline a noise field pushes in and out."""
    cx, cy = draw.uniform(0.15, 0.85), draw.uniform(0.15, 0.85)
    if at_edge:
        side = draw.choose(4)
        cx = torch.where(side == 0, draw.uniform(0, 0.08), torch.where(side == 1, draw.uniform(0.92, 1), cx))
        cy = torch.where(side == 2, draw.uniform(0, 0.08), torch.where(side == 3, draw.uniform(0.92, 1), cy))
    angle, ratio, radius = draw.uniform(0, math.pi), draw.uniform(1, 3), draw.uniform(*reach)
    x, y = draw.x - cx, draw.y - cy
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    r = ((u / ratio.sqrt()) ** 2 + (v * ratio.sqrt()) ** 2).sqrt() / radius - 1
    r = r + draw.noise(draw.uniform(1.0, 1.8), draw.uniform(1, 2), angle) * draw.uniform(*ragged)
    return torch.sigmoid(-r / draw.uniform(*softness))


_SHAPES = {
    "crack": _crack,
    "scratch": _scratch,
    "pit": lambda d: _discs(d, 9, 0.12, (0.8, 3.5)),
    "spot": lambda d: _discs(d, 1, 0.01, (1.2, 6.0)),
    "stain": lambda d: _blob(d, (0.06, 0.3), (0.1, 0.5), (0.1, 0.5)),
    "chip": lambda d: _blob(d, (0.04, 0.15), (0.1, 0.35), (0.02, 0.08), at_edge=True),
    "fray": lambda d: _blob(d, (0.15, 0.4), (0.3, 0.6), (0.03, 0.2)),
    "patch": lambda d: _blob(d, (0.08, 0.35), (0.05, 0.3), (0.02, 0.1)),
    "inclusion": lambda d: _blob(d, (0.03, 0.1), (0.2, 0.5), (0.05, 0.15)),
    "burn": lambda d: _blob(d, (0.1, 0.35), (0.15, 0.45), (0.2, 0.6)),
}


def _mark_effect(draw: _Draw, kind: Tensor, soft: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(change of relief (n, S, S), tint (n, 3) for the marked region, darker or not (n,)).

    A mark darkens or brightens, carries a texture of its own, and has a lit flank where its depth turns to the light.
    """
    mostly_bright = (kind == MARKS.index("scratch")) | (kind == MARKS.index("fray"))
    dark = draw.uniform() < torch.where(mostly_bright, 0.1, 0.95)
    depth = draw.uniform(0.2, 0.5) * torch.where(dark, -1.0, 1.0)
    grain = draw.noise(draw.uniform(0.3, 1.4), draw.uniform(1, 3), draw.uniform(0, 3)) * draw.uniform(0, 0.06)
    gx = F.pad(soft[:, :, 2:] - soft[:, :, :-2], (1, 1))
    gy = F.pad(soft[:, 2:] - soft[:, :-2], (0, 0, 1, 1))
    angle = draw.uniform(0, 2 * math.pi)
    flank = (gx * angle.cos() + gy * angle.sin()) * draw.uniform(0, 0.3)
    tint = draw.uniform(0.7, 1.25, 3)
    warm = torch.tensor([1.25, 0.9, 0.6], device=draw.device)
    tint = torch.where(
        ((kind == MARKS.index("burn")) | (kind == MARKS.index("stain")))[:, 0], warm * draw.uniform(0.8, 1.1, 3), tint
    )
    return soft * (depth + grain) + flank, tint, dark.flatten()


def _colour(draw: _Draw, grey: Tensor, soft: Tensor, tint: Tensor) -> Tensor:
    """RGB (n, 3, S, S): a base hue, a drift of it over the surface, the mark's tint; 40 % of the images stay grey."""
    strength = draw.chance(0.5)[:, None] * draw.uniform(0.1, 0.8)[:, None]
    base = 1 + (draw.uniform(0.88, 1.12, 3, 1, 1) - 1) * strength
    drift = draw.noise(draw.uniform(1.8, 2.5), draw.uniform(1, 2), draw.uniform(0, 3))[:, None]
    base = base * (1 + drift * draw.uniform(-0.04, 0.04, 3, 1, 1) * strength)
    marked = 1 + (tint[:, :, None, None] - 1) * soft[:, None] * strength
    return grey[:, None] * base * marked


def _captions(draw: _Draw, materials: Tensor, marks: list[str], dark: Tensor) -> list[str]:
    """ "an image of a cast metal surface with a dark crack defect", words left out at random."""
    coins = draw.uniform(0, 1, 4).tolist()
    captions = []
    for coin, material, mark, is_dark in zip(coins, materials.flatten().tolist(), marks, dark.tolist(), strict=True):
        noun = NOUNS[int(coin[0] * len(NOUNS))]
        name = f"{MATERIALS[material]} {noun}" if coin[1] < 0.7 else noun
        caption = f"an image of a {name}"
        if mark:
            shade = ("dark " if is_dark else "bright ") if coin[2] < 0.5 else ""
            caption += f" with a {shade}{mark} defect"
        captions.append(caption)
    return captions
