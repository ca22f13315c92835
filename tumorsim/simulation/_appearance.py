"""What a contrast-enhanced T1 scan shows: tissue and tumor intensities, then field, blur and noise."""

from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter

from tumorsim.simulation._anatomy import CHANNELS
from tumorsim.simulation._noise import draw_frame, noise, smooth_field

_SPHERE = 64.0  # mm from the brain's middle; sulci are drawn on this sphere and continue inward


def _draw_contrast(rng):
    """Draw intensities, white matter being 1: fluid < gray <~ white < enhancement in 85 % of scans."""
    usual = rng.random() < 0.85
    spin_echo = rng.random() < 0.5  # little contrast of gray and white matter, flow voids
    fluid = rng.uniform(0.12, 0.5) if usual else rng.uniform(0.05, 0.6)
    gray = rng.uniform(0.84, 1.02) if spin_echo else rng.uniform(0.62, 0.82)
    gray = gray if usual else rng.uniform(0.6, 1.25)
    brightest = max(1.0, gray)
    enhancing = brightest * (rng.uniform(1.4, 2.0) if usual else rng.uniform(1.25, 2.4))
    gain = enhancing - brightest
    void = spin_echo and rng.random() < 0.6
    fat = rng.uniform(0.35, 0.8) if rng.random() < 0.25 else rng.uniform(1.3, 2.6)
    return SimpleNamespace(
        fluid=fluid,
        gray=gray,
        enhancing=enhancing,
        faintest=brightest * 1.2,  # that a tumor's bright part may be
        fat=fat,
        muscle=rng.uniform(0.55, 0.95),
        bone=rng.uniform(0.03, 0.18),
        marrow=fat * rng.uniform(0.3, 0.75),
        dura=brightest + gain * rng.uniform(-0.4, 0.4),
        veins=brightest + gain * rng.uniform(0.5, 1.25),
        arteries=rng.uniform(0.1, 0.3) if void else brightest + gain * rng.uniform(0.4, 1.3),
        necrosis=fluid + (gray - fluid) * rng.uniform(0.1, 0.7),
        edema=rng.uniform(0.62, 0.88),
    )


def _shift(frame, phase):
    """Return a noise frame (4, 3) moved by `phase` voxels: other values of the same noise."""
    return frame + np.array([0, 0, 0, phase])[:, None]


def _step(x, width):
    """Rise smoothly from 0 to 1 around x = 0 within about 4 `width`."""
    return 0.5 + 0.5 * np.tanh(x * np.float32(0.5 / width))


def displace(points, lesions):
    """Return where tissue at `points` (n, 3) lay before the tumors pushed it away, MNI mm.

    Around a ball that displaced the share `push` of its volume, incompressible tissue at relative radius s
    comes from (s**3 - push) ** (1/3); the shift fades to nothing at four radii.
    """
    moved = points.copy()
    for lesion in lesions:
        offset = points - np.float32(lesion.center)
        near = np.flatnonzero((np.abs(offset) < 4.5 * lesion.radius).all(1))
        offset = offset[near]
        s = np.sqrt(((offset @ np.float32(lesion.axes)) ** 2).sum(1)) / np.float32(lesion.radius)
        shrink = np.cbrt(1 - lesion.push / np.maximum(s, 1) ** 3) - 1
        fade = np.clip((4 - s) / 2, 0, 1)
        moved[near] += offset * (shrink * fade)[:, None]
    return moved


