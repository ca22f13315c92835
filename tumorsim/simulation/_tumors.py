"""What tumors are like: number, place, size, shape and look by type, and the types themselves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tumorsim.anatomy import region_at
from tumorsim.simulation._anatomy import HEAD
from tumorsim.simulation._noise import draw_frame, noise

_FREE_PLACE = 0.3  # share of tumors whose place, tail and ring do not depend on their type
_DURA = 1.5  # mm outside the brain's envelope
_PIA = -1.5  # the same for what grows in the brain and seldom breaks through its surface
_BELOW_SELLA = 20.0  # the same for what grows in the sella, which lies in bone
_DEEP = np.array([28.0, -16, 16])  # mm, the middle of the right hemisphere
# Diameter in mm: median, spread of its logarithm, ends; share with even log-volume instead, its ends in ml.
_SIZES = {
    "metastasis": (8.0, 0.6, 3, 35, 0.10, 17, 60),
    "meningioma": (23.7, 0.4, 8.4, 54, 0.12, 0.3, 2.0),
    "schwannoma": (15.0, 0.5, 5, 40, 0.0, 1, 1),
    "glioma": (50.0, 0.32, 20, 70, 0.20, 0.6, 9.0),
    "pituitary_adenoma": (26.0, 0.32, 11, 40, 0.0, 1, 1),
}


@dataclass
class Lesion:
    """One tumor in MNI space, before it is drawn on a grid."""

    center: np.ndarray  # (3,), mm
    radius: float  # mm, of the ball that it grew from
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))  # (3, 3), stretches offsets; volume stays
    lobes: tuple = ()  # (center (3,), radius) in mm of more balls, fused with the first
    bumps: float = 0.06  # amplitude of the surface's unevenness, share of the radius
    ragged: float = 0.0  # unevenness of its finer detail and of the rim's thickness, 0..1
    beyond: float = _DURA  # mm outside the brain's envelope that it may reach
    frame: np.ndarray | None = None  # (4, 3), of its noise
    cone: tuple | None = None  # start (3,), end (3,) in mm, radii at both
    falx: int = 0  # side of the falx that it keeps to: -1, 0 (either), 1
    halo: float = 0.0  # mm under the surface that enhance little
    rim: float = 0.0  # mm; 0 is solid, else what is deeper is necrosis
    cavity: bool = False  # the middle is where a surgeon took it out; open where it meets the brain's surface
    patchy: float = 0.0  # share of the inside that is cystic, bled or, where little enhances, enhancing
    inside: float | None = None  # level of necrosis and cysts: 0 fluid, 1 gray matter; None is the scan's
    grain: float = 0.05  # spread of its brightness, share of it
    border: float = 0.22  # mm, a fourth of the border's width
    edema: float = 0.0  # mm beyond the border
    tail: float = 0.0  # mm along the dura beyond the border
    cleft: float = 0.0  # mm of cerebrospinal fluid between tumor and brain
    push: float = 0.6  # share of its volume that displaced brain instead of replacing it
    level: float = 1.6  # brightness where it enhances, white matter being 1, in a scan of usual contrast

    @property
    def reach(self):
        """Radius in mm around the center beyond which it changes nothing."""
        along = 0.0 if self.cone is None else np.linalg.norm(self.cone[1] - self.center)
        lobes = [np.linalg.norm(center - self.center) + 1.2 * radius for center, radius in self.lobes]
        size = max(1.25 * self.radius, along, *lobes) + (1.5 * self.bumps + 0.1 * self.ragged) * self.radius
        return size + max(self.edema * 1.5, self.tail, 3.0) + 2.0

    def depth(self, points, envelope):
        """Return mm below the surface at `points` (n, 3); `envelope`: mm outside the brain's, (n,)."""
        offset = (points - np.float32(self.center)) @ np.float32(self.axes)
        scale = np.sqrt((offset**2).sum(1)) / np.float32(self.radius)
        depth = (1 - scale) * np.float32(self.radius)
        blend = np.float32(0.25 * self.radius)
        for center, radius in self.lobes:
            other = np.float32(radius) - np.sqrt(((points - np.float32(center)) ** 2).sum(1))
            near = np.maximum(blend - np.abs(depth - other), 0)
            depth = np.maximum(depth, other) + near**2 / (4 * blend)
        uneven = noise(points, max(1.3 * self.radius, 4.0), self.frame, 1)[0] * np.float32(self.bumps)
        if self.ragged:
            detail = noise(points, max(0.5 * self.radius, 4.0), self.frame + 0.5, 1)[0]
            uneven += np.float32(0.05 * self.ragged) * detail
        depth += uneven * np.float32(self.radius)
        if self.falx:
            depth = np.minimum(depth, self.falx * points[:, 0])
        depth = np.minimum(depth, self.beyond - envelope)
        if self.cone is not None:
            start, end, first, last = self.cone
            along = np.clip((points - start) @ (end - start) / ((end - start) ** 2).sum(), 0, 1)
            away = np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)
            depth = np.maximum(depth, first + along * (last - first) - away)
        return depth.astype(np.float32)


