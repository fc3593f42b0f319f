"""Redraw a picture as another artist might: other proportions, other colours, flatter, with outlines.

Artists of emoji agree on the thing and differ in line, colour and proportion. Whatever differs between artists is drawn
at random here, so that what stays is the thing. Everything works on batches, in torch, from one generator.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def prepare(pixels: Tensor) -> Tensor:
    """RGBA pictures (n, side, side, 4) uint8 -> (n, 6, side, side) uint8: RGB, alpha, thin and thick edges.

    RGB is premultiplied, because what is transparent must not bleed its colour when a picture is bent. An edge is the
    morphological gradient: the brightest minus the darkest value in a window of 3 (thin) or 5 (thick) pixels, in the
    channel that changes most.
    """
    x = pixels.permute(0, 3, 1, 2)  # (n, 4, side, side)
    colour = (x[:, :3].int() * x[:, 3:].int() + 127) // 255
    x = torch.cat([colour.to(torch.uint8), x[:, 3:]], dim=1)
    high, low = widened(x, torch.maximum), widened(x, torch.minimum)
    thin = high - low
    thick = widened(high, torch.maximum) - widened(low, torch.minimum)
    return torch.cat([x, thin.amax(dim=1, keepdim=True), thick.amax(dim=1, keepdim=True)], dim=1)


def widened(x: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`pick` (maximum or minimum) over each 3x3 window, one axis after the other; twice over it is a 5x5 window.

    In bytes, which is several times faster than pooling in floats. (n, channels, side, side) -> the same."""
    for axis in (2, 3):
        out, last = x.clone(), x.shape[axis] - 1
        for here, beside in ((out.narrow(axis, 1, last), x.narrow(axis, 0, last)),
                             (out.narrow(axis, 0, last), x.narrow(axis, 1, last))):  # fmt: skip
            here.copy_(pick(here, beside))
        x = out
    return x


def plain(pictures: Tensor, size: int) -> Tensor:
    """Prepared pictures on white, as they are: (batch, 6, side, side) uint8 -> (batch, 3, size, size) in [0, 1]."""
    x = F.interpolate(pictures[:, :4].float() / 255, size=(size, size), mode="bilinear", antialias=True)
    return x[:, :3] + 1 - x[:, 3:]


def restyle(pictures: Tensor, size: int, flip: Tensor, rng: torch.Generator) -> Tensor:
    """Prepared pictures (batch, 6, side, side) uint8 -> (batch, 3, size, size) float32 in [0, 1].

    Each is drawn in a way of its own; `flip` (batch,) bool says which may be mirrored.
    """
    x = bend(pictures.float() / 255, size, flip, rng)
    colour, edges = recolour(x[:, :4], rng), x[:, 4:]
    return finish(outline(colour, edges, rng), rng)


def uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """Numbers (count,) drawn evenly from `low` to `high`."""
    return torch.rand(count, generator=rng) * (high - low) + low


def chosen(rng: torch.Generator, count: int, share: float) -> Tensor:
    """A mask (count,) that is true for about this share."""
    return torch.rand(count, generator=rng) < share


def bend(x: Tensor, size: int, flip: Tensor, rng: torch.Generator) -> Tensor:
    """Turn, scale, shear, shift, mirror and warp: (batch, channels, side, side) -> (batch, channels, size, size)."""
    n = len(x)
    angle = torch.randn(n, generator=rng) * 0.15
    zoom, aspect = torch.exp(uniform(rng, n, -0.15, 0.3)), torch.exp(uniform(rng, n, -0.2, 0.2))
    mirror = torch.where(flip & chosen(rng, n, 0.5), -1.0, 1.0)
    shear, cos, sin = torch.randn(n, generator=rng) * 0.12, torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cos * mirror * aspect, shear - sin, uniform(rng, n, -0.12, 0.12)]),
        torch.stack([sin * mirror, cos / aspect, uniform(rng, n, -0.12, 0.12)]),
    ]
    theta = torch.stack(rows).permute(2, 0, 1) * zoom[:, None, None]  # (batch, 2, 3)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    coarse = torch.randn(n, 2, 5, 5, generator=rng) * uniform(rng, n, 0, 0.07)[:, None, None, None]
    warp = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)  # (batch, 2, size, size)
    return F.grid_sample(x, grid + warp.permute(0, 2, 3, 1), align_corners=False, padding_mode="zeros")