def draw_intensities(rng, scan, lesions, depths, body=None):
    """Draw the intensity of each point of a scan, without field and noise; white matter is 1.

    Parameters
    ----------
    rng : numpy.random.Generator
    scan : Scan
        Of `draw_scan`, with n points.
    lesions : sequence of Lesion
        Tumors of the simulator, or none.
    depths : sequence of pairs of ndarray
        For each lesion, the points near it, (m,), and mm below its surface, (m,).
    body : Generator, optional
        Draws what stays the same at a patient's next date: sulci, skull, scalp. Default: `rng`.

    Returns
    -------
    signal : ndarray of shape (n,), dtype=float32
    """
    contrast = _draw_contrast(rng)
    signal = np.full(len(scan.points), contrast.fluid, np.float32)
    brain_share = np.zeros(len(signal), np.float32)
    inner = np.flatnonzero(scan.distance < 6)
    moved = displace(scan.points[inner], lesions)
    signal[inner], brain_share[inner] = _draw_brain(body or rng, scan.take(inner), moved, contrast)
    tissue = dict(zip(CHANNELS, scan.head.extras.sample(scan.points), strict=True))
    if scan.whole_head:
        outer = np.flatnonzero(scan.distance > 0.5)
        draw = _draw_outside if scan.head.real else _draw_shell
        around = {name: share[outer] for name, share in tissue.items()}
        signal[outer] = draw(body or rng, scan.take(outer), signal[outer], contrast, around)
    _draw_enhancing(rng, scan, signal, contrast, tissue)
    keep = np.ones(len(signal), np.float32) if scan.whole_head else _strip(rng, scan, brain_share)
    for lesion, (index, depth) in zip(lesions, depths, strict=True):
        _draw_lesion(rng, scan, signal, keep, contrast, lesion, index, depth)
    return signal * keep


def _draw_brain(rng, scan, points, contrast):
    """Return intensity and share of brain for each point; `points` (n, 3) are where its tissue came from."""
    head = scan.head
    frame = draw_frame(rng)
    gray, white, brain = head.brain.sample(points)
    distance = scan.distance.copy()
    moved = np.flatnonzero((points != scan.points).any(axis=1))
    distance[moved] = head.shell.sample(points[moved])[0]
    if head.real:
        return _draw_labeled_brain(rng, scan, contrast, (gray, white, brain), distance, _shift(frame, 41))
    fluid = np.clip(brain - gray - white, 0, 1)
    gray, white, fluid = gray**1.7, white**1.7, fluid**1.4  # the average brain is blurred; draw it together
    total = gray + white + fluid + np.float32(1e-3)
    fluid = (fluid + 1e-3) / total
    solid_gray = gray / (gray + white + np.float32(1e-3))

    # Sulci are where smooth noise on a sphere changes sign: sheets that run inward, new ones each patient.
    offset = points - np.float32((0, -16, 10))
    radius = np.sqrt((offset**2).sum(1)) + np.float32(1e-3)
    onto = offset * ((_SPHERE + 0.2 * (radius - _SPHERE)) / radius)[:, None]
    onto += 2.2 * noise(points, 26.0, _shift(frame, 20))[2:].T  # sheets bend on their way in
    sheet, slope, wander, _, speckle = noise(onto, rng.uniform(17, 23), frame)
    away = np.abs(sheet) / np.maximum(slope, 0.06) * (radius / _SPHERE)
    width = np.float32(rng.uniform(0.4, 1.5)) * (1 + 0.4 * wander)  # half a sulcus, mm; wide in atrophy
    below = -distance - np.float32(rng.uniform(0.0, 1.0))
    open_ = _step(14 + 6 * wander - below, 1.2)
    sulcus = _step(width - away, 0.45) * open_
    ribbon = 1 - _step(np.minimum(np.where(open_ > 0.5, away - width, 9), below) - 2.6, 0.5)
    zone = scan.cerebrum * _step(17 + 4 * wander - below, 2.0) * _step(np.abs(points[:, 0]) - 7, 1.5)
    zone *= 1 - np.clip(2.5 * fluid - 0.75, 0, 1)
    fluid = np.maximum(fluid * (1 - 0.6 * zone), sulcus * zone)
    solid_gray = zone * ribbon + (1 - zone) * solid_gray

    texture = noise(scan.points, 5.0, _shift(frame, 41), 1)[0]
    signal = (contrast.gray * solid_gray + (1 - solid_gray)) * (1 + 0.018 * texture)
    folia = np.sin((points[:, 2] + 0.35 * points[:, 1]) * np.float32(2 * np.pi / 4.4) + wander)
    signal *= 1 - 0.14 * np.clip(folia, 0, 1) * (1 - scan.cerebrum) * solid_gray * (points[:, 1] < -46)
    signal += (contrast.fluid - signal) * np.clip(fluid, 0, 1)
    vessels = sulcus * zone * _step(speckle - 1.5, 0.12) * np.float32(rng.uniform(0, 1))
    signal += (contrast.veins - signal) * np.clip(vessels, 0, 1)
    inside = _step(brain - 0.45, 0.05)
    signal = contrast.fluid + (signal - contrast.fluid) * inside
    return signal, np.maximum(inside, _step(0.3 - distance, 0.3))


