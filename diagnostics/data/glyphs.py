"""Letters of eight scripts in sixteen typefaces: a few-shot image data set that needs no download.

The letters are rendered from the DejaVu and STIX fonts inside the installed matplotlib wheel (which is not imported).
A class is a Unicode code point; a drawing is that code point in one font. Scripts are split as in few-shot practice,
so that a test class is a letter of a script never seen in training:

    train: Latin, Greek, Cyrillic     validation: Georgian, Canadian Aboriginal     test: Armenian, Hebrew, Arabic

Many scripts share letter forms (Latin A, Greek Alpha, Cyrillic A). A class goes if ANY of its drawings is the same
shape as ANY drawing of an earlier code point, in whatever fonts, in the order of `SCRIPTS` and then of code points. One
font is enough, for what one font draws alike its designer holds to be one form. Earlier code points count even where
they are themselves left out. "Same shape" is defined in `diagnostics.data.shapes`: position does not count, nor does
anti-aliasing, so neither a shifted copy nor one that is off by a grey level passes from one split to another.
Sizes, and mirrored or turned forms (of which Canadian syllabics are made), do count as differences.

A class is kept if at least `MIN_DRAWINGS` fonts draw it, with ink, not as the font's placeholder, inside the raster,
and each differently. Letters and numerals only: marks, punctuation and loose accents are a few pixels whose meaning is
in where they stand.

The pixels depend on the fonts and on Pillow's FreeType: `manifest` says which they were.
"""

import functools
import hashlib
import importlib.util
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import fontTools
import numpy as np
from fontTools.ttLib import TTFont
from fontTools.unicodedata import script
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from PIL import __version__ as pillow_version

from diagnostics.checks import one_of
from diagnostics.data import cache
from diagnostics.data.shapes import cropped, same_shape

RECIPE = 1  # raise it with any change that changes the arrays: caches of older recipes are then made again
SIDE = 56  # rows and columns of the stored raster
MIN_DRAWINGS = 4
# At 32 pixels per em the tallest accents (37 rows) and deepest tails (13) leave 3 blank rows at either end.
EM, BASELINE = 32, 40

