"""Bytes of an image file to pixels, with a limit on how many.

An image that has not the shape of its data set is cut to its centre square and scaled to the side of the set, by
Pillow's bilinear filter over the area that a pixel covers. Grey images become colour where the set is in colour; the
other way round, and with transparency or more than 8 bits, an image is refused by name.
"""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diagnostics.data.bad_data import BadData

LARGEST = 2**26  # pixels of an image: 200 MB once decoded in colour; photographs have a tenth
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "CMYK": 3, "YCbCr": 3}  # by Pillow's name of the mode
RECIPE = 1  # raise it with any change that changes pixels: caches of older recipes are then made again


def measured(content: bytes, name: str) -> tuple[int, int, int]:
    """(channels, height, width) by the file's header. Raises `BadData` that names the image."""
    image = _opened(content, name)
    return CHANNELS[image.mode], image.height, image.width


def decoded(content: bytes, name: str, channels: int, side: int, dark_ink: bool = False) -> NDArray[np.uint8]:
    """The image, (channels, side, side), 0 to 255; `dark_ink` turns black on white into white on black.

    Raises `BadData` that names the image, for whatever it cannot be made from.
    """
    image = _opened(content, name)
    if CHANNELS[image.mode] > channels:
        raise BadData(
            f"{name}: expected a grey image like the others of this data set, found mode {image.mode}; convert it"
        )
    try:
        image = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise what they like on damaged bytes: the file is at fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{name}: expected a whole image, found a damaged one ({reason:.120}); replace it") from None
    if image.size != (side, side):
        square = min(image.size)
        left, top = (image.width - square) // 2, (image.height - square) // 2
        cut = image.crop((left, top, left + square, top + square))  # the filter would look beyond a box of `resize`
        image = cut.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return 255 - pixels if dark_ink else pixels


def _opened(content: bytes, name: str) -> Image.Image:
    """The image with its header read, its size and its mode within what is taken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "many more") from None
    except UnidentifiedImageError:
        kind = "an empty file" if not content else "none of these"
        raise BadData(f"{name}: expected an image ({', '.join(FORMATS)}), found {kind}; replace it") from None
    except Exception as error:  # as in `decoded`
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{name}: expected an image, found a damaged header ({reason:.120}); replace it") from None
    if image.width * image.height > LARGEST:
        raise _too_large(name, f"{image.width} x {image.height}")
    if image.width * image.height == 0:
        raise BadData(f"{name}: expected an image with pixels, found {image.width} x {image.height}; replace it")
    if image.mode not in CHANNELS:
        raise BadData(
            f"{name}: expected a grey or colour image of 8 bits (1 or 3 channels), found mode {image.mode} "
            f"({len(image.getbands())} channels); convert it"
        )
    return image


def _too_large(name: str, found: str) -> BadData:
    return BadData(f"{name}: expected at most {LARGEST} pixels, found {found}; scale it down, or leave it out")