def recolour(x: Tensor, rng: torch.Generator) -> Tensor:
    """Turn the hue, change saturation, contrast and brightness; grey out some pictures, flatten some.

    (batch, 4, size, size) premultiplied -> the same. All but the flattening is one 3x4 matrix a picture: with
    premultiplied colours a constant is a multiple of alpha.
    """
    n, alpha = len(x), x[:, 3:]
    hue = torch.where(chosen(rng, n, 0.25), 1.0, 0.15) * torch.randn(n, generator=rng)
    saturation = torch.exp(uniform(rng, n, -0.7, 0.6)) * ~chosen(rng, n, 0.12)
    contrast, brightness = torch.exp(uniform(rng, n, -0.4, 0.4)), uniform(rng, n, -0.2, 0.2)
    grey = torch.full((3, 3), 1 / 3)
    turn = grey + (hue_rotation(hue) - grey) * saturation[:, None, None]  # rotations keep the grey axis
    shift = (0.5 * (1 - contrast) + brightness)[:, None, None].expand(n, 3, 1)
    matrix = torch.cat([turn * contrast[:, None, None], shift], dim=2)  # (batch, 3, 4)
    colour = torch.bmm(matrix, x.flatten(2)).view(n, 3, *x.shape[2:])
    flat = chosen(rng, n, 0.25)
    levels = torch.randint(1, 5, (int(flat.sum()), 1, 1, 1), generator=rng)
    colour[flat] = (colour[flat] * levels).round() / levels
    return torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], dim=1)


def hue_rotation(angle: Tensor) -> Tensor:
    """Rotations of RGB space about the grey axis (Rodrigues): (batch,) radians -> (batch, 3, 3)."""
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    sin, cos = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    return torch.eye(3) * cos + cross * sin + torch.full((3, 3), 1 / 3) * (1 - cos)


def outline(x: Tensor, edges: Tensor, rng: torch.Generator) -> Tensor:
    """Draw dark lines along edges of half of the pictures; a third of these turn pale inside, like line art.

    x: (batch, 4, size, size) premultiplied; edges: (batch, 2, size, size), thin and thick. Returns x, changed in place.
    """
    drawn = chosen(rng, len(x), 0.5)
    n = int(drawn.sum())
    thick = chosen(rng, n, 0.3).long()
    change = edges[drawn][torch.arange(n), thick][:, None]  # (drawn, 1, size, size)
    threshold = uniform(rng, n, 0.15, 0.6)[:, None, None, None]
    line = torch.sigmoid((change - threshold) * 20)
    ink = (uniform(rng, n, 0, 0.25) * chosen(rng, n, 0.4))[:, None, None, None]
    keep = torch.where(chosen(rng, n, 0.3), uniform(rng, n, 0, 0.6), 1.0)[:, None, None, None]
    colour, alpha = x[drawn][:, :3], x[drawn][:, 3:]
    colour = colour * keep + alpha * (1 - keep)
    covered = torch.maximum(alpha, line)
    inked = torch.minimum(colour * (1 - line) + ink * line, covered)  # grey ink on a faint edge outshines no alpha
    x[drawn] = torch.cat([inked, covered], dim=1)
    return x


def finish(x: Tensor, rng: torch.Generator) -> Tensor:
    """Lay over a background, white in most cases; blur some, cover a patch of some: 4 channels -> 3."""
    n, size = len(x), x.shape[-1]
    background = 0.4 + 0.6 * torch.rand(n, 3, 1, 1, generator=rng)
    background[chosen(rng, n, 0.7)] = 1.0
    x = x[:, :3] + background * (1 - x[:, 3:])
    soft = chosen(rng, n, 0.12)
    x[soft] = F.avg_pool2d(x[soft], 3, 1, 1, count_include_pad=False)
    place = torch.arange(size)
    low, extent = (torch.rand(2, n, 1, generator=rng) * scale for scale in (size, 0.4 * size))
    inside = (place >= low) & (place < low + extent)  # (2, batch, size): rows, columns
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :] & chosen(rng, n, 0.25)[:, None, None, None]
    return torch.where(hole, background, x)
