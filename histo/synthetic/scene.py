"""The tissue behind the cells, and the pen that draws both: shared by fields and slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk

from histo.slide.geometry import Box
from histo.synthetic.noise import FloatArray, as_float, noise, smoothstep
from histo.synthetic.optics import Lamp, Look, blurred, box_blurred, transmitted
from histo.synthetic.stamp import Layers
from histo.synthetic.tissue import GLASS, HOST, LYMPHOID, NECROSIS, STROMA, TUMOUR


@dataclass(frozen=True)
class Ground:
    """What the tissue of one slide is like, apart from its geometry.

    offset : of all textures, px. fibre_angle : main direction of the stroma. chromatin : contrast of nuclear
    texture. web : contrast of fibres. haze : haematoxylin everywhere in tissue. tan : brown of hepatocytes.
    cytoplasm : haematoxylin of tumour cells and hepatocytes.
    crispness : of CD8 membranes, 0 to 1. solid : share of CD8+ cells filled with chromogen.
    nucleus_um : median radius of tumour nuclei. columnar : 0 sheets to 1 palisades round lumina.
    pleomorphism : spread of the log of tumour nuclei's radius.
    precipitate, pigment, blush, vessels, membrane, mesh, ghosts : what is no CD8+ cell, 0 to 1.
    membrane_body : brown of the cytoplasm where membranes of tumour cells are stained, as a share of theirs;
    membrane_cover : how much of it lies over nuclei; membrane_patchy : 0 everywhere to 1 in patches.
    nuclear_stain : share of tumour nuclei that the antibody stains: solid brown, from faint to black.
    fold, ink : strength of a fold and of pen strokes, 0 for none.
    """

    offset: tuple[int, int]
    fibre_angle: float
    chromatin: float
    web: float
    haze: float
    tan: float
    cytoplasm: float
    crispness: float
    solid: float
    nucleus_um: float
    columnar: float
    precipitate: float
    pigment: float
    blush: float
    vessels: float
    membrane: float
    ghosts: float
    pleomorphism: float
    membrane_body: float
    membrane_cover: float
    membrane_patchy: float
    nuclear_stain: float
    fold: float
    ink: float
    mesh: float


def draw_ground(rng: np.random.Generator) -> Ground:
    """Draw a tissue; each disturbance is absent in most."""
    # A generator of its own: what is drawn after stays as it was.
    apart = rng.spawn(1)[0]

    def sometimes(share: float) -> float:
        strength = float(rng.beta(1, 2))
        return strength if rng.random() < share else 0.0

    column, row = rng.integers(0, 1024, 2)
    return Ground(
        offset=(int(column), int(row)),
        fibre_angle=float(rng.uniform(0, np.pi)),
        chromatin=float(rng.uniform(0.15, 0.5)),
        web=float(rng.uniform(0.25, 1.2)),
        haze=float(np.exp(rng.uniform(np.log(0.01), np.log(0.3)))),
        tan=float(rng.uniform(0.0, 0.14)),
        cytoplasm=float(np.exp(rng.uniform(np.log(0.03), np.log(0.3)))),
        crispness=float(rng.uniform(0, 1)),
        solid=sometimes(0.35),
        nucleus_um=float(rng.uniform(3.3, 5.6)),
        columnar=sometimes(0.5) ** 0.5,
        precipitate=sometimes(0.35),
        pigment=sometimes(0.25),
        blush=sometimes(0.5),
        vessels=sometimes(0.6),
        membrane=float(rng.uniform(0.15, 1.0)) * float(rng.random() < 0.45),
        ghosts=sometimes(0.5),
        pleomorphism=float(rng.uniform(0.1, 0.3)),
        membrane_body=float(rng.beta(1.2, 1.2)),
        membrane_cover=float(rng.uniform(0, 0.9)),
        membrane_patchy=sometimes(0.4),
        nuclear_stain=sometimes(0.2),
        fold=sometimes(0.06),
        ink=float(rng.uniform(0.4, 1.0)) * float(rng.random() < 0.04),
        mesh=float(apart.uniform(0.15, 0.8)) * float(apart.random() < 0.5),
    )


def fibre_angle(x_um: FloatArray, y_um: FloatArray, ground: Ground) -> FloatArray:
    """Direction of the stroma's fibres at points, radians."""
    along_x = _across(x_um + 1, y_um, ground) - _across(x_um - 1, y_um, ground)
    along_y = _across(x_um, y_um + 1, ground) - _across(x_um, y_um - 1, ground)
    # Fibres run square to the steepest change.
    return as_float(np.arctan2(along_x, -along_y))


