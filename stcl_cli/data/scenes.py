"""The drawn scene set of `stcl demo`: little illustrations with exact masks.

Six classes, each told by its shape and by the pattern on its coat, never by its colour: a scene takes one palette and
deals it out at random, half to the objects and half to backdrop and clutter. So colours tell a photo's regions apart,
as on real photos, and say nothing of the class, nor of whether there is an object. A class is met in its home place
more often than elsewhere, so a classifier is tempted to read the backdrop instead. Ours.

Everything is drawn SUPERSAMPLING times too large and shrunk, which is what smooths the edges: H x W is the photo,
S x S the large canvas, T x T the tile of one object.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from stcl_cli.data.scene_parts import CLASSES, blob
from stcl_cli.formats.files import atomic_write
from stcl_cli.formats.images import write_jpeg
from stcl_cli.formats.masks import write_mask

SUPERSAMPLING = 3
HOME_SHARE = 0.6  # of the scenes show the home place of their first object, the others any place

PALETTES = [
    ["#264653", "#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#e76f51"],
    ["#355070", "#6d597a", "#b56576", "#e56b6f", "#eaac8b", "#f6e7cb"],
    ["#1d3557", "#457b9d", "#a8dadc", "#f1faee", "#e9a39b", "#d1495b"],
    ["#132a13", "#31572c", "#4f772d", "#90a955", "#ecf39e", "#d4a373"],
    ["#3d405b", "#81b29a", "#f2cc8f", "#f4f1de", "#e07a5f", "#a26769"],
    ["#0b3954", "#087e8b", "#bfd7ea", "#ff8a70", "#c81d25", "#f7e3af"],
    ["#582f0e", "#936639", "#c2b280", "#b6ad90", "#656d4a", "#414833"],
    ["#2d1e4f", "#5b3f8c", "#9a6fb0", "#f08a8a", "#f9c784", "#fcf0d4"],
    ["#12355b", "#420039", "#d72638", "#ffb38a", "#7fb7be", "#dacc3e"],
    ["#22333b", "#5e503f", "#c6ac8f", "#eae0d5", "#7a9e9f", "#4f6d7a"],
]

SCENE_CLASSES: tuple[str, ...] = tuple(CLASSES)  # class k of the masks is SCENE_CLASSES[k - 1]; 0 is background


# ---- one scene -------------------------------------------------------------------------------------------------------
def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Draw one scene.

    Returns:
        photo_HW3: uint8 RGB, `size` pixels a side.
        mask_HW: uint8, 0 background, k the class SCENE_CLASSES[k - 1].
        labels: the classes that are in the mask, in the order of SCENE_CLASSES.
    """
    side = size * SUPERSAMPLING
    worn, colours = _draw_palette(rng)
    names = rng.choice(SCENE_CLASSES, size=rng.choice((1, 2, 3), p=(0.35, 0.45, 0.2))).tolist()
    place = CLASSES[names[0] if rng.random() < HOME_SHARE else rng.choice(SCENE_CLASSES)].home

    canvas_SS3 = np.broadcast_to(colours[0], (side, side, 3)).copy()
    if rng.random() < 0.5:  # sun or moon
        centre = (rng.uniform((0.1, 0.08), (0.9, 0.3)) * side).astype(int).tolist()
        cv2.circle(canvas_SS3, centre, round(rng.uniform(0.05, 0.1) * side), colours[5].tolist(), -1)
    place(canvas_SS3, rng, colours)
    for x, y, r in rng.uniform((0, 0.5, 0.03), (1, 1, 0.06), (rng.integers(2, 6), 3)):
        blob(canvas_SS3, rng, x, y, r, colours[rng.integers(6)])

    mask_SS = np.zeros((side, side), np.uint8)
    for name in names:
        tile = round(side * rng.uniform(0.42, 0.62 if len(names) > 1 else 0.75))
        _place_object(canvas_SS3, mask_SS, rng, name, tile, worn)
    for x, y, r in rng.uniform((0, 0.9, 0.05), (1, 1, 0.08), (rng.integers(0, 3), 3)):  # bushes in front
        blob(canvas_SS3, rng, x, y, r, colours[rng.integers(6)], mask_SS)

    photo_HW3 = _photograph(canvas_SS3, rng, size)
    mask_HW = mask_SS[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING].copy()
    present = np.unique(mask_HW)
    return photo_HW3, mask_HW, tuple(name for k, name in enumerate(SCENE_CLASSES, 1) if k in present)


