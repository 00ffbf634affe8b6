"""tiny-vl and tiny-audio, small trained models, and the drawings and tones that they learnt from.

`model_path()` is a checkpoint folder like any downloaded one. `questions.draw_item` draws pictures
and `clips.draw_clip_item` clips, with questions and true answers; nothing here imports torch or the
engine until `demo` runs.
"""

from pathlib import Path

__all__ = ["card_path", "model_path", "sound_card_path", "sound_model_path"]


def model_path() -> Path:
    """The folder of the model: weights, configuration, tokenizer, chat template."""
    return Path(__file__).parent / "model"


def card_path() -> Path:
    """The model's card: what it is, what it is not, how it was trained and what it scores."""
    return Path(__file__).parent / "card.md"


def sound_model_path() -> Path:
    """The folder of tiny-audio, the model that listens."""
    return Path(__file__).parent / "sound_model"


def sound_card_path() -> Path:
    """tiny-audio's card."""
    return Path(__file__).parent / "sound_card.md"
