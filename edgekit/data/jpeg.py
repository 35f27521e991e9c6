"""Whether a JPEG holds all of its image.

A file that was cut short and then closed (a download that broke off, a card that was full, a tool that "repaired" it)
ends in the mark that ends every JPEG, and decoders fill up what is missing with grey and say nothing. What is missing
is found here: an image of one scan is decoded without its end mark, so that a decoder that runs out of data has to
stop; of an image of many scans it is counted which coefficients they bring, and the last one is followed by more data,
which changes the image only where the scan was not whole.

Source: ITU-T T.81, tables B.1 and B.3, annex G.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from edgekit.errors import DataError

_START = b"\xff\xd8\xff"
_FRAMES = {0xC0: "baseline", 0xC1: "baseline", 0xC2: "progressive"}  # Huffman-coded; others are not looked at
_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}  # marks without a length
# What follows a scan: a mark that is neither a stuffed zero, nor a restart, nor filling.
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# What a decoder looks ahead, in ones, which no code is made of: it gets through four of them at most.
_PAD = b"\xff\x00" * 9
_MORE = bytes((37 * number + 11) % 251 for number in range(96))


@dataclass
class _Layout:
    """What a JPEG's marks say.

    Attributes:
        kind: Of its frame; "" for one that is not looked at.
        components: Ids of the frame's components.
        scans: (components, first and last coefficient, bit position) of each scan.
        data_end: Where the data of the scan end that was read last.
        ended: Whether an end mark follows the last scan.
    """

    kind: str = ""
    components: frozenset[int] = frozenset()
    scans: list[tuple[frozenset[int], int, int, int]] = field(default_factory=list)
    data_end: int = 0
    ended: bool = False


def to_decode(data: bytes) -> tuple[bytes, bytes | None]:
    """What to decode instead of `data`, so that nothing missing is filled up.

    Args:
        data: Of an image file of any kind; what is no JPEG is given back as it is.

    Returns:
        The bytes to decode, and others that must give the same pixels, where there are such.

    Raises:
        DataError: a part of the image is missing.
    """
    if not data.startswith(_START):
        return data, None
    try:
        layout = _read(data)
    except (IndexError, ValueError, struct.error):  # a decoder says better what is wrong with its headers
        return data, None
    if not layout.kind or not layout.scans:
        return data, None
    if not layout.ended:
        if data.endswith(bytes(64)):
            raise DataError("the image ends early: the end of the file is nothing but zeros")
        return data, None
    if layout.kind != "progressive" and layout.scans[0][0] == layout.components:
        return data[: layout.data_end] + _PAD, None
    if missing := _missing(layout):
        raise DataError(f"the image ends early: {missing}")
    return data, data[: layout.data_end] + _MORE + data[layout.data_end :]


def _read(data: bytes) -> _Layout:
    layout, place = _Layout(), 2
    while place < len(data):
        if data[place] != 0xFF:
            return layout
        mark = data[place + 1]
        if mark == 0xFF:
            place += 1
        elif mark == _END:
            layout.ended = True
            return layout
        elif mark in _ALONE:
            place += 2
        else:
            (length,) = struct.unpack_from(">H", data, place + 2)
            body, place = data[place + 4 : place + 2 + length], place + 2 + length
            if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
                layout.kind = _FRAMES.get(mark, "")
                layout.components = frozenset(body[6 + 3 * number] for number in range(body[5]))
            elif mark == _SCAN:
                place = _add_scan(layout, body, data, place)
    return layout


def _add_scan(layout: _Layout, body: bytes, data: bytes, place: int) -> int:
    """Note a scan; returns where its data end."""
    count = body[0]
    members = frozenset(body[1 + 2 * number] for number in range(count))
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    layout.scans.append((members, first, last, bits & 15))
    found = _MARK.search(data, place)
    end = found.start() if found else len(data)
    layout.data_end = end
    return end


def _missing(layout: _Layout) -> str:
    """Which part of the image no scan brings, in words; "" when all of it is there."""
    if layout.kind != "progressive":
        brought = frozenset().union(*(members for members, *_ in layout.scans))
        return "not every colour has its scan" if brought != layout.components else ""
    coarse = {component: [99] * 64 for component in layout.components}
    for members, first, last, bits in layout.scans:
        for component in members & layout.components:
            coarse[component][first : last + 1] = [bits] * (last + 1 - first)
    lacking = sum(bits > 0 for row in coarse.values() for bits in row)
    return f"its scans bring {64 * len(coarse) - lacking} of {64 * len(coarse)} coefficients in full" if lacking else ""
