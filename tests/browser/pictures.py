"""Pictures of pages small enough for the repository: PNG with a palette, written with what the tests have anyway."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from playwright.async_api import Page

COLOURS = 256
PIXELS = """async (png) => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  let text = "";
  for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
  return [image.height, image.width, btoa(text)];
}"""


async def shoot(page: Page) -> bytes:
    """What the window shows now, as a PNG."""
    await page.mouse.move(0, 0)
    shot = base64.b64encode(await page.screenshot(animations="disabled")).decode()
    # The page's own security policy forbids pictures from elsewhere, rightly.
    blank = await page.context.new_page()
    height, width, pixels = await blank.evaluate(PIXELS, shot)
    await blank.close()
    return png(np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)[..., :3])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG (RFC 2083) of pixels (height, width, red green blue) in the 256 colours that are most frequent in them."""
    height, width, _ = pixels.shape
    known, place, count = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    palette = known[np.argsort(-count)[:COLOURS]]
    # The nearest of the palette: |a - b|² without |a|², which is the same for all of them.
    fit = (palette.astype(np.float64) ** 2).sum(1) - 2 * known.astype(np.float64) @ palette.T
    nearest = np.argmin(fit, axis=1).astype(np.uint8)
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = nearest[place.ravel()].reshape(height, width)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
