"""An SVG file made fit to stand inside an HTML page, beside others."""

import re
from html import escape

IDS = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')
DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)


def inline(svg: str, prefix: str, label: str) -> str:
    """The `<svg>` element alone, every id with the prefix, described to those who do not see it.

    Comments (which repeat the drawn text), metadata and the style element (which would hold for the whole page) go.
    """
    body = IDS.sub(lambda match: f"{match[1]}{prefix}-{match[2]}", DROPPED.sub("", svg)).strip()
    head, rest = body.split(">", 1)
    # The size in points becomes the largest width; the viewBox keeps the shape.
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label, quote=True)}">{rest}'
