"""Damage bytes: flips, cuts, blocks moved or mixed, numbers, words, values inside packed or JSON files."""

import gzip
import io
import json
import re
import struct
import zipfile
import zlib

__all__ = ["mutate"]

_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_NUMBERS += (2**62, 2**63 - 1, -(2**31), -(2**63))
_FLOATS = (0.0, -0.0, 1e-45, 1e-30, 1e30, 3.4e38, 1e300, float("nan"), float("inf"), float("-inf"))
_DIGITS = (b"0", b"-1", b"1", b"3", b"65536", b"99999999999", b"9" * 40, b"1e999", b"1e-320", b"nan", b"inf")
_DIGITS += (b"", b"0x10", b"1_0", b"-0", b"1.5", b"\xd9\xa3")
_TEXTS = (b"\x00", b"\n", b"\r\n", b'"', b"'", b",", b";", b"{", b"}", b"[", b"]", b"\\", b"/../", b"~user/")
_TEXTS += (b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x1b[31m", b"%s", b"{0}", b"A" * 300, b"null")
_VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e308,
    1e308,
    float("nan"),
    float("inf"),
    "",
)
_VALUES += (
    "x",
    "x" * 500,
    "1",
    "\x00",
    "\u202e",
    "\x1b[31m",
    "../../x",
    "/dev/zero",
    "~user/x",
    [],
    {},
    [[]],
)
_VALUES += ([1, 2], {"a": 1}, [None] * 3)


def mutate(rng, data, donors=(), words=(), extra=()):
    """Return damaged `data`.

    `rng` is a `random.Random`, `donors` bytes of other files of the kind, `words` bytes of the format's
    vocabulary, `extra` functions (rng, bytes) → bytes that a reader adds.
    """
    for _ in range(1 + (rng.random() < 0.5) + 2 * (rng.random() < 0.15)):
        way = _inside if rng.random() < 0.6 else _once
        data = way(rng, data, donors, words, extra)
    return data


def _inside(rng, data, donors, words, extra):
    """Damage what a gzip, zip, safetensors or JSON file holds and pack it again; any other, as it is."""
    try:
        if data[:2] == b"\x1f\x8b":
            inner = [gzip.decompress(d) for d in donors[:4] if d[:2] == b"\x1f\x8b"]
            return gzip.compress(mutate(rng, gzip.decompress(data), inner, words, extra), 1, mtime=0)
        if data[:2] == b"PK":
            return _zip(rng, data, words, extra)
        if data[:1] in (b"{", b"["):
            return _json(rng, data)
        length = int.from_bytes(data[:8], "little")
        if data[8:9] == b"{" and 2 <= length <= len(data) - 8:
            header = _json(rng, data[8 : 8 + length])
            return len(header).to_bytes(8, "little") + header + data[8 + length :]
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        KeyError,
        MemoryError,
        zlib.error,
        zipfile.BadZipFile,
    ):
        pass  # damaged before
    return _once(rng, data, donors, words, extra)