def _draw_labeled_brain(rng, scan, contrast, tissue, distance, frame):
    """Return intensity and share of brain for each point of a real anatomy; `tissue`: gray, white, brain."""
    gray, white, brain = tissue
    texture = noise(scan.points, 5.0, frame, 3)
    gray_level = contrast.gray * (1 + 0.02 * texture[0])
    signal = contrast.fluid + (gray_level - contrast.fluid) * np.clip(gray, 0, 1)
    signal += (1 + 0.02 * texture[2] - contrast.fluid) * np.clip(white, 0, 1)
    vessels = _step(texture[2] - 1.8, 0.12) * _step(0.45 - gray - white, 0.1) * (brain > 0.5)
    signal += (contrast.veins - signal) * vessels * np.float32(rng.uniform(0, 1))
    return signal, np.maximum(_step(brain - 0.5, 0.06), _step(0.3 - distance, 0.3) * (gray + white > 0.5))


def _draw_outside(rng, scan, signal, contrast, tissue):
    """Return `signal` (n,) with what a real anatomy's labels say lies outside the brain; as `_draw_shell`."""
    texture = noise(scan.points, 5.0, draw_frame(rng), 3)
    strands = noise(scan.points, 15.0, draw_frame(rng), 3)
    fat = 0.85 * contrast.fat * (1 + 0.08 * texture[2])
    skin = _step(scan.skin + rng.uniform(1.5, 3), 0.4)  # the skin itself is darker than the fat under it
    soft = contrast.muscle * (1 + 0.08 * texture[0])
    soft = soft + (0.75 * fat - soft) * _step(strands[0] - rng.uniform(0.5, 1.1), 0.15)
    levels = {
        "fat": fat + (0.6 * contrast.muscle + 0.25 - fat) * skin,
        "muscle": soft,
        "air": 0.01,
        "eye": 0.8 * contrast.fluid + 0.1,
        "mucosa": contrast.veins * rng.uniform(0.5, 1.0) * (1 + 0.15 * strands[2]),
        "bone": contrast.bone,
        "marrow": contrast.marrow * (1 + 0.15 * texture[2]),
    }
    total = sum(tissue[name] for name in levels)
    mixed = sum(level * tissue[name] for name, level in levels.items())
    return signal + (mixed - total * signal) / np.maximum(total, 1) * _step(scan.distance - 0.3, 0.3)