FONTS = (
    *(f"DejaVu{family}{style}" for family in ("Sans", "SansMono")
      for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip

# ISO 15924 code -> (name, split). The order decides which of two classes of one shape is kept.
SCRIPTS = {
    "Latn": ("Latin", "train"), "Grek": ("Greek", "train"), "Cyrl": ("Cyrillic", "train"),
    "Geor": ("Georgian", "validation"), "Cans": ("Canadian Aboriginal", "validation"),
    "Armn": ("Armenian", "test"), "Hebr": ("Hebrew", "test"), "Arab": ("Arabic", "test"),
}  # fmt: skip
SPLITS = tuple(dict.fromkeys(split for _, split in SCRIPTS.values()))


@dataclass(frozen=True, eq=False)
class Glyphs:
    """D drawings of C classes; the arrays are shared and read-only.

    Rows go by class, then by font. Ink is white (255) on black, at one size and on one baseline, centred across.
    """

    images: NDArray[np.uint8]  # (D, SIDE, SIDE)
    labels: NDArray[np.int64]  # (D,), from 0 to C - 1
    fonts: NDArray[np.int64]  # (D,), place in FONTS
    names: tuple[str, ...]  # (C,), Unicode names: unicodedata.lookup(name) is the letter
    scripts: tuple[str, ...]  # (C,)


@functools.cache
def load(split: str) -> Glyphs:
    """The glyphs of a split: "train", "validation" or "test". Made once, then read from the cache folder.

    Raises ValueError for another split, FileNotFoundError where the fonts are not installed.
    """
    one_of("split", split, SPLITS)
    arrays, in_split = _arrays(), [place for place, (_, name) in enumerate(SCRIPTS.values()) if name == split]
    # Classes are sorted by script and rows by class: a split is one run of each, so these are views, not copies.
    classes = slice(*np.searchsorted(arrays["scripts"], [in_split[0], in_split[-1] + 1]).tolist())
    rows = slice(*np.searchsorted(arrays["labels"], [classes.start, classes.stop]).tolist())
    labels = arrays["labels"][rows] - classes.start
    labels.flags.writeable = False
    script_names = [name for name, _ in SCRIPTS.values()]
    return Glyphs(
        images=arrays["images"][rows],
        labels=labels,
        fonts=arrays["fonts"][rows],
        names=tuple(unicodedata.name(chr(point)) for point in arrays["code_points"][classes]),
        scripts=tuple(script_names[place] for place in arrays["scripts"][classes]),
    )


def manifest() -> dict[str, object]:
    """What the arrays were made from, their hash, and the number of classes and drawings of each split.

    Two machines with equal `content` have equal data, bit for bit. Raises FileNotFoundError like `load`.
    """
    content = hashlib.sha256()
    for name, array in sorted(_arrays().items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    counts = {name: {"classes": len(load(name).names), "drawings": len(load(name).labels)} for name in SPLITS}
    return {**_ingredients(), "content": content.hexdigest(), "splits": counts}


def read_or_render(folder: Path) -> dict[str, NDArray]:
    """All splits as plain arrays, from the cache in `folder` if it holds them, else rendered and kept there.

    Returns `images` (D, SIDE, SIDE), `labels` (D,), `fonts` (D,), `code_points` (C,), and `scripts` (C,), the place
    in SCRIPTS. Raises FileNotFoundError where the fonts are not installed.
    """
    key = hashlib.sha256(repr(sorted(_ingredients().items())).encode()).hexdigest()
    path = folder / f"glyphs-{key[:16]}.npz"
    arrays = cache.read(path, key)
    if arrays is None:
        arrays = _render()
        cache.write(path, key, arrays)
    return arrays


@functools.cache
def _arrays() -> dict[str, NDArray]:
    arrays = read_or_render(cache.folder())
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _font_files() -> dict[str, Path]:
    """Font name -> file; found without importing matplotlib, which is slow and never needed here."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("expected the fonts that come with matplotlib, found no matplotlib: install it")
    root = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    files = {font: root / f"{font}.ttf" for font in FONTS}
    missing = [font for font, file in files.items() if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected {len(FONTS)} fonts in {root}, found no {', '.join(missing)}: reinstall matplotlib from its wheel"
        )
    return files


def _ingredients() -> dict[str, object]:
    """Everything that the arrays depend on."""
    return {
        "recipe": RECIPE,
        "fonts": {font: hashlib.sha256(file.read_bytes()).hexdigest() for font, file in _font_files().items()},
        "pillow": pillow_version,
        "freetype": features.version("freetype2"),
        "fonttools": fontTools.version,  # knows the script of a code point
        "unicode": unicodedata.unidata_version,  # knows its category
    }


def _render() -> dict[str, NDArray]:
    """The recipe: draw every letter in every font, then leave out twins and classes with too few drawings."""
    codes = list(SCRIPTS)
    pictures: dict[tuple[int, int, int], NDArray[np.uint8]] = {}  # by (script, code point, font): the order of rows
    for place, file in enumerate(_font_files().values()):
        with TTFont(file, lazy=True) as table:
            points = list(table.getBestCmap() or ())
        # BASIC lays out one code point as one glyph: no shaping, whatever libraries this Pillow was built with.
        font = ImageFont.truetype(file, EM, layout_engine=ImageFont.Layout.BASIC)
        placeholder = _picture("\U0010ffff", font)  # a noncharacter, which no font has
        for point in points:
            code = script(chr(point))
            if code in SCRIPTS and unicodedata.category(chr(point))[0] in "LN":
                picture = _picture(chr(point), font)
                if picture is not None and not (placeholder is not None and np.array_equal(picture, placeholder)):
                    pictures[codes.index(code), point, place] = picture

    rows = np.array(sorted(pictures))
    images = np.stack([pictures[script_, point, font_] for script_, point, font_ in rows.tolist()])
    classes, labels = np.unique(rows[:, :2], axis=0, return_inverse=True)
    labels = labels.reshape(-1)  # numpy 2.0 gives a column
    inks = [cropped(image) for image in images]
    first, second = same_shape(inks).T  # first < second, hence also labels[first] <= labels[second]
    twin = np.zeros(len(classes), bool)
    twin[labels[second][labels[first] != labels[second]]] = True
    # Two fonts may hold one and the same drawing of a letter: it counts once, or a query could show a support drawing.
    repeated = np.zeros(len(rows), bool)
    for i, j in zip(first, second, strict=True):
        repeated[j] |= labels[i] == labels[j] and np.array_equal(inks[i], inks[j])
    kept_class = ~twin & (np.bincount(labels, weights=~repeated) >= MIN_DRAWINGS)
    kept = kept_class[labels] & ~repeated
    return {
        "images": images[kept],
        "labels": (np.cumsum(kept_class) - 1)[labels[kept]],
        "fonts": rows[kept, 2],
        "code_points": classes[kept_class, 1],
        "scripts": classes[kept_class, 0],
    }


def _picture(letter: str, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8] | None:
    """The letter in the stored raster, (SIDE, SIDE); None if it has no ink or would touch or cross the border."""
    canvas = Image.new("L", (5 * EM, 5 * EM))
    ImageDraw.Draw(canvas).text((2 * EM, 3 * EM), letter, fill=255, font=font, anchor="ls")
    box = canvas.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    x, y = (SIDE - (right - left)) // 2, BASELINE + top - 3 * EM
    if x < 1 or x + right - left >= SIDE or y < 1 or y + bottom - top >= SIDE:
        return None
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[y : y + bottom - top, x : x + right - left] = np.asarray(canvas.crop(box))
    return image