def _zip(rng, data, words, extra):
    """Damage, drop, repeat or rename one member of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(info.filename, file.read(info), info.compress_type) for info in file.infolist()]
    if not members:
        return data
    at = rng.randrange(len(members))
    name, content, packing = members[at]
    what = rng.random()
    if what < 0.75:
        members[at] = (name, mutate(rng, content, [m[1] for m in members], words, extra), packing)
    elif what < 0.85:
        del members[at]
    elif what < 0.93:
        other = rng.randrange(len(members))
        members[at] = (name, members[other][1], packing)
    else:
        members[at] = (rng.choice(("x", "../x", "/x", name.upper(), name + "/", "")), content, packing)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for number, (name, content, packing) in enumerate(members):
            name = f"{name}{number}" if name in file.namelist() else name
            file.writestr(zipfile.ZipInfo(name or "_"), content, packing, 1)
    return out.getvalue()


def _json(rng, data):
    """Change one place of a JSON text: another value, one less, one more, a key of another name."""
    tree = json.loads(data)
    places = [(holder, key) for holder, key in _places(tree)]
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.5:
        holder[key] = rng.choice(_VALUES)
    elif what < 0.65:
        del holder[key]
    elif what < 0.75 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif what < 0.8:
        holder[key] = [holder[key]]
    elif what < 0.9:
        other, there = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[there]))
    elif isinstance(holder, dict):
        holder[rng.choice(("", "x", "\u202e", key.upper(), key + " "))] = holder.pop(key)
    elif isinstance(holder[key], int | float):
        holder[key] = holder[key] * rng.choice((-1, 2, 0.5, 1e6))
    return json.dumps(tree).encode()


def _places(tree):
    """Yield (list or dict, index or key) of every value below `tree`."""
    keys = range(len(tree)) if isinstance(tree, list) else list(tree) if isinstance(tree, dict) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _once(rng, data, donors, words, extra):
    """Apply one mutation to bytes."""
    ways = [
        _flip,
        _flip,
        _cut,
        _block,
        _block,
        _number,
        _number,
        _digits,
        _digits,
        _line,
        _splice,
        _word,
        _word,
    ]
    way = rng.choice([*ways, *extra, *extra])
    if way in extra:
        return way(rng, data)
    return way(rng, data, donors, words)


def _at(rng, data):
    """Draw a position, half the time in the first 512 bytes, where headers are."""
    return rng.randrange(max(1, min(len(data), 512) if rng.random() < 0.5 else len(data)))


def _flip(rng, data, donors, words):
    """Flip up to eight bits."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 9) if out else 0):
        out[_at(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng, data, donors, words):
    """Truncate, by a few bytes or anywhere, or lose the start."""
    where = rng.random()
    if where < 0.3:
        return data[: max(0, len(data) - rng.randrange(1, 20))]
    return data[: _at(rng, data)] if where < 0.9 else data[_at(rng, data) :]


def _block(rng, data, donors, words):
    """Zero, remove, repeat, exchange or overwrite a block."""
    start = _at(rng, data)
    size = rng.choice((1, 2, 4, 8, 16, 64, 512, 4096))
    block = data[start : start + size]
    what = rng.randrange(6)
    if what == 0:
        return data[:start] + bytes(len(block)) + data[start + size :]
    if what == 1:
        return data[:start] + data[start + size :]
    if what == 2:
        return data[:start] + block * rng.choice((2, 2, 3, 50)) + data[start + size :]
    if what == 3:
        return data[:start] + rng.randbytes(min(size, 64)) + data[start:]
    if what == 4:
        return data[:start] + rng.randbytes(len(block)) + data[start + size :]
    other = _at(rng, data)
    first, second = sorted((start, other))
    size = min(size, second - first)
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def _number(rng, data, donors, words):
    """Set a binary number of 1 to 8 bytes to one that is special, or near what it was."""
    start, order = _at(rng, data), rng.choice("<>")
    kind = rng.choice("BHIQhiqfd")
    size = struct.calcsize(kind)
    old = data[start : start + size]
    if len(old) < size:
        return data
    if kind in "fd":
        values = _FLOATS if kind == "d" else _FLOATS[:6] + _FLOATS[7:]
        return data[:start] + struct.pack(order + kind, rng.choice(values)) + data[start + size :]
    value = struct.unpack(order + kind, old)[0]
    value = rng.choice((value + 1, value - 1, value * 2, value * 1000, -value, *rng.sample(_NUMBERS, 5)))
    new = (value % 256**size).to_bytes(size, "little" if order == "<" else "big")
    return data[:start] + new + data[start + size :]


def _digits(rng, data, donors, words):
    """Replace a number that is written as text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", data[:8192]))
    if not found:
        return _number(rng, data, donors, words)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_DIGITS) + data[match.end() :]


def _line(rng, data, donors, words):
    """Remove, repeat or exchange lines of text."""
    head, tail = data[:16384], data[16384:]
    lines = head.split(b"\n")
    if len(lines) < 2:
        return _word(rng, data, donors, words)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(3)
    if what == 0:
        del lines[i]
    elif what == 1:
        lines.insert(j, lines[i])
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines) + tail


def _splice(rng, data, donors, words):
    """Go on as another file does, from any position, or take a block of it."""
    if not donors:
        return _block(rng, data, donors, words)
    other = rng.choice(donors)
    start, there = _at(rng, data), _at(rng, other)
    if rng.random() < 0.5:
        return data[:start] + other[there if rng.random() < 0.5 else start :]
    size = rng.choice((4, 16, 64, 512))
    return data[:start] + other[there : there + size] + data[start + size :]


def _word(rng, data, donors, words):
    """Insert a word, overwrite by one, or put one for another."""
    new = rng.choice((*words, *words, *_TEXTS))
    present = [word for word in words if word in data]
    if present and rng.random() < 0.5:
        return data.replace(rng.choice(present), new, rng.choice((1, 1, -1)))
    start = _at(rng, data)
    return data[:start] + new + data[start + (len(new) if rng.random() < 0.5 else 0) :]