def _draw_shell(rng, scan, signal, contrast, tissue):
    """Return `signal` (n,) with skull, scalp and face drawn over it; `tissue`: channel → share (n,)."""
    distance = scan.distance
    waves = noise(scan.points, 38.0, draw_frame(rng), 1)[0]
    strands = noise(scan.points, 17.0, draw_frame(rng), 3)
    texture = noise(scan.points, 5.0, draw_frame(rng), 3)
    skull = rng.uniform(4.5, 8) * (1 + 0.22 * waves)  # mm
    outside = _step(distance - 2.6, 0.3)
    diploe = np.exp(-(((distance - 2.6 - 0.55 * skull) / (0.22 * skull)) ** 2)) * (0.75 + 0.25 * texture[0])
    bone = contrast.bone + (contrast.marrow - contrast.bone) * np.clip(diploe, 0, 1)
    soft = contrast.fat * (0.85 + 0.1 * texture[2])
    mixed = contrast.muscle + (0.7 * contrast.fat - contrast.muscle) * _step(strands[0] - 0.7, 0.12)
    mixed += (contrast.bone - mixed) * _step(strands[2] - 1.0, 0.1)
    mixed *= 1 + 0.06 * texture[0]
    soft += (mixed - soft) * _step(-scan.skin - 9, 1.2)  # below the fat: strands of muscle, fat and bone
    soft += (0.7 * contrast.muscle + 0.2 - soft) * _step(scan.skin + 1.8, 0.3)  # the skin itself
    rest = bone + (soft - bone) * _step(distance - 2.6 - skull, 0.4)
    beyond = outside * _step(distance - 3.2, 0.4)
    for name, level in (
        ("muscle", contrast.muscle * (1 + 0.12 * texture[2])),
        ("fat", contrast.fat * (0.7 + 0.05 * texture[0])),
        ("eye", 0.8 * contrast.fluid + 0.1),
        ("air", 0.01),
        ("mucosa", contrast.veins * rng.uniform(0.5, 1.0)),
    ):
        rest += (level - rest) * tissue[name] * (beyond if name in ("muscle", "fat") else 1)
    return (signal + (rest - signal) * outside) * _step(-scan.skin, 0.25)


def _draw_enhancing(rng, scan, signal, contrast, tissue):
    """Draw dura, falx, vessels, pituitary and choroid plexus into `signal` (n,), in place."""
    distance, points = scan.distance, scan.points
    waves = noise(points, 38.0, draw_frame(rng), 1)[0]
    thin = np.float32(rng.uniform(0.35, 0.9))
    at = 0.5 if scan.head.real else 1.9  # mm outside the envelope
    dura = np.exp(-(((distance - at) / thin) ** 2)) * np.clip(0.75 + 0.35 * waves, 0, 1)
    lower_edge = 8 + 0.004 * np.maximum(-20 - points[:, 1], 0) ** 2  # mm; the tentorium meets the falx behind
    falx = np.exp(-((scan.midline / thin) ** 2)) * _step(points[:, 2] - lower_edge, 3.0)
    falx *= _step(distance + 22, 2.0) * (distance < 1)
    plexus = contrast.fluid + (contrast.gray - contrast.fluid) * rng.uniform(0.2, 0.6)
    for share, level in (
        (dura, contrast.dura),
        (np.clip(falx, 0, 1), contrast.dura),
        (tissue["veins"] * (distance < 5), contrast.veins),
        (tissue["arteries"], contrast.arteries),
        (tissue["pituitary"], contrast.enhancing * 0.9),
        (tissue["choroid"] * _step(plexus - signal, 0.05), contrast.veins),
    ):
        signal += (level - signal) * share


def _strip(rng, scan, brain_share):
    """Return what a skull stripper keeps of each point, 0..1; some leave dura and bite off cortex."""
    if rng.random() < 0.7:
        return brain_share * _step(rng.uniform(-0.5, 1.0) - scan.distance, 0.3)
    waves = noise(scan.points, 45.0, draw_frame(rng), 1)[0]
    return _step(rng.uniform(-1, 2) + rng.uniform(1, 2.5) * waves - scan.distance, 0.3)


def _brightness(contrast, level):
    """Return the intensity of a tumor's solid part; above 1, `level` follows the scan's contrast."""
    white = contrast.faintest / 1.2
    if level <= 1:
        return white * level
    strength = 0.5 + (contrast.enhancing / white - 1) / 1.4  # 1 where enhancement is 1.7 times white matter
    return white * max(1 + (level - 1) * strength, 1.08)


