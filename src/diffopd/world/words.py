"""Words for signs: random strings to train on, real words to be tested on."""

from __future__ import annotations

import numpy as np

from diffopd.world.glyphs import LETTERS

EVALUATION_WORDS: tuple[str, ...] = tuple(
    """
    ACE ACRE ACT ALE ANT APE ARC ARM ART ATE AXE CAKE CALM CAMP CAN CANE CAP CAPE CAR CARE CART CASE CAST CAT
    CENT CLAM CLAN CLAP CRAM EARN EAR EAST EAT EXAM KALE KEEN KEEP KELP LACE LAKE LAMP LANE LAP LATE LEAK LEAN
    LEAP LENS LENT MAKE MALT MAN MANE MAP MARE MARK MARS MASK MAST MAT MATE MEAL MEAN MEAT MELT MEN MET NAME
    NAP NEAR NEAT NECK NEST NET NEXT PACE PACK PACT PAL PALE PALM PAN PANE PARK PART PAST PAT PEA PEAK PEAR
    PEN PET PLAN RACE RAM RAMP RAN RARE RAT RATE REAL REST SAIL SALE SALT SAND SAP SAX SCAN SEA SEAL SEAM SEAT
    SENT SET SLAM SLAP SNAP SPAN STAR STEM STEP TALE TALK TAME TAN TANK TAP TAPE TAR TASK TAX TEA TEAM TEAR
    TEN TENT TERM TEST TEXT TRAM TRAP TREE TREK
    """.split()
)
EVALUATION_WORDS = tuple(word for word in EVALUATION_WORDS if set(word) <= set(LETTERS))
"""Real words; no training prompt holds one of them."""

TRAINING_LENGTHS = (3, 4)
OUT_OF_DISTRIBUTION_LENGTHS = (1, 2)


def random_word(rng: np.random.Generator) -> str:
    """A random string of a training length that is not an evaluation word."""
    while True:
        word = "".join(rng.choice(list(LETTERS), size=rng.choice(TRAINING_LENGTHS)))
        if word not in EVALUATION_WORDS:
            return word


def short_word(rng: np.random.Generator) -> str:
    """A random string shorter than any seen in training."""
    return "".join(rng.choice(list(LETTERS), size=rng.choice(OUT_OF_DISTRIBUTION_LENGTHS)))