def _across(x_um: FloatArray, y_um: FloatArray, ground: Ground) -> FloatArray:
    """Return the coordinate across the fibres, um: constant along each."""
    cos, sin = np.float32(np.cos(ground.fibre_angle)), np.float32(np.sin(ground.fibre_angle))
    along = x_um * cos + y_um * sin
    across = y_um * cos - x_um * sin
    # Slow drifts, so that no slide shows a regular wave.
    drift = 2 * np.sin(x_um * np.float32(2 * np.pi / 730)) + 2 * np.sin(y_um * np.float32(2 * np.pi / 910))
    wave = along * np.float32(2 * np.pi / 145) + across * np.float32(2 * np.pi / 420) + drift
    return as_float(across - np.sin(wave) * np.float32(0.8 * 145 / (2 * np.pi)))


def _fibres(box: Box, mpp: float, ground: Ground) -> FloatArray:
    """Wavy fibres: an oriented texture sampled along bent coordinates."""
    x = ((np.arange(box.x, box.right) + 0.5) * mpp).astype(np.float32)[None]
    y = ((np.arange(box.y, box.bottom) + 0.5) * mpp).astype(np.float32)[:, None]
    along = x * np.float32(np.cos(ground.fibre_angle)) + y * np.float32(np.sin(ground.fibre_angle))
    texture = noise(Box(0, 0, 1024, 1024), (2.0, 22.0), ground.offset, 4)
    # Texture pixels of 0.4 um: fibres 1 um thick and some 10 um long.
    rows = np.floor(_across(x, y, ground) * np.float32(2.5)).astype(np.int32) & 1023
    columns = np.floor(along * np.float32(2.5)).astype(np.int32) & 1023
    result: FloatArray = texture.reshape(-1).take(rows * 1024 + columns)
    return result


