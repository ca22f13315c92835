"""What tumors are like: number, place, size, shape and look by type, and the types themselves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tumorsim.datasets._anatomy import load_head, noise

__all__ = ["TYPES", "Lesion", "TumorType", "draw_lesion"]

_FREE_PLACE = 0.3  # share of tumors whose place, tail and ring tell nothing of their type
_DURA = 1.5  # mm outside the brain's envelope


@dataclass
class Lesion:
    """One tumor in MNI space, before it is drawn on a grid."""

    center: np.ndarray  # (3,), mm
    radius: float  # mm, of the ball that it grew from
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))  # (3, 3), stretches offsets; volume stays
    bumps: float = 0.06  # amplitude of the surface's unevenness, share of the radius
    frame: np.ndarray | None = None  # (4, 3), of its noise
    cone: tuple | None = None  # start (3,), end (3,) in mm, radii at both
    falx: int = 0  # side of the falx that it keeps to: -1, 0 (either), 1
    rim: float = 0.0  # mm; 0 is solid, else what is deeper is necrosis
    patchy: float = 0.0  # share of the inside that is cystic
    edema: float = 0.0  # mm beyond the border
    tail: float = 0.0  # mm along the dura beyond the border
    cleft: float = 0.0  # mm of cerebrospinal fluid between tumor and brain
    push: float = 0.6  # share of its volume that displaced brain instead of replacing it
    level: float = 1.0  # enhancement, relative to the scan's

    @property
    def reach(self):
        """Radius in mm around the center beyond which it changes nothing."""
        along = 0.0 if self.cone is None else np.linalg.norm(self.cone[1] - self.center)
        return max(1.35 * self.radius, along) + max(self.edema * 1.5, self.tail, 3.0) + 2.0

    def depth(self, points, envelope):
        """Return mm below the surface at `points` (n, 3); `envelope`: mm outside the brain's, (n,)."""
        offset = (points - np.float32(self.center)) @ np.float32(self.axes)
        scale = np.sqrt((offset**2).sum(1)) / np.float32(self.radius)
        uneven = noise(points, max(1.3 * self.radius, 4.0), self.frame, 1)[0] * np.float32(self.bumps)
        depth = (1 + uneven - scale) * np.float32(self.radius)
        if self.falx:
            depth = np.minimum(depth, self.falx * points[:, 0])
        depth = np.minimum(depth, _DURA - envelope)
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
    kind: str  # "brain", "dura", "falx" or "canal"


class TumorType(NamedTuple):
    """One row of `TYPES`."""

    weight: float  # share of patients
    count: Callable  # rng → tumors a patient
    place: Callable  # rng → Place
    build: Callable  # rng, Place, typical (bool) → Lesion


def draw_lesion(name, rng):
    """Draw one tumor of the type `name`; three in ten sit where any type may sit, with any type's looks."""
    typical = rng.random() >= _FREE_PLACE
    source = name if typical else list(TYPES)[rng.integers(len(TYPES))]
    lesion = TYPES[name].build(rng, TYPES[source].place(rng), typical)
    if not typical:
        _forget_looks(rng, lesion)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    lesion.frame = np.vstack([rotation, rng.uniform(0, 64, 3)])
    return lesion


def _forget_looks(rng, lesion):
    """Draw ring, tail and edema as if the type were unknown, in place."""
    lesion.rim = rng.uniform(1.5, 4) if rng.random() < 0.35 and lesion.radius > 6 else 0.0
    lesion.tail = rng.uniform(5, 14) if rng.random() < 0.3 else 0.0
    lesion.edema = lesion.radius * rng.uniform(0.2, 1.3) if rng.random() < 0.5 else 0.0


def _pick(rng, points):
    """Return one of `points` (n, 3) as a float array."""
    return points[rng.integers(len(points))].copy()


