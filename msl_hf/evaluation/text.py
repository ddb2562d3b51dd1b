"""Names in figures: text as it is, in fonts that have its characters."""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterable, Iterator

DEFAULT_FAMILY = "DejaVu Sans"  # ships with matplotlib


@contextlib.contextmanager
def plain_text(names: Iterable[str]) -> Iterator[str | None]:
    """Within: matplotlib draws names as they are written (`$` is no formula), with installed fonts that have them.

    Args:
        names: What will be drawn.

    Yields:
        Why characters are missing, None where none is; for the figure to say so.
    """
    import matplotlib

    families, missing = _families(frozenset("".join(names)))
    note = None
    if missing:
        shown = ", ".join(f"U+{ord(character):04X}" for character in missing[:5])
        note = f"No installed font has {len(missing)} characters of the names ({shown}); Noto Sans CJK has most."
    with matplotlib.rc_context({"text.parse_math": False, "font.family": families}):
        yield note


def save_figure(figure, path: str | os.PathLike, note: str | None, dpi: int = 120) -> None:
    """Write the figure, with the note below it where there is one."""
    if note is not None:
        figure.supxlabel(note, fontsize=7, color="tab:red")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the note says it once
        figure.savefig(path, dpi=dpi)


@functools.lru_cache(maxsize=32)
def _families(characters: frozenset[str]) -> tuple[list[str], list[str]]:
    """(font families that together have the characters, the characters that none has)."""
    from matplotlib import font_manager

    missing = {character for character in characters if character.isprintable() and not character.isspace()}
    missing -= _characters(font_manager.findfont(DEFAULT_FAMILY))
    families = [DEFAULT_FAMILY]
    if not missing:
        return families, []
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for file in set(font_manager.findSystemFonts()) - known:  # installed since matplotlib looked
        with contextlib.suppress(OSError, RuntimeError):
            font_manager.fontManager.addfont(file)
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: ("Sans" not in font.name, font.name)):
        found = missing & _characters(font.fname)
        if found and "LastResort" not in font.fname:  # that font draws what script a character is of
            families.append(font.name)
            missing -= found
    return families, sorted(missing)


def _characters(file: str) -> set[str]:
    """The characters of a font; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return set(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return set()
