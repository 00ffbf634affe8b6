"""Grammars: from the form that an answer must have to masks over the vocabulary.

    StructuredOutputs ─ bounds ─ compile ─→ Grammar ─ matcher() ─→ Matcher ─ MaskMaker ─→ masks
                        Grammars keeps grammars by their text

Uses llguidance, an optional dependency (``sensorium-core[structured]``), and knows nothing of
requests, schedulers or devices.
"""

from sensorium.grammar.grammars import Grammars
from sensorium.grammar.masks import MaskMaker
from sensorium.grammar.matcher import Grammar, Matcher

__all__ = ["Grammar", "Grammars", "MaskMaker", "Matcher"]