def layered(painted: Layers, weights: FloatArray, ground: Ground, box: Box, mpp: float) -> FloatArray:
    """Cells on their tissue: (H, W, 3) amounts nuclear, CD8, residual, before the look's scales.

    Parameters
    ----------
    painted : cells of the window. weights : (class, H, W) of the window. box : the window.
    """
    offset = ground.offset
    fine = noise(box, 0.7 / mpp, offset, 5)
    granular = noise(box, 1.5 / mpp, offset, 6)
    cloudy = noise(box, 12.0 / mpp, offset, 7)
    tissue = 1 - weights[GLASS]
    stroma = weights[STROMA] + np.float32(0.4) * weights[LYMPHOID]
    strands = np.zeros_like(tissue)
    if stroma.max() > 0.01:
        fibres = _fibres(box, mpp, ground)
        # Fibres come and go with the section; between them a fine web.
        strands = np.maximum(fibres + np.float32(0.5) * cloudy, 0)
        strands += np.maximum(0.5 - 2 * np.abs(noise(box, 2.4 / mpp, offset, 11)), 0)
        strands *= stroma * np.float32(0.07 * ground.web)
    # Where cells meet, their bodies' layer falls to a valley.
    bodies = np.minimum(painted.cytoplasm, 1)
    cytoplasm = painted.cytoplasm * (1 + np.float32(0.18) * granular) * (1 - weights[GLASS])
    back = tissue * np.float32(ground.haze)
    back += strands
    back += cytoplasm * np.float32(ground.cytoplasm)
    if weights[NECROSIS].any():
        smudges = noise(box, 3.5 / mpp, offset, 12)
        back += weights[NECROSIS] * np.maximum(0.12 + 0.02 * granular + 0.06 * smudges, 0)
    back *= np.maximum(1 + np.float32(0.2) * cloudy + np.float32(0.1) * fine, 0.1)
    texture = np.float32(ground.chromatin) * (fine + np.float32(0.6) * granular)
    nuclear = painted.nuclear * np.maximum(1 + texture, 0.1)
    amounts = np.empty((box.height, box.width, 3), np.float32)
    # A nucleus takes the place of cytoplasm and fibres.
    outside = np.maximum(1 - np.float32(1.3) * painted.nuclear, 0)
    amounts[..., 0] = nuclear + back * outside
    brown = painted.brown * np.maximum(1 + np.float32(0.14) * fine + np.float32(0.24) * granular, 0.05)
    if ground.membrane > 0 and weights[TUMOUR].any():
        brown += _epithelial_brown(bodies, painted.nuclear, granular, cloudy, weights[TUMOUR], ground, mpp)
    if ground.mesh > 0:
        brown += tissue * _meshwork(painted.nuclear, granular, ground, box, mpp)
    # What chromogen can be laid down is bounded.
    brown = np.float32(1.9) * (1 - np.exp(brown * np.float32(-1 / 1.9)))
    if ground.blush > 0:
        blush = np.maximum(cloudy + np.float32(0.35) * granular + np.float32(0.2), 0)
        brown += (
            np.float32(0.2 * ground.blush) * blush * (np.float32(0.35) * tissue + np.float32(0.65) * stroma)
        )
        brown += np.float32(1.5 * ground.blush / ground.web) * strands * np.clip(cloudy, 0, 1.5)
        # Patches over whatever cells lie there: no membrane, only muddy nuclei.
        patches = smoothstep(noise(box, 18.0 / mpp, offset, 17), 0.5, 1.6)
        muddy = np.maximum(0.6 + np.float32(0.45) * noise(box, 4.0 / mpp, offset, 18), 0)
        muddy += np.float32(0.2) * granular
        brown += np.float32(0.75 * ground.blush) * tissue * patches * muddy
    if weights[HOST].any():
        brown += cytoplasm * weights[HOST] * np.float32(ground.tan) * np.maximum(1 + 0.5 * granular, 0)
    if weights[NECROSIS].any():
        brown += weights[NECROSIS] * np.float32(ground.tan) * np.maximum(0.7 + 0.3 * granular, 0)
    brown += tissue * np.float32(0.012)
    amounts[..., 1] = brown
    amounts[..., 2] = tissue * (np.float32(0.012) * fine + np.float32(0.005))
    return amounts


def _epithelial_brown(
    bodies: FloatArray,
    nuclear: FloatArray,
    granular: FloatArray,
    cloudy: FloatArray,
    tumour: FloatArray,
    ground: Ground,
    mpp: float,
) -> FloatArray:
    """Cross-reaction of tumour cells: membranes and, more or less, cytoplasm, but not nuclei."""
    # Where two bodies meet, their layer has a valley, however shallow where they are packed.
    round_window = disk(max(1, round(1.2 / mpp)))  # type: ignore[no-untyped-call]
    valley = ndimage.grey_closing(bodies, footprint=round_window) - bodies
    seams = np.clip(valley * np.float32(1 / 0.15), 0, 1)
    seams = np.maximum(seams, np.exp(-np.square((bodies - 0.3) / np.float32(0.25))))
    seams *= 1.15 + np.float32(0.35) * granular
    over = np.clip(1 - np.float32(1.6 * (1 - ground.membrane_cover)) * nuclear, 0, 1)
    body = np.clip(bodies * 1.6, 0, 1) * over * (0.9 + np.float32(0.3) * granular)
    patches = np.clip(1 + np.float32(2.0 * ground.membrane_patchy) * (cloudy - 0.4), 0, 1.3)
    amount = np.maximum(seams, np.float32(0.85 * ground.membrane_body) * body)
    result: FloatArray = np.float32(ground.membrane) * tumour * patches * np.maximum(amount, 0)
    return result