def _stretch(rng, spread):
    """Draw a volume-keeping stretch (3, 3) in a random direction."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    logs = rng.normal(0, spread, 3)
    return rotation @ np.diag(np.exp(logs - logs.mean())) @ rotation.T


# -- metastasis ---------------------------------------------------------------------------------------


def _count_metastases(rng):
    """Draw their number: 49/21/13/6/11 % have 1/2/3/4/more (Delattre 1988)."""
    few = rng.choice(5, p=(0.49, 0.21, 0.13, 0.06, 0.11)) + 1
    return int(few if few < 5 else min(4 + rng.geometric(0.2), 20))


def _place_metastasis(rng):
    """Draw gray-white junction 81 %, cerebellum 14 %, brainstem 5 % (Lee 2022)."""
    head = load_head()
    where = (head.junction, head.cerebellum, head.brainstem)[rng.choice(3, p=(0.81, 0.14, 0.05))]
    return Place(_pick(rng, where) + rng.uniform(-1, 1, 3), None, "brain")


def _build_metastasis(rng, place, typical):
    """Build a round, sharp tumor: solid when small, ring-enhancing when large, edema out of proportion."""
    radius = np.clip(rng.lognormal(np.log(8), 0.6), 3.2, 35) / 2
    ring = rng.random() < 1 / (
        1 + np.exp(-(2 * radius - 14) / 3)
    )  # from nearly never at 6 mm to nearly always
    lesion = Lesion(_seat(place, radius, 0.6), radius, _stretch(rng, 0.08), bumps=rng.uniform(0.02, 0.07))
    lesion.rim = rng.uniform(0.18, 0.4) * radius + 1.0 if ring else 0.0
    lesion.edema = rng.uniform(2, 14) * min(radius / 4, 1.4) if rng.random() < 0.75 else 0.0
    lesion.push = rng.uniform(0.3, 0.7)
    lesion.level = rng.uniform(0.75, 1.1)
    return lesion


# -- meningioma ---------------------------------------------------------------------------------------

# Site, share (Brain Science Foundation), rule on the outer surface in MNI mm.
_DURAL_SITES = (
    ("falx", 0.25, None),
    ("convexity", 0.20, lambda x, y, z: (z > 15) & (abs(x) > 16)),
    (
        "sphenoid",
        0.20,
        lambda x, y, z: (abs(x) > 14) & (abs(x) < 52) & (abs(y - 14) < 16) & (abs(z + 18) < 16),
    ),
    ("olfactory", 0.10, lambda x, y, z: (abs(x) < 14) & (y > 22) & (y < 58) & (z < -8)),
    ("suprasellar", 0.10, lambda x, y, z: (abs(x) < 14) & (abs(y - 6) < 14) & (z < -14) & (z > -34)),
    ("posterior fossa", 0.13, lambda x, y, z: (z < -22) & (y < -28) & (y > -96)),
    ("ventricle", 0.02, None),
)


def _place_meningioma(rng):
    """Draw a site of `_DURAL_SITES` and a point of it."""
    shares = np.array([share for _, share, _ in _DURAL_SITES])
    site, _, rule = _DURAL_SITES[rng.choice(len(_DURAL_SITES), p=shares / shares.sum())]
    side = rng.choice((-1, 1))
    if site == "ventricle":
        return Place(np.array([side * 25.0, -42.0, 10.0]) + rng.uniform(-3, 3, 3), None, "brain")
    if site == "falx":
        angle = np.radians(rng.uniform(-25, 200))  # from the frontal pole over the vertex to the occiput
        away = np.array([0, np.cos(angle) * 78, np.sin(angle) * 58]) * rng.uniform(0.78, 1.0)
        return Place(np.array([0.0, -16, 12]) + away, np.array([-side, 0.0, 0]), "falx")
    if site == "posterior fossa" and rng.random() < 0.5:
        near = _near(rng, (side * 27, -34, -36), 9)
        return Place(*near, "dura")
    head = load_head()
    chosen = np.flatnonzero(rule(*head.surface.T))
    index = chosen[rng.integers(len(chosen))]
    return Place(head.surface[index].copy(), head.normals[index].copy(), "dura")


def _near(rng, point, radius):
    """Return a point of the outer surface, and its normal, within `radius` mm of `point` or nearest to it."""
    head = load_head()
    away = np.linalg.norm(head.surface - point, axis=1)
    close = np.flatnonzero(away < max(radius, away.min() + 1e-6))
    index = close[rng.integers(len(close))]
    return head.surface[index].copy(), head.normals[index].copy()


def _seat(place, radius, share):
    """Return the center of a tumor of `radius` mm at `place`; on the dura, `share` of the radius inside."""
    return place.point if place.outward is None else place.point - place.outward * share * radius


def _build_meningioma(rng, place, typical):
    """Build a broad-based, even, bright tumor; median 6.5 ml, 0.4-90 (Kreil 2005)."""
    volume = np.clip(rng.lognormal(np.log(6500), 1.15), 250, 90000)
    radius = (0.75 * volume / np.pi) ** (1 / 3) * 1.12  # 12 % for what the dura cuts off
    lesion = Lesion(_seat(place, radius, rng.uniform(0.3, 0.75)), radius, bumps=rng.uniform(0.03, 0.1))
    flat = rng.uniform(1.0, 1.5)
    normal = np.zeros(3) if place.outward is None else place.outward
    lesion.axes = (np.eye(3) + (flat - 1) * np.outer(normal, normal)) @ _stretch(rng, 0.06)
    if place.kind == "falx" and rng.random() < 0.8:
        lesion.falx = int(-place.outward[0])
    lesion.tail = rng.uniform(6, 16) if rng.random() < 0.65 else 0.0
    lesion.edema = rng.uniform(3, 18) if rng.random() < 0.4 else 0.0
    lesion.patchy = rng.uniform(0.05, 0.15) if rng.random() < 0.15 else 0.0
    lesion.cleft = rng.uniform(0.3, 1.5)
    lesion.push, lesion.level = 0.97, rng.uniform(0.85, 1.15)
    return lesion


# -- schwannoma ---------------------------------------------------------------------------------------


def _count_schwannomas(rng):
    """Draw two in 3 % of patients, one in each other."""
    return 2 if rng.random() < 0.03 else 1


def _place_schwannoma(rng):
    """Draw the internal auditory canal 95 %, else the trigeminal or the jugular cistern."""
    side = rng.choice((-1, 1))
    if rng.random() < 0.95:
        return Place(
            np.array([side * 27.0, -35, -35]) + rng.uniform(-1.5, 1.5, 3), np.array([side, 0.0, 0]), "canal"
        )
    point = ((18.0, -18, -32), (22.0, -40, -50))[rng.integers(2)]
    return Place(np.array(point) * (side, 1, 1) + rng.uniform(-2, 2, 3), None, "brain")


def _build_schwannoma(rng, place, typical):
    """Build a cone into the canal and a ball in the cistern; patchy and cystic above 25 mm."""
    radius = np.clip(rng.lognormal(np.log(15), 0.5), 4, 40) / 2
    lesion = Lesion(_seat(place, radius, 0.75), radius, _stretch(rng, 0.08), bumps=rng.uniform(0.02, 0.07))
    if place.kind == "canal":
        wide = min(radius, rng.uniform(2.4, 3.6))
        end = place.point + place.outward * rng.uniform(5, 11) + (0, rng.uniform(-1, 1), 0)
        lesion.cone = (place.point - place.outward * 0.5 * radius, end, wide, 0.5 * wide)
    large = 2 * radius > 25
    lesion.patchy = rng.uniform(0.15, 0.5) if rng.random() < (0.75 if large else 0.15) else 0.0
    lesion.cleft = rng.uniform(0, 1.0)
    lesion.push, lesion.level = 0.95, rng.uniform(0.75, 1.1)
    return lesion


TYPES = {
    "metastasis": TumorType(0.40, _count_metastases, _place_metastasis, _build_metastasis),
    "meningioma": TumorType(
        0.35, lambda rng: 1 + int(rng.choice(3, p=(0.85, 0.11, 0.04))), _place_meningioma, _build_meningioma
    ),
    "schwannoma": TumorType(0.25, _count_schwannomas, _place_schwannoma, _build_schwannoma),
}