class Place(NamedTuple):
    """Where a tumor starts."""

    point: np.ndarray  # (3,), mm
    outward: np.ndarray | None  # (3,), of the dura that it sits on, if any
    kind: str  # "brain", "brainstem", "callosum", "dura", "falx", "canal" or "sella"


class TumorType(NamedTuple):
    """One row of `TYPES`."""

    weight: float  # share of patients
    count: Callable  # rng → tumors per patient
    place: Callable  # rng, head → Place
    build: Callable  # rng, Place → Lesion


def draw_lesion(name, rng, head):
    """Draw one tumor of the type `name` in a `Head`; three in ten have place and appearance of any type."""
    typical = rng.random() >= _FREE_PLACE
    source = name if typical else list(TYPES)[rng.integers(len(TYPES))]
    place = TYPES[source].place(rng, head)
    lesion = TYPES[name].build(rng, place)
    if place.kind == "sella":
        lesion.beyond = _BELOW_SELLA
    if not typical:  # ring and tail as if the type were unknown; what never enhanced gets no ring
        if not lesion.cavity and lesion.level > 1:
            lesion.rim = rng.uniform(1.5, 4) if rng.random() < 0.35 and lesion.radius > 6 else 0.0
        _draw(rng, lesion, tail=(5, 14, 0.3))
    lesion.frame = draw_frame(rng)
    return lesion


def _draw(rng, lesion, **ranges):
    """Set attributes to draws from (low, high) in turn, or from (low, high, chance), else to 0."""
    for name, (low, high, *chance) in ranges.items():
        setattr(lesion, name, rng.uniform(low, high) if not chance or rng.random() < chance[0] else 0.0)


def _draw_radius(rng, name):
    """Draw the radius in mm of a tumor of the type `name` from `_SIZES`."""
    median, spread, low, high, share, least, most = _SIZES[name]
    if rng.random() < share:
        volume = 1000 * np.exp(rng.uniform(np.log(least), np.log(most)))
        return (0.75 * volume / np.pi) ** (1 / 3)
    return np.clip(rng.lognormal(np.log(median), spread), low, high) / 2


def _move_inward(lesion, share):
    """Move a large tumor, which reaches inward, from the brain's surface toward its hemisphere's middle."""
    side = np.sign(lesion.center[0]) or 1.0
    lesion.center = lesion.center + share * lesion.radius * (_DEEP * (side, 1, 1) - lesion.center)


def _add_lobes(rng, lesion, number):
    """Fuse `number` smaller balls with a tumor, in random directions."""
    for direction in (rng.standard_normal(3) for _ in range(number)):
        away = direction / np.linalg.norm(direction) * rng.uniform(0.6, 1.0) * lesion.radius
        lesion.lobes += ((lesion.center + away, rng.uniform(0.4, 0.7) * lesion.radius),)


