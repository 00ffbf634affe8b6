"""Text, token ids and chat templates; knows nothing of media."""

from sensorium.tokenizer.detokenizer import Detokenizer, make_detokenizer
from sensorium.tokenizer.find_template import load_template
from sensorium.tokenizer.template import ChatTemplate
from sensorium.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "Tokenizer", "load_template", "make_detokenizer"]
