"""Image codecs with a budget of bytes per patch: JPEG, JPEG 2000 and WebP, as Pillow has them.

NumPy and Pillow alone, so that worker processes start quickly. Bytes that are the same for all patches are not
counted: a decoder could know them in advance, just as the decoder of an autoencoder knows its weights.

- JPEG: the scan counts, and Huffman tables where they are not the standard's. Two bytes count for the quality, the
  sampling of colors and the kind of tables. Not counted are markers, headers, the standard's Huffman tables, and the
  tables of quantization, which follow from the quality.
- JPEG 2000: packets count, which is all that follows the header of a tile-part. Not counted are the main header and
  headers of tile-parts. There are no boxes of JP2.
- WebP: the VP8 chunk counts, with 3 bytes of its frame header. Not counted are the header of RIFF, the start code and
  the size of the image.

Settings are Pillow's defaults, with two exceptions. JPEG has the better of 4:4:4 and 4:2:0 sampling, and of the
standard's Huffman tables and its own. JPEG 2000 is lossy and transforms colors. WebP's slowest method is not used: it
makes files a few percent smaller and takes twice the time.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY_BYTES = 2  # of JPEG: 100 qualities, two samplings, two kinds of tables
VP8_FIXED = 7  # start code, width and height of the image
# The encoder counts headers as well, and files are often larger than asked for. This leads closest to a budget
JPEG2000_HEADERS = 142
JPEG2000_TRIES = 6  # of sizes per budget
JPEG2000_SPARE = 1 / 24  # share of the budget that may stay unused
JPEG2000_STEP = 4  # bytes
_TILE_PART, _PACKETS, _END = b"\xff\x90", b"\xff\x93", b"\xff\xd9"  # markers of JPEG 2000
_HUFFMAN, _SCAN = 0xC4, 0xDA  # markers of JPEG


class Encoded(NamedTuple):
    """An encoded patch.

    Attributes:
        data: the whole file.
        counted: bytes of it that count.

    """

    data: bytes
    counted: int


def encode(patch: NDArray[np.uint8], codec: str, budgets: Sequence[int]) -> dict[int, Encoded]:
    """Encode a patch as well as budgets of bytes allow.

    For each budget a search over the codec's settings finds encodings that fit. The one with the smallest squared
    error is kept. So a larger budget never has a larger error.

    Args:
        patch: uint8, shape (height, width, 3), RGB.
        codec: a name in `CODECS`.
        budgets: bytes that may count.

    Returns:
        By budget, without those that even the lowest quality exceeds.

    Raises:
        ValueError: the patch has another type or shape, the codec is unknown, or a budget is missing or
            not positive.

    Example:
        >>> ramp = np.repeat(np.arange(64, dtype=np.uint8), 64 * 3).reshape(64, 64, 3)
        >>> encoded = encode(ramp, "WebP", [4, 400])
        >>> list(encoded), encoded[400].counted <= 400
        ([400], True)

    """
    if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[2] != 3:
        raise ValueError(f"a patch is uint8, shape (height, width, 3), not {patch.dtype}, {patch.shape}")
    if codec not in CODECS:
        raise ValueError(f"codec is one of {', '.join(CODECS)}, not {codec!r}")
    if not budgets or min(budgets) < 1:
        raise ValueError(f"budgets are at least one number of bytes, each at least 1, not {list(budgets)}")
    kind, image = CODECS[codec], Image.fromarray(patch)
    counts = {data: kind.counted(data) for data in kind.candidates(image, budgets)}
    # decoding takes time: files that fit no budget are not decoded
    errors = {data: _squared_error(decode(data), patch) for data in counts if counts[data] <= max(budgets)}
    encoded = {}
    for budget in budgets:
        fitting = [data for data in errors if counts[data] <= budget]
        if fitting:
            best = min(fitting, key=errors.__getitem__)
            encoded[budget] = Encoded(best, counts[best])
    return encoded


def encode_all(task: tuple[NDArray[np.uint8], Sequence[int]]) -> list[dict[str, dict[int, Encoded]]]:
    """Encode several patches with each codec, as a task of `workers.processes.spread`.

    Args:
        task: patches, uint8, shape (n, height, width, 3), and budgets.

    Returns:
        Per patch what `encode` returns for each codec.

    """
    patches, budgets = task
    return [{codec: encode(patch, codec, budgets) for codec in CODECS} for patch in patches]


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode a file of any codec.

    Args:
        data: the whole file.

    Returns:
        uint8, shape (height, width, 3), RGB.

    """
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _squared_error(decoded: NDArray[np.uint8], patch: NDArray[np.uint8]) -> float:
    return float(np.square(decoded.astype(np.float32) - patch).mean())


