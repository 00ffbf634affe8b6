"""The plugin interface: everything a plugin author imports.

``docs/plugins.md`` explains it with an example.
"""

from sensorium.plugins.adapter import MediaAdapter, Placeholder
from sensorium.plugins.command import Command
from sensorium.plugins.compose import Slot, TokenizedPrompt, walk_slots, whole_span
from sensorium.plugins.context import EncoderContext, ModelContext, TokenizerView
from sensorium.plugins.encoder import (
    Encoder,
    EncoderOutput,
    EncoderSpec,
    WeightMap,
    WeightRule,
)
from sensorium.plugins.family import ModelFamily
from sensorium.plugins.hookspecs import API, GROUP, hookimpl
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.options import OptionCheck, check_options
from sensorium.plugins.reader import MediaReader

__all__ = [
    "API",
    "GROUP",
    "Command",
    "Encoder",
    "EncoderContext",
    "EncoderOutput",
    "EncoderSpec",
    "MediaAdapter",
    "MediaKind",
    "MediaReader",
    "ModelContext",
    "ModelFamily",
    "OptionCheck",
    "Placeholder",
    "Slot",
    "TokenizedPrompt",
    "TokenizerView",
    "WeightMap",
    "WeightRule",
    "check_options",
    "hookimpl",
    "walk_slots",
    "whole_span",
]