def _stretch(rng, spread):
    """Draw a volume-keeping stretch (3, 3) in a random direction."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    logs = rng.normal(0, spread, 3)
    return rotation @ np.diag(np.exp(logs - logs.mean())) @ rotation.T


def _count_metastases(rng):
    """Draw their number: 49/21/13/6/11 % have 1/2/3/4/more (Delattre 1988)."""
    few = rng.choice(5, p=(0.49, 0.21, 0.13, 0.06, 0.11)) + 1
    return int(few if few < 5 else min(4 + rng.geometric(0.2), 20))


def _place_metastasis(rng, head):
    """Draw gray-white junction 81 %, cerebellum 14 %, brainstem 5 % (Lee 2022)."""
    where = rng.choice(3, p=(0.81, 0.14, 0.05))
    points = (head.junction, head.cerebellum, head.brainstem)[where]
    kind = "brainstem" if where == 2 else "brain"
    return Place(points[rng.integers(len(points))] + rng.uniform(-1, 1, 3), None, kind)


def _build_metastasis(rng, place):
    """Build a mostly round, sharp tumor, ringed when large, with edema; each overlaps with a glioma's."""
    radius = _draw_radius(rng, "metastasis")
    radius = min(radius, 11.0) if place.kind == "brainstem" else radius
    ring = rng.random() < 0.9 / (1 + np.exp(-(2 * radius - 14) / 3))  # seldom at 6 mm, mostly at 20
    lesion = Lesion(_seat(place, radius, 0.6), radius, _stretch(rng, rng.uniform(0.05, 0.14)))
    if radius > 12 and place.kind == "brain" and lesion.center[2] > -20:  # not in the cerebellum
        _move_inward(lesion, 0.008)
    if rng.random() < 0.2:
        _add_lobes(rng, lesion, 1)
    _draw(rng, lesion, bumps=(0.02, 0.1), ragged=(0.1, 0.6, 0.3), border=(0.2, 0.45))
    lesion.rim = rng.uniform(0.1, 0.35) * radius + 1.0 if ring else 0.0
    lesion.edema = rng.uniform(2, 14) * min(radius / 4, 1.4) if rng.random() < 0.75 else 0.0
    _draw(rng, lesion, push=(0.3, 0.7), inside=(0.1, 1.0), grain=(0.03, 0.14), level=(1.15, 1.9))
    return lesion


def _place_meningioma(rng, head):
    """Draw one of the dural sites and a point of it; where a head's surface has none there, another site."""
    sites = list(HEAD["dural_sites"].items())
    shares = np.array([share for _, (share, *_) in sites])
    site, (_, *box) = sites[rng.choice(len(sites), p=shares / shares.sum())]
    side = rng.choice((-1, 1))
    if site == "ventricle":
        return Place(np.array([side * 25.0, -42.0, 10.0]) + rng.uniform(-3, 3, 3), None, "brain")
    if site == "falx":
        angle = np.radians(rng.uniform(-25, 200))  # from the frontal pole over the vertex to the occiput
        away = np.array([0, np.cos(angle) * 78, np.sin(angle) * 58]) * rng.uniform(0.78, 1.0)
        return Place(np.array([0.0, -16, 12]) + away, np.array([-side, 0.0, 0]), "falx")
    if site == "posterior fossa" and rng.random() < 0.6:  # near the cerebellopontine angle
        away = np.linalg.norm(head.surface - (side * 27, -34, -36), axis=1)
        chosen = np.flatnonzero(away < max(9, away.min() + 1e-6))
    else:
        low, high = np.array(box)
        points = np.column_stack([np.abs(head.surface[:, 0]), head.surface[:, 1:]])
        chosen = np.flatnonzero(((points > low) & (points < high)).all(axis=1))
    if len(chosen) == 0:
        return _place_meningioma(rng, head)
    index = chosen[rng.integers(len(chosen))]
    return Place(head.surface[index].copy(), head.normals[index].copy(), "dura")


def _seat(place, radius, share):
    """Return the center of a tumor of `radius` mm at `place`; on the dura, `share` of the radius inside."""
    return place.point if place.outward is None else place.point - place.outward * share * radius


def _build_meningioma(rng, place):
    """Build a broad-based, even, bright tumor; median 6.5 ml, 0.4-90 (Kreil 2005), and smaller ones."""
    seat, flat = rng.uniform(0.3, 0.75), rng.uniform(1.0, 1.5)
    normal = np.zeros(3) if place.outward is None else place.outward
    one_sided = place.kind == "falx" and rng.random() < 0.8
    kept = 1.0 if place.outward is None else 1 / flat
    if one_sided or place.kind in ("dura", "canal"):  # which cut off a cap, and some more where they bend
        kept *= (0.5 + 0.75 * seat - 0.25 * seat**3) / 1.4
    radius = _draw_radius(rng, "meningioma") / np.cbrt(kept)
    lesion = Lesion(_seat(place, radius, seat), radius, bumps=rng.uniform(0.03, 0.1))
    lesion.axes = (np.eye(3) + (flat - 1) * np.outer(normal, normal)) @ _stretch(rng, 0.06)
    if one_sided:
        lesion.falx = int(-place.outward[0])
    _draw(rng, lesion, tail=(6, 16, 0.65), edema=(3, 18, 0.4), patchy=(0.05, 0.15, 0.15), inside=(0.3, 1.3))
    _draw(rng, lesion, grain=(0.05, 0.2), cleft=(0.3, 1.5), level=(1.2, 1.8))
    lesion.push = 0.97
    return lesion