def _number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _highest(save: Callable[..., bytes], count: Callable[[bytes], int], budgets: Sequence[int]) -> Iterator[bytes]:
    """Find for each budget the highest of the qualities 0 to 100 that fits, by bisection.

    What is found fits, and the next quality does not. Sizes hardly ever fall from one quality to the next; a still
    higher quality that fits after all would be missed.
    """
    saved = cache(lambda quality: save(quality=quality))
    for budget in budgets:
        low, high = -1, 100
        while low < high:
            middle = (low + high + 1) // 2
            if count(saved(middle)) <= budget:
                low = middle
            else:
                high = middle - 1
        if low >= 0:
            yield saved(low)


def _jpegs(image: Image.Image, budgets: Sequence[int]) -> Iterator[bytes]:
    for sampling in ("4:4:4", "4:2:0"):
        for own_tables in (False, True):
            save = partial(_saved, image, "JPEG", subsampling=sampling, optimize=own_tables)
            yield from _highest(save, _count_jpeg, budgets)


def _count_jpeg(data: bytes) -> int:
    return QUALITY_BYTES + sum(len(part) for part in _jpeg_parts(data, standard=_standard_tables()))


def _jpeg_parts(data: bytes, standard: frozenset[bytes]) -> Iterator[bytes]:
    """Yield the Huffman tables, without those of `standard`, and the scan."""
    start = 2
    while True:
        marker, length = data[start + 1], _number(data, start + 2, 2)
        if marker == _HUFFMAN and (table := data[start + 4 : start + 2 + length]) not in standard:
            yield table[1:]  # without the number of the table
        start += 2 + length
        if marker == _SCAN:
            yield data[start:-2]  # the only scan; the end of the image follows
            return


@cache
def _standard_tables() -> frozenset[bytes]:
    """Return the Huffman tables that a file has if its encoder computes none."""
    tables = list(_jpeg_parts(_saved(Image.new("RGB", (8, 8)), "JPEG"), frozenset()))[:-1]
    numbers = (b"\x00", b"\x10", b"\x01", b"\x11")  # brightness, then color: differences of means, other values
    return frozenset(number + table for number, table in zip(numbers, tables, strict=True))


def _jpegs_2000(image: Image.Image, budgets: Sequence[int]) -> Iterator[bytes]:
    """Ask the encoder for sizes until the bytes that count are just below each budget."""
    values = 3 * image.width * image.height
    save = partial(_saved, image, "JPEG2000", no_jp2=True, irreversible=True, mct=1, quality_mode="rates")
    for budget in budgets:
        size, fits, exceeds, step = budget + JPEG2000_HEADERS, 0, 2**62, JPEG2000_STEP
        for _ in range(JPEG2000_TRIES):
            data = save(quality_layers=[values / size])
            yield data
            spare = budget - _count_jpeg2000(data)
            if 0 <= spare <= budget * JPEG2000_SPARE:
                break
            if spare > 0:
                fits = size
                size = min(size + spare, exceeds - 1)
            else:
                exceeds = size
                # the encoder's sizes have gaps: a few bytes less may give the same file
                size = max(size + spare - step, fits + 1)
                step *= 2
            if not fits < size < exceeds:
                break
    yield save(quality_layers=[values])  # the lowest quality: one byte in all, which the encoder exceeds


def _count_jpeg2000(data: bytes) -> int:
    start = 2
    while data[start : start + 2] != _TILE_PART:
        start += 2 + _number(data, start + 2, 2)
    end = start + _number(data, start + 6, 4)
    start += 2 + _number(data, start + 2, 2)
    while data[start : start + 2] != _PACKETS:
        start += 2 + _number(data, start + 2, 2)
    if data[end:] != _END:
        raise ValueError("more than one tile-part")  # the encoder writes one, if not told otherwise
    return end - start - len(_PACKETS)


def _webps(image: Image.Image, budgets: Sequence[int]) -> Iterator[bytes]:
    yield from _highest(partial(_saved, image, "WEBP"), _count_webp, budgets)


def _count_webp(data: bytes) -> int:
    start = 12
    while True:
        name, length = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if name == b"VP8 ":
            return length - VP8_FIXED
        start += 8 + length + length % 2


class Codec(NamedTuple):
    """An image codec.

    Attributes:
        candidates: files of an image, of which some may fit each of the budgets.
        counted: bytes of a file that count.

    """

    candidates: Callable[[Image.Image, Sequence[int]], Iterator[bytes]]
    counted: Callable[[bytes], int]


CODECS = {
    "JPEG": Codec(_jpegs, _count_jpeg),
    "JPEG 2000": Codec(_jpegs_2000, _count_jpeg2000),
    "WebP": Codec(_webps, _count_webp),
}
