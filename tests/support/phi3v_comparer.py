"""Holds what an engine answers for a tiny Phi-3.5-vision against the composed reference.

The reference is given the pixels that our own preprocessing made (its equality with Pillow's is
tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_helpers import loaded, model_context, open_folder
from greedy import Remembered
from greedy_images import Prompt, images
from phi3v_reference import Phi3VReference
from PIL import Image
from tiny_checkpoints import PHI3V_IDS

from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaShape
from sensorium_media_image.families.phi3v import Phi3VFamily, Phi3VImages


def pictures(sizes: list[tuple[int, int]]) -> list[Image.Image]:
    """As ``images`` of Pillow."""
    return [Image.fromarray(pixels) for pixels in images(sizes)]


class Comparer:
    """Holds answers of a folder's model against the reference's."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = Phi3VReference(folder, dtype)
        self.remembered = Remembered()
        checkpoint = open_folder(folder)
        context = model_context(Phi3VFamily(), checkpoint.config, checkpoint.processor)
        self.adapter = Phi3VImages(replace(context, tokenizer=Tokenizer.load(folder)))

    def padded(self, picture: Image.Image, num_crops: int | None = None) -> Image.Image:
        """The picture in its tiles, as the engine's frontend makes them."""
        pixels, options = np.asarray(picture), self.adapter.options({"num_crops": num_crops})
        plan = self.adapter.plan(MediaShape(pixels.shape[:2]), options)
        features = self.adapter.process(loaded(pixels), plan, options)
        return Image.fromarray(features["tower"]["pixels"].numpy())

    def logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        """(answer, vocabulary): the reference's, each row before its token."""
        given = (prompt[0], *prompt[1], *output.prompt_token_ids, *output.outputs[0].token_ids)
        return self.remembered.get(given, lambda: self._logits(prompt, output))

    def _logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        text, sizes = prompt
        features = [self.model.embeds_of(self.padded(picture)) for picture in pictures(sizes)]
        ids = self.model.token_ids(text, [len(rows) for rows in features])
        image_id = PHI3V_IDS["<|image|>"]
        assert list(output.prompt_token_ids) == [image_id if i < 0 else i for i in ids], text
        answer = output.outputs[0].token_ids
        return self.model.hidden_and_logits([*ids, *answer], features)[1][len(ids) - 1 : -1]

    def vector(self, prompt: Prompt, num_crops: int | None = None) -> torch.Tensor:
        """(hidden,): the last token's state behind the last norm, divided by its length."""
        text, sizes = prompt
        padded = [self.padded(picture, num_crops) for picture in pictures(sizes)]
        features = [self.model.embeds_of(picture) for picture in padded]
        ids = self.model.token_ids(text, [len(rows) for rows in features])
        state = self.model.hidden_and_logits(ids, features)[0][-1]
        return state / state.norm()
