"""Cut the shipped fonts down to what the drawings need.

Reads the font files of Debian's packages (unpacked below one folder), keeps the glyphs of
`CHARACTERS`, drops hinting and layout tables, and writes them under the package's `fonts/`.

A subset is a modified version in the sense of the SIL Open Font License, whose clause 3 forbids a
modified version to carry a Reserved Font Name. Every family is therefore renamed to `TinyVL <id>`,
reserved or not; the copyright notice and the licence fields of the name table stay as they were.

    apt-get download PACKAGE ... && dpkg -x EACH.deb FOLDER/PACKAGE
    python build_fonts.py FOLDER
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

CHARACTERS = string.ascii_letters + string.digits + " .,!?-'"
DESTINATION = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "fonts"

OFL, APACHE, VERA, BSD = "OFL-1.1", "Apache-2.0", "Bitstream-Vera", "BSD-3-Clause"

# id: (source file, Debian package, licence)
SOURCES: dict[str, tuple[str, str, str]] = {
    "averia": ("AveriaSansGWF-Bold.ttf", "fonts-averia-sans-gwf", OFL),
    "b612": ("B612-Regular.otf", "fonts-b612", OFL),
    "b612mono": ("B612Mono-Bold.otf", "fonts-b612", OFL),
    "cabin": ("Cabin-Regular.otf", "fonts-cabin", OFL),
    "cabinbold": ("Cabin-Bold.otf", "fonts-cabin", OFL),
    "caladea": ("Caladea-Regular.ttf", "fonts-crosextra-caladea", OFL),
    "cantarell": ("Cantarell-Bold.otf", "fonts-cantarell", OFL),
    "carlito": ("Carlito-Regular.ttf", "fonts-crosextra-carlito", OFL),
    "comfortaa": ("Comfortaa-Bold.ttf", "fonts-comfortaa", OFL),
    "comicneue": ("ComicNeue-Regular.otf", "fonts-comic-neue", OFL),
    "comicneuebold": ("ComicNeue-Bold.otf", "fonts-comic-neue", OFL),
    "courierprime": ("Courier Prime Bold.otf", "fonts-courier-prime", OFL),
    "cousine": ("Cousine-Regular.ttf", "fonts-croscore", OFL),
    "dejavumono": ("DejaVuSansMono.ttf", "fonts-dejavu-core", VERA),
    "dejavusans": ("DejaVuSans.ttf", "fonts-dejavu-core", VERA),
    "dejavusansbold": ("DejaVuSans-Bold.ttf", "fonts-dejavu-core", VERA),
    "dejavuserif": ("DejaVuSerif.ttf", "fonts-dejavu-core", VERA),
    "dosis": ("Dosis-SemiBold.otf", "fonts-dosis", OFL),
    "garamond": ("EBGaramond12-Bold.otf", "fonts-ebgaramond", OFL),
    "go": ("Go-Regular.ttf", "fonts-go", BSD),
    "gomono": ("Go-Mono-Bold.ttf", "fonts-go", BSD),
    "inter": ("Inter-Black.otf", "fonts-inter", OFL),
    "jetbrains": ("JetBrainsMono-Medium.ttf", "fonts-jetbrains-mono", APACHE),
    "jura": ("Jura-SemiBold.otf", "fonts-jura", OFL),
    "karla": ("Karla-Regular.otf", "fonts-karla", OFL),
    "lato": ("Lato-Bold.ttf", "fonts-lato", OFL),
    "leaguespartan": ("LeagueSpartan-Bold.otf", "fonts-league-spartan", OFL),
    "liberationsans": ("LiberationSans-Regular.ttf", "fonts-liberation2", OFL),
    "liberationsansbold": ("LiberationSans-Bold.ttf", "fonts-liberation2", OFL),
    "liberationserif": ("LiberationSerif-Regular.ttf", "fonts-liberation2", OFL),
    "liberationserifbold": ("LiberationSerif-Bold.ttf", "fonts-liberation2", OFL),
    "notoserif": ("NotoSerif-Regular.ttf", "fonts-noto-core", OFL),
    "notoserifdisplay": ("NotoSerifDisplay-Bold.ttf", "fonts-noto-core", OFL),
    "opensans": ("OpenSans-Regular.ttf", "fonts-open-sans", APACHE),
    "opensansbold": ("OpenSans-ExtraBold.ttf", "fonts-open-sans", APACHE),
    "play": ("Play-Bold.ttf", "fonts-play", OFL),
    "quicksand": ("Quicksand-Medium.ttf", "fonts-quicksand", OFL),
    "roboto": ("Roboto-Regular.ttf", "fonts-roboto-unhinted", APACHE),
    "robotoblack": ("Roboto-Black.ttf", "fonts-roboto-unhinted", APACHE),
    "robotocondensed": ("RobotoCondensed-Bold.ttf", "fonts-roboto-unhinted", APACHE),
    "robotoslab": ("RobotoSlab-Regular.otf", "fonts-roboto-slab", APACHE),
    "vollkorn": ("Vollkorn-SemiBold.ttf", "fonts-vollkorn", OFL),
}

# Where the name table of a font has no notice worth the name: what its package says.
COPYRIGHTS = {
    "garamond": "Copyright 2010-2012 Georg Duffner (http://www.georgduffner.at)",
    "leaguespartan": "Copyright 2011-2020 Micah Rich, Caroline Hadilaksono, Tyler Finck",
}


def cut(source: Path, font_id: str) -> dict[str, str]:
    """Write one renamed subset; return what its name table says of its origin."""
    options = subset.Options()
    options.hinting = False
    options.layout_features = []
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.notdef_outline = True
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "DSIG", "FFTM", "MATH"]
    font: TTFont = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=CHARACTERS)
    subsetter.subset(font)

    names = font["name"]
    origin = {
        "full_name": names.getDebugName(4) or source.stem,
        "copyright": COPYRIGHTS.get(font_id) or names.getDebugName(0) or "",
    }
    family = f"TinyVL {font_id}"
    new = {1: family, 2: "Regular", 3: family, 4: family, 6: family.replace(" ", "-")}
    for record in names.names:
        if record.nameID in new:
            record.string = new[record.nameID]
    if "CFF " in font:
        cff = font["CFF "].cff
        cff.fontNames = [new[6]]
        for key in ("FullName", "FamilyName"):
            setattr(cff.topDictIndex[0], key, family)
    font.save(DESTINATION / f"{font_id}{source.suffix}")
    return origin


def main() -> None:
    root = Path(sys.argv[1])
    DESTINATION.mkdir(exist_ok=True)
    table: dict[str, dict[str, str]] = {}
    for font_id, (name, package, licence) in SOURCES.items():
        found = sorted((root / package).rglob(name))
        if not found:
            raise SystemExit(f"{name} of {package} is not below {root}")
        origin = cut(found[0], font_id)
        file = f"{font_id}{found[0].suffix}"
        table[font_id] = {"file": file, "licence": licence, "package": package, **origin}
    (DESTINATION / "fonts.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