def _place_schwannoma(rng, head):
    """Draw the internal auditory canal 95 %, else the trigeminal or the jugular cistern."""
    side = rng.choice((-1, 1))
    if rng.random() < 0.95:
        point = np.array([side * 27.0, -35, -35]) + rng.uniform(-1.5, 1.5, 3)
        return Place(point, np.array([side, 0.0, 0]), "canal")
    point = ((18.0, -18, -32), (22.0, -40, -50))[rng.integers(2)]
    return Place(np.array(point) * (side, 1, 1) + rng.uniform(-2, 2, 3), None, "brain")


def _build_schwannoma(rng, place):
    """Build a cone into the canal and a ball in the cistern; patchy and cystic above 25 mm."""
    radius = _draw_radius(rng, "schwannoma")
    lesion = Lesion(_seat(place, radius, 0.75), radius, _stretch(rng, 0.08), bumps=rng.uniform(0.02, 0.07))
    if place.kind == "canal":
        wide = min(radius, rng.uniform(2.4, 3.6))
        end = place.point + place.outward * rng.uniform(5, 11) + (0, rng.uniform(-1, 1), 0)
        lesion.cone = (place.point - place.outward * 0.5 * radius, end, wide, 0.5 * wide)
    large = 2 * radius > 25
    _draw(rng, lesion, patchy=(0.15, 0.5, 0.75 if large else 0.15), inside=(0.05, 0.9))
    _draw(rng, lesion, grain=(0.08, 0.2) if large else (0.04, 0.14), cleft=(0, 1.0), level=(1.25, 1.85))
    lesion.push = 0.95
    return lesion


# Areas, share (Larjavaara 2007).
_GLIOMA_AREAS = {
    ("frontal",): 0.40,
    ("temporal",): 0.29,
    ("parietal",): 0.14,
    ("deep_gray", "insula", "cingulate"): 0.14,
    ("occipital",): 0.03,
}
_CALLOSUM = ((0.0, 26, 8), (0.0, 0, 24), (0.0, -36, 18))  # genu, body, splenium; mm


def _place_glioma(rng, head):
    """Draw an area of `_GLIOMA_AREAS` and a point of it; 7 % start in the corpus callosum."""
    if rng.random() < 0.07:
        point = np.array(_CALLOSUM[rng.choice(3, p=(0.55, 0.15, 0.3))])
        return Place(point + rng.uniform(-1, 1, 3) * (7, 5, 3), None, "callosum")
    areas = list(_GLIOMA_AREAS)[rng.choice(5, p=list(_GLIOMA_AREAS.values()))]
    few = head.hemispheres[rng.integers(len(head.hemispheres), size=200)]
    found = few[np.isin(region_at(few), areas)]
    found = found if len(found) else few
    return Place(found[rng.integers(len(found))].copy(), None, "brain")