def _meshwork(nuclear: FloatArray, granular: FloatArray, ground: Ground, box: Box, mpp: float) -> FloatArray:
    """Patches of haze and broken threads between and over whatever nuclei lie there; whole round none."""
    offset = ground.offset
    # As small as a knot of capillaries, or as large as a field.
    patches = smoothstep(noise(box, (8.0, 16.0)[offset[1] % 2] / mpp, offset, 19), 0.5, 1.2)
    # Threads run on past the nuclei, or along them, thick here and thin there.
    threads = np.maximum(1 - np.abs(noise(box, 2.0 / mpp, offset, 20)) * np.float32(1.8), 0)
    threads *= np.clip(noise(box, 1.6 / mpp, offset, 21) + np.float32(0.4), 0, 1.5)
    reach = 2 * max(1, round(1.2 / mpp)) + 1
    between = np.clip(ndimage.maximum_filter(nuclear, size=reach) - np.float32(1.4) * nuclear, 0, 1)
    between *= np.clip(noise(box, 1.6 / mpp, offset, 22) + np.float32(0.4), 0, 1.6)
    cloud = np.clip(np.float32(0.6) + np.float32(0.5) * noise(box, 4.0 / mpp, offset, 23), 0, 1.6)
    amount = threads * np.maximum(1 - np.float32(0.8) * nuclear, np.float32(0.2))
    amount += np.float32(1.1) * between
    amount += np.float32(0.6) * cloud
    amount *= 1 + np.float32(0.25) * granular
    result: FloatArray = np.float32(ground.mesh) * patches * np.maximum(amount, 0)
    return result


def sharpening_px(mpp: float) -> int:
    """Return the width of the scanner's sharpening filter, some 1.5 um."""
    return 2 * max(1, round(0.6 / mpp)) + 1


def expose(amounts: FloatArray, look: Look, ground: Ground, box: Box, mpp: float) -> NDArray[np.uint8]:
    """Amounts to (H, W, 3) uint8 as the scanner stores them, before compression."""
    scaled = amounts * np.array([look.counterstain, look.brown, 1.0], np.float32)
    if ground.fold > 0:
        scaled *= (1 + np.float32(1.3 * ground.fold) * _band(box, mpp, ground))[..., None]
    # The residual is too faint and fine for its blur to be seen.
    scaled[..., :2] = blurred(scaled[..., :2], look.blur_um / mpp)
    light = transmitted(scaled, look)
    if look.chromatic_um > 0:
        light = _fringed(light, look.chromatic_um / mpp)
    if ground.ink > 0:
        light *= _pen(box, mpp, ground)
    if look.sharpen > 0:
        light += np.float32(look.sharpen) * (light - box_blurred(light, sharpening_px(mpp)))
    if look.noise > 0:
        for channel in range(3):
            light[..., channel] += np.float32(look.noise) * noise(box, 0.4, ground.offset, 8 + channel)
    light += np.float32(0.5)
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def _band(box: Box, mpp: float, ground: Ground) -> FloatArray:
    """A fold of the section: 1 within a soft, bent band, 0 outside."""
    where = noise(box, 60 / mpp, ground.offset, 15)
    return smoothstep(-np.abs(where), -0.28, -0.16)


def _pen(box: Box, mpp: float, ground: Ground) -> FloatArray:
    """What pen strokes let through, (H, W, 3): green, blue or black."""
    colours = ((0.25, 0.65, 0.45), (0.2, 0.3, 0.75), (0.15, 0.15, 0.18))
    colour = np.array(colours[ground.offset[0] % len(colours)], np.float32)
    stroke = pen_stroke(box, mpp, ground) * np.float32(ground.ink)
    return as_float(1 - stroke[..., None] * (1 - colour))


def pen_stroke(box: Box, mpp: float, ground: Ground) -> FloatArray:
    """Where a pen went: 1 within a broad stroke, 0 outside."""
    return smoothstep(noise(box, 45 / mpp, ground.offset, 16), 0.8, 0.95)


def _fringed(light: FloatArray, shift_px: float) -> FloatArray:
    """Shift red and blue against each other along the diagonal, as optics and line scanners do."""
    result = light.copy()
    for channel, sign in ((0, 1.0), (2, -1.0)):
        result[..., channel] = ndimage.shift(
            light[..., channel], sign * 0.35 * shift_px, order=1, mode="nearest", prefilter=False
        )
    return result