def _draw_lesion(rng, scan, signal, keep, contrast, lesion, index, depth):
    """Draw edema, cleft, dural tail and the tumor itself into `signal` and `keep`, in place."""
    points, distance = scan.points[index], scan.distance[index]
    waves = noise(points, max(0.8 * lesion.radius, 5.0), _shift(lesion.frame, 11))
    fine = noise(points, 4.5, _shift(lesion.frame, 37))
    here = signal[index]
    level = _brightness(contrast, lesion.level)
    if lesion.edema:
        reach = lesion.edema * (1 + 0.45 * waves[0])
        soaked = _step(depth + reach, 1.2) * _step(-distance - 3, 1.0) * np.clip((here - 0.75) / 0.2, 0, 1)
        here = here * (1 - (1 - contrast.edema) * np.clip(soaked, 0, 1))
    if lesion.cleft:
        gap = _step(depth + lesion.cleft, 0.3) * (distance < 1)
        here += (contrast.fluid - here) * 0.8 * gap
    if lesion.tail:
        on_dura = np.exp(-(((distance - 1.3) / 1.1) ** 2))
        if lesion.falx:
            on_dura = np.maximum(on_dura, np.exp(-((scan.midline[index] / 1.1) ** 2)) * (distance < 0))
        here += (0.9 * level - here) * on_dura * _step(depth + lesion.tail * (1 + 0.2 * waves[2]), 1.5)
    inside = contrast.necrosis
    if lesion.inside is not None:
        inside = contrast.fluid + (contrast.gray - contrast.fluid) * lesion.inside
    inside = inside * (1 + 0.08 * fine[2] + (0.03 + lesion.grain) * waves[2])
    body = level * (1 + lesion.grain * (0.85 * waves[2] + 0.45 * fine[0]))
    if lesion.rim:
        rim = lesion.rim * np.maximum(1 + (0.3 + 0.4 * lesion.ragged) * waves[3], 0)
        if lesion.cavity:
            rim = rim * _step(-4 - distance, 1.0)
        body += (inside - body) * _step(depth - rim, 0.3 + lesion.border)
    if lesion.patchy:
        cut = 1.6 - 2.6 * lesion.patchy  # of unit noise: about the share `patchy` is above
        body += (inside - body) * (_step(waves[4] - cut, 0.1) * _step(depth - 1.5, 0.4))
    if lesion.halo:
        halo = lesion.halo * np.maximum(1 + 0.6 * waves[0], 0)
        body += (level * 0.2 + 0.6 * contrast.gray - body) * _step(halo - depth, 0.5)
    share = _step(depth, lesion.border)
    signal[index] = here + (body - here) * share
    keep[index] = np.maximum(keep[index], share)


def to_scanner(rng, scan, signal):
    """Average points into voxels, then add coil field, blur and noise.

    Parameters
    ----------
    rng, scan
        As in `draw_intensities`.
    signal : ndarray of shape (n,)
        Of `draw_intensities`.

    Returns
    -------
    image : ndarray of shape ``scan.shape``, dtype=int16
    """
    image = scan.gather(signal)
    shape = scan.shape
    blur = rng.uniform(0.0, 0.9) / scan.spacing  # mm
    image = gaussian_filter(image, np.where(scan.spacing > 2.5, 0, blur), mode="nearest", truncate=3.0)
    field = smooth_field(rng, shape, 2)[0]
    image *= np.exp(field * np.float32(rng.uniform(0.03, 0.16)))
    level = np.float32(rng.uniform(0.008, 0.05))
    real, imaginary = rng.standard_normal((2, *shape), dtype=np.float32) * level
    if rng.random() < 0.5:  # neighbors in plane share noise after the scanner's own interpolation
        real = gaussian_filter(real, 0.5)
    noisy = np.sqrt((image + real) ** 2 + imaginary**2)
    if not scan.whole_head:
        noisy = np.where(image > 0.02, noisy, 0)
    return np.clip(np.round(noisy * rng.uniform(150, 900)), 0, 32767).astype(np.int16)
