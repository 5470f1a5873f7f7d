"""Images of slides with the faults of their patches: the thumbnail, and beside it the flagged patches in colors."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histocae.files import read_table, replacing
from histocae.patches import previews
from histocae.patches.choice import KEPT, Choice
from histocae.patches.quality import FAULTS
from histocae.patches.shard_record import ShardRecord

COLORS = {"pen": "#8e24aa", "blur": "#00838f", "fold": "#e65100", "debris": "#3e2723", "pale": "#fdd835"}
OTHER, LEFT_OUT = "#9e9e9e", "#d50000"  # outline of patches without a fault; cross over those that are left out
LONGEST = 400  # pixels of the longest side of the slide
LINE, MARGIN = 18, 8  # height of a line of the legend, and margin, in pixels


def draw(path: Path, record: ShardRecord, choice: Choice, pixels: int, shards: Path, folder: Path) -> None:
    """Draw the flagged patches of a slide.

    A patch with several faults has the color of the first. Patches that are left out are crossed out.

    Args:
        path: of the image, PNG.
        record: of the slide's shard; its slide has a thumbnail.
        choice: of its patches.
        pixels: side of a patch.
        shards: folder of the shards.
        folder: of previews, with the thumbnails.

    Raises:
        StoreError: the thumbnail is damaged.

    """
    thumbnail = Image.fromarray(previews.read_image(previews.thumbnail_file(folder, record.shard)))
    thumbnail.thumbnail((LONGEST, LONGEST))
    width = thumbnail.width
    rows = read_table(shards / f"{record.shard}.csv", columns={"row": "int32", "column": "int32"})
    side = pixels * (record.patch_mpp or 1) / (record.mpp or 1) * width / (record.width or 1)
    faint = Image.blend(thumbnail, Image.new("RGB", thumbnail.size, "white"), 0.5)
    layer = Image.new("RGBA", thumbnail.size)
    canvas = ImageDraw.Draw(layer)
    for row, column, flags, reason in zip(
        rows["row"].tolist(), rows["column"].tolist(), choice.flags.tolist(), choice.reasons.tolist(), strict=True
    ):
        box = (column * side, row * side, (column + 1) * side - 1, (row + 1) * side - 1)
        box = (*box[:2], max(box[0], box[2]), max(box[1], box[3]))
        first = next((fault for bit, fault in enumerate(FAULTS) if flags >> bit & 1), None)
        fill = None if first is None else COLORS[first] + "b0"
        canvas.rectangle(box, fill=fill, outline=OTHER if first is None else COLORS[first])
        if reason != KEPT:
            canvas.line(box, fill=LEFT_OUT)
    faint.paste(layer, mask=layer)
    _save(path, thumbnail, faint, _legend(record, choice))


def _legend(record: ShardRecord, choice: Choice) -> list[tuple[str | None, str]]:
    """Give the lines below the images: a color or none, and a text."""
    lost = int((choice.reasons != KEPT).sum())
    crossed = f", {lost:,} of them left out (crossed)" if lost else ""
    lines: list[tuple[str | None, str]] = [(None, f"{record.slide_id}: {record.kept:,} patches{crossed}")]
    shares = {fault: count / record.kept for fault, count in choice.flagged.items() if count}
    return lines + [(COLORS[fault], f"{fault}: {share:.1%} of the patches") for fault, share in shares.items()]


def _save(path: Path, left: Image.Image, right: Image.Image, legend: list[tuple[str | None, str]]) -> None:
    width, height = left.size
    size = max(2 * width + 3 * MARGIN, 420), height + 3 * MARGIN + LINE * len(legend)
    image = Image.new("RGB", size, "white")
    image.paste(left, (MARGIN, MARGIN))
    image.paste(right, (2 * MARGIN + width, MARGIN))
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for number, (color, text) in enumerate(legend):
        top = height + 2 * MARGIN + number * LINE
        indent = MARGIN
        if color is not None:
            canvas.rectangle((MARGIN, top + 2, MARGIN + 12, top + 14), fill=color)
            indent += 20
        canvas.text((indent, top), text, fill="black", font=font)
    with replacing(path) as handle:
        image.save(handle, "PNG", compress_level=1)


def worth_drawing(record: ShardRecord, choice: Choice, folder: Path) -> bool:
    """Say whether a slide has flagged patches and a thumbnail; tiles have none.

    Args:
        record: of the slide's shard.
        choice: of its patches.
        folder: of previews.

    Returns:
        Whether `draw` shows something.

    """
    return bool(np.any(choice.flags)) and previews.thumbnail_file(folder, record.shard).is_file()