def _draw_palette(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """RGB in 0..255: three colours for the objects to wear, and six for the backdrop, three and their mixtures."""
    palette = [[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in PALETTES[rng.integers(len(PALETTES))]]
    colours = (rng.permutation(palette) + rng.normal(0, 8, (6, 3))).clip(0, 255).astype(np.float32)
    worn, backdrop = colours[:3], colours[3:]
    mixtures = (backdrop + np.roll(backdrop, 1, axis=0)) / 2
    return worn, rng.permutation(np.concatenate([backdrop, mixtures]))


def _draw_object(rng: np.random.Generator, name: str, tile: int, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One object upon its tile: RGB tile_TT3 float32 and its silhouette shape_TT bool."""
    kind = CLASSES[name]
    shape_TT = np.zeros((tile, tile), np.uint8)
    kind.shape(shape_TT)

    y, x = np.mgrid[:tile, :tile].astype(np.float32) / tile - 0.5
    periods = kind.periods * rng.uniform(0.85, 1.2)
    ink_TT = kind.coat(x * periods, y * periods)

    brightness = colours @ (0.3, 0.59, 0.11)
    coat_colour = rng.integers(len(colours))
    contrast = np.abs(brightness - brightness[coat_colour])
    ink_colour = rng.choice(np.flatnonzero(contrast >= min(60, contrast.max())))
    tile_TT3 = np.where(ink_TT[..., None], colours[ink_colour], colours[coat_colour])

    # Lit from the upper left, darker towards the rim: a round body.
    depth_TT = cv2.distanceTransform(shape_TT, cv2.DIST_L2, 3) / tile
    light_TT = 0.62 + 0.38 * np.clip(depth_TT / 0.05, 0, 1) - 0.25 * (x + y)
    tile_TT3 = (tile_TT3 * light_TT[..., None]).astype(np.float32)
    for ex, ey in kind.eyes:
        centre = (round(ex * tile), round(ey * tile))
        cv2.circle(tile_TT3, centre, round(0.045 * tile), (250.0,) * 3, -1)
        cv2.circle(tile_TT3, centre, round(0.025 * tile), (25.0,) * 3, -1)

    turn = cv2.getRotationMatrix2D((tile / 2, tile / 2), rng.uniform(-20, 20), 0.95)
    if rng.random() < 0.5:
        tile_TT3, shape_TT = tile_TT3[:, ::-1].copy(), shape_TT[:, ::-1].copy()
    tile_TT3 = cv2.warpAffine(tile_TT3, turn, (tile, tile))
    return tile_TT3, cv2.warpAffine(shape_TT, turn, (tile, tile)) > 127


def _place_object(
    canvas_SS3: np.ndarray, mask_SS: np.ndarray, rng: np.random.Generator, name: str, tile: int, colours: np.ndarray
) -> None:
    """Draw an object where it hides least of the ones before it (the best of ten tries), with its shadow."""
    side = len(mask_SS)
    tile_TT3, shape_TT = _draw_object(rng, name, tile, colours)
    placings = []
    for top, left in rng.integers(-tile // 8, side - tile + tile // 8, (10, 2)):
        rows, cols = slice(max(top, 0), top + tile), slice(max(left, 0), left + tile)
        cut = np.s_[rows.start - top : side - top, cols.start - left : side - left]
        overlap = np.count_nonzero(mask_SS[rows, cols][shape_TT[cut]])
        placings.append((overlap, len(placings), (rows, cols), cut))
    *_, window, cut = min(placings)
    shape_SS = np.zeros((side, side), np.uint8)
    shape_SS[window] = shape_TT[cut]
    offset = side // 40
    shadow_SS = cv2.blur(np.roll(shape_SS, (offset, offset), (0, 1)).astype(np.float32), (offset * 2 + 1,) * 2)
    canvas_SS3 *= 1 - 0.45 * shadow_SS[..., None]
    canvas_SS3[window][shape_TT[cut]] = tile_TT3[cut][shape_TT[cut]]
    mask_SS[shape_SS > 0] = SCENE_CLASSES.index(name) + 1


def _photograph(canvas_SS3: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Shrink, light from one side, tint, and grain: uint8 RGB (size, size, 3)."""
    photo_HW3 = cv2.resize(canvas_SS3, (size, size), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:size, :size] / size - 0.5
    direction = rng.uniform(0, 2 * np.pi)
    light_HW = rng.uniform(0.85, 1.1) + rng.uniform(0, 0.3) * (x * np.cos(direction) + y * np.sin(direction))
    grain_HW3 = rng.normal(0, rng.uniform(1, 5), (size, size, 3))
    return (photo_HW3 * light_HW[..., None] * rng.uniform(0.93, 1.07, 3) + grain_HW3).clip(0, 255).astype(np.uint8)


# ---- the set ---------------------------------------------------------------------------------------------------------
def write_scenes(folder: Path, train: int, held_out: int, size: int, seed: int = 0) -> None:
    """Draw a set as a user would bring one: photos, image-level labels, lists; and the truth of held-out scenes.

    Writes photos/NAME.jpg, labels.csv (`image,labels`, labels joined by `;`), classes.txt, train.txt, held_out.txt and
    truth/NAME.png. The same seed draws the same set, and scene i is the same however many follow it.
    """
    rows = [("image", "labels")]
    for split, (part, count) in enumerate((("train", train), ("held_out", held_out))):
        names = [f"{part}_{i:04d}" for i in range(count)]
        for i, name in enumerate(names):
            photo_HW3, mask_HW, labels = draw_scene(np.random.default_rng((seed, split, i)), size)
            write_jpeg(folder / "photos" / f"{name}.jpg", photo_HW3)
            rows.append((f"{name}.jpg", ";".join(labels)))
            if part == "held_out":  # there is no mask of a training scene that anything could learn from
                write_mask(folder / "truth" / f"{name}.png", mask_HW)
        _write_lines(folder / f"{part}.txt", names)
    _write_lines(folder / "labels.csv", map(",".join, rows))
    _write_lines(folder / "classes.txt", SCENE_CLASSES)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))
