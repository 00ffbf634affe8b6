"""The words that are written into pictures, and made-up ones beside them.

Training mixes both: the list teaches what words look like, the made-up ones keep the model reading
letters instead of recognising a list.
"""

from __future__ import annotations

import random

WORDS: tuple[str, ...] = tuple(
    """
    able acorn actor alarm album amber angle ankle apple april apron arrow atlas attic autumn
    bacon badge baker banana basket beach beacon bench berry bird biscuit blanket boat bottle
    bread brick bridge brush bucket butter button cabin cactus camel camera candle canvas canyon
    carpet carrot castle cedar cellar chair chalk cherry chess circus cliff clock cloud clover
    coast cobalt coffee comet copper coral cotton cousin cradle crane crystal curtain daisy
    dancer delta desert desk dinner dolphin donkey door dragon drum eagle early earth easel echo
    elbow ember engine envoy fabric falcon farmer feather fern ferry fiddle field finger flag
    flame flint flour flower forest fossil fountain fox frost garden garlic gate ghost giant
    ginger glacier glass globe glove goat gold grape grass gravel guitar hammer harbor harvest
    hazel heron hinge honey horse hotel house hunter ice igloo index ink island ivory ivy jacket
    jade jaguar jelly jewel jolly juice jungle kayak kettle key king kitchen kite knot ladder lake
    lamp lantern lava leaf lemon letter lily linen lion lizard lobster lunar magnet mango map
    maple marble market meadow melon metal mill mirror mountain music napkin needle nest night
    noble north nutmeg oak oasis ocean olive onion opera orbit orchid otter oven owl oxygen paddle
    palace panda paper parrot pasta pearl pebble pencil pepper piano pigeon pilot pine planet
    plum pocket pond poppy potato prism puzzle quail quartz queen quiet quilt rabbit radio rain
    raven ribbon river robin rocket root rose ruby saddle sail salmon salt sand satin school
    sea seed shadow shell silver sky sled snow soap sofa spice spoon spring square stone storm
    sugar summer sun swan table teapot temple thunder tiger timber tomato tower train tulip
    tunnel turtle umbrella uncle unicorn valley vanilla velvet village violet violin wagon walnut
    water wave wheat whistle willow window winter wizard wolf wood yacht yarn yellow yogurt zebra
    zinc zone
    """.split()
)

_CONSONANTS = "bcdfghjklmnprstvwxyzbdlmnrst"
_VOWELS = "aeiouaeioy"


def listed(rng: random.Random) -> str:
    """Draw a word of the list."""
    return rng.choice(WORDS)


def made_up(rng: random.Random) -> str:
    """Draw a string of three to seven letters that can be pronounced, more or less."""
    length = rng.randint(3, 7)
    vowel = rng.random() < 0.3
    letters: list[str] = []
    while len(letters) < length:
        letters.append(rng.choice(_VOWELS if vowel else _CONSONANTS))
        vowel = not vowel if rng.random() < 0.85 else vowel
    return "".join(letters)