def with_gaps(
    weights: FloatArray, islands: FloatArray, box: Box, mpp: float, ground: Ground, lumen_from: float
) -> FloatArray:
    """Open the lumina of glands (where `islands` exceeds `lumen_from`) and the sinusoids of liver plates."""
    has_lumina = ground.columnar > 0.3 and weights[TUMOUR].any()
    has_sinusoids = weights[HOST].any()
    if not (has_lumina or has_sinusoids):
        return weights
    gap = np.zeros_like(weights[GLASS])
    if has_lumina:
        gap += weights[TUMOUR] * smoothstep(islands, lumen_from, lumen_from + 0.12)
    if has_sinusoids:
        slits = np.abs(noise(box, 10.0 / mpp, ground.offset, 13))
        slits -= np.float32(0.12) * noise(box, 6.0 / mpp, ground.offset, 14)
        gap += weights[HOST] * smoothstep(-slits, -0.22, 0.05) * np.float32(0.8)
    weights = weights * (1 - gap)
    weights[GLASS] += gap
    return weights


class Signals(NamedTuple):
    """What glows in a window, (H, W) each, before the camera: cells' nuclei, CD8, and the tissue itself.

    cd8 : with what its filter lets through of the other two.
    """

    nuclear: FloatArray
    cd8: FloatArray
    auto: FloatArray

    def channels(self, lamp: Lamp) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what the nuclear, CD8 and autofluorescence channels see."""
        to_nuclear, from_cd8 = np.float32(lamp.spill[0]), np.float32(lamp.spill[3])
        return self.nuclear + to_nuclear * self.auto, self.cd8, self.auto + from_cd8 * self.cd8


def glow(painted: Layers, weights: FloatArray, lamp: Lamp, ground: Ground, box: Box, mpp: float) -> Signals:
    """Let cells on their tissue fluoresce."""
    tissue = 1 - weights[GLASS]
    cloudy = noise(box, 12.0 / mpp, ground.offset, 7)
    granular = noise(box, 1.5 / mpp, ground.offset, 6)
    auto = tissue * (0.25 + np.float32(0.35) * weights[HOST] + np.float32(0.2) * weights[STROMA])
    auto *= np.maximum(1 + np.float32(0.25) * cloudy, 0.1)
    body = np.maximum(0.15 + np.float32(0.08) * granular, 0) * (1 + 2 * weights[HOST])
    auto += painted.cytoplasm * body
    auto *= np.float32(lamp.autofluorescence)
    nuclear = painted.nuclear * np.maximum(1 + np.float32(ground.chromatin) * granular, 0.2)
    # Thick places hold several nuclei above each other: bright, without seams.
    nuclear *= np.exp(np.float32(0.35) * cloudy)
    from_nuclear, from_auto = np.float32(lamp.spill[1]), np.float32(lamp.spill[2])
    cd8 = painted.brown * np.float32(lamp.cd8) + from_nuclear * nuclear + from_auto * auto
    return Signals(nuclear, cd8, auto)


def exposed(channels: FloatArray, lamp: Lamp, ground: Ground, box: Box, mpp: float) -> NDArray[np.uint16]:
    """Signals of channels (H, W, n) to what the camera writes, uint16."""
    channels = blurred(channels, lamp.blur_um / mpp)
    x = ((np.arange(box.x, box.right) + 0.5) * mpp).astype(np.float32)
    y = ((np.arange(box.y, box.bottom) + 0.5) * mpp).astype(np.float32)
    for channel, (floor, slope, phase) in enumerate(zip(lamp.floor, lamp.slope, lamp.phase, strict=True)):
        # Uneven light: a wave much longer than a field.
        wave = (
            np.sin(x * np.float32(2 * np.pi / 900) + phase)[None]
            + np.sin(y * np.float32(2 * np.pi / 1100))[:, None]
        )
        signal = np.maximum(channels[..., channel] + floor + slope * wave, 0)
        # Shot noise of many photons is normal.
        shot = np.sqrt(signal / np.float32(lamp.photons)) * noise(box, 0.25, ground.offset, 8 + channel)
        channels[..., channel] = (signal + shot) * lamp.gain[channel]
    result: NDArray[np.uint16] = np.clip(channels + 0.5, 0, 65535).astype(np.uint16)
    return result


def fluoresce(
    amounts: FloatArray,
    painted: Layers,
    weights: FloatArray,
    lamp: Lamp,
    ground: Ground,
    box: Box,
    mpp: float,
) -> NDArray[np.uint16]:
    """The same cells through another pen: (H, W, 3) uint16 nuclear, CD8, autofluorescence."""
    channels = np.stack(glow(painted, weights, lamp, ground, box, mpp).channels(lamp), axis=-1)
    return exposed(channels, lamp, ground, box, mpp)