def _build_glioma(rng, place):
    """Build an irregular tumor: an uneven rim round necrosis, or with little enhancement, or operated on."""
    radius = _draw_radius(rng, "glioma")
    lesion = Lesion(_seat(place, radius, 0.7), 0.9 * radius, _stretch(rng, 0.16))
    if place.kind == "callosum":  # the butterfly
        lesion.axes = np.diag((0.72, 1.18, 1.18)) @ _stretch(rng, 0.06)
    elif abs(lesion.center[0]) > 3:
        lesion.falx = int(np.sign(lesion.center[0]))
        if place.kind == "brain":
            _move_inward(lesion, 0.009)
    if place.kind != "dura":
        lesion.beyond = _PIA
    _add_lobes(rng, lesion, rng.integers(4))
    _draw(rng, lesion, bumps=(0.06, 0.17), ragged=(0.3, 1.0))
    lesion.edema = min(radius * rng.uniform(0.25, 1.0), 20) if rng.random() < 0.85 else 0.0
    _draw(rng, lesion, border=(0.22, 0.7), grain=(0.08, 0.2), push=(0.1, 0.5), inside=(0.3, 1.05))
    _draw(rng, lesion, level=(1.15, 1.8), halo=(0.06, 0.3, 0.45), patchy=(0.1, 0.4, 0.5))
    lesion.halo *= radius
    kind = rng.random()
    if kind < 0.33:  # dark or as bright as the brain, which it displaces; enhances, if at all, in patches
        _draw(rng, lesion, level=(0.55, 1.0), patchy=(0.05, 0.35, 0.4), border=(0.4, 1.4), grain=(0.03, 0.12))
        _draw(rng, lesion, inside=(1.2, 2.0), push=(0.3, 0.9))
        lesion.halo = 0.0
    elif kind < 0.51 and radius > 8:
        _draw(rng, lesion, inside=(0, 0.12), rim=(1.2, 4.0))
        lesion.cavity, lesion.halo, lesion.patchy, lesion.push = True, 0.0, 0.0, 0.0
    elif kind < 0.9:
        lesion.rim = lesion.halo + rng.uniform(0.12, 0.4) * radius + 1
    else:
        _draw(rng, lesion, patchy=(0.15, 0.45))
    return lesion


def _place_adenoma(rng, head):
    """Draw a point of the sella, which lies in the midline."""
    return Place(np.array([0.0, 3.5, -34]) + rng.uniform(-1, 1, 3) * (2, 1.5, 1.5), None, "sella")


def _build_adenoma(rng, place):
    """Build a smooth tumor, waisted between sella and cistern when large; cystic or bled in some."""
    radius = _draw_radius(rng, "pituitary_adenoma")
    up = np.array([0.0, 0.15, 1.0]) if place.kind == "sella" else rng.standard_normal(3)
    up /= np.linalg.norm(up)
    center = _seat(place, radius, 0.8)
    if place.kind == "sella":
        center = center + up * max(0.6 * radius - 4, 0)  # it thins the floor, yet grows upward
    lesion = Lesion(center, radius, _stretch(rng, 0.07), bumps=rng.uniform(0.02, 0.06))
    if place.kind == "sella":  # broad between the carotids
        lesion.axes = np.diag((0.86, 1.06, 1.1)) @ lesion.axes
    if radius > 8 and rng.random() < 0.7:  # one ball below the diaphragm, one above
        lesion.radius = 0.86 * radius
        upper = rng.uniform(0.5, 0.85) * radius
        lesion.lobes = ((center + up * (rng.uniform(0.6, 0.8) * (lesion.radius + upper)), upper),)
    if radius > 7 and rng.random() < 0.35:  # into a cavernous sinus
        sideways = np.cross(up, (0.0, 1, 0))
        sideways *= rng.choice((-1, 1)) * lesion.radius * rng.uniform(0.7, 1.0) / np.linalg.norm(sideways)
        lesion.lobes += ((lesion.center + sideways, rng.uniform(0.45, 0.65) * lesion.radius),)
    _draw(rng, lesion, grain=(0.06, 0.22), level=(1.2, 1.8))
    inside = rng.random()
    if inside < 0.35:  # cystic, bled long ago (dark) or lately (bright)
        _draw(rng, lesion, patchy=(0.1, 0.4), inside=(1.8, 2.6) if inside < 0.1 else (0.2, 0.9))
    elif inside < 0.43:
        _draw(rng, lesion, rim=(2, 4), inside=(0.2, 1.1))
    _draw(rng, lesion, cleft=(0, 1.0))
    lesion.push = 0.9
    return lesion


def _few(*shares):
    """Return a function rng → number of tumors, from the shares of patients with 1, 2 and so on."""
    return lambda rng: 1 + int(rng.choice(len(shares), p=shares))


TYPES = {
    "metastasis": TumorType(0.28, _count_metastases, _place_metastasis, _build_metastasis),
    "meningioma": TumorType(0.22, _few(0.85, 0.11, 0.04), _place_meningioma, _build_meningioma),
    "schwannoma": TumorType(0.15, _few(0.97, 0.03), _place_schwannoma, _build_schwannoma),
    "glioma": TumorType(0.20, _few(0.88, 0.09, 0.03), _place_glioma, _build_glioma),
    "pituitary_adenoma": TumorType(0.15, _few(1.0), _place_adenoma, _build_adenoma),
}
