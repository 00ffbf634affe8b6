"""Pre-computed embeddings in place of pictures, through ``generate`` and ``chat``.

The reference is the picture itself: its embedding, made by the model's own tower, must be
answered as the picture is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import load_tower, loaded, make_adapter, open_folder, random_image
from PIL import Image
from safetensors.torch import save as save_safetensors
from tiny_checkpoints import make_llava, make_qwen2vl, make_qwen25vl

from sensorium import LLM, SamplingParams
from sensorium.errors import CacheMissError, MediaError, RequestError
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=8, ignore_eos=True)
MAKERS: dict[str, tuple[Callable[..., Path], Any, Any]] = {
    "llava": (make_llava, LlavaFamily(), LlavaImages),
    "qwen2-vl": (make_qwen2vl, QwenVLFamily(), QwenImages),
    "qwen2.5-vl": (make_qwen25vl, QwenVLFamily(), QwenImages),
}


@dataclass
class Given:
    """A picture's embedding as a caller would hold it."""

    rows: torch.Tensor
    grid: torch.Tensor | None

    @property
    def value(self) -> Any:
        """As ``multi_modal_data`` takes it."""
        if self.grid is None:
            return self.rows[None]
        return {"image_embeds": self.rows[None], "image_grid_thw": self.grid[None]}


class Model:
    """An engine, and its tower beside it."""

    def __init__(self, name: str, folder: Path) -> None:
        make, family, adapter = MAKERS[name]
        checkpoint = open_folder(make(folder, seed=4))
        self.name = name
        self.tower = load_tower(family, checkpoint)
        self.adapter = make_adapter(adapter, family, checkpoint)
        self.llm = LLM(folder, dtype="float32", max_model_len=512)

    def embed(self, picture: np.ndarray) -> Given:
        options = self.adapter.options({})
        image = loaded(picture)
        plan = self.adapter.plan(image.shape, options)
        (out,) = self.tower([self.adapter.process(image, plan, options)["tower"]])
        if not plan.grid:
            return Given(out.embeds, None)
        time, rows, columns = plan.grid
        return Given(out.embeds, torch.tensor([time, 2 * rows, 2 * columns]))

    def answer(self, *images: Any, uuids: Any = None) -> tuple[int, ...]:
        (output,) = self.llm.generate(prompt(*images, uuids=uuids), GREEDY, use_tqdm=False)
        return output.outputs[0].token_ids


def prompt(*images: Any, uuids: Any = None) -> dict[str, Any]:
    data = images[0] if len(images) == 1 else list(images)
    made = {
        "prompt": "what is " + "<image>" * len(images) + "?",
        "multi_modal_data": {"image": data},
    }
    return made if uuids is None else {**made, "multi_modal_uuids": {"image": uuids}}


@pytest.fixture(scope="module", params=MAKERS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    one = Model(request.param, tmp_path_factory.mktemp("model"))
    with one.llm:
        yield one
        one.llm.check_integrity()


def pictures(count: int = 2) -> list[np.ndarray]:
    return [random_image(70 + 40 * seed, 110, seed) for seed in range(count)]


def test_they_are_answered_as_the_picture_is(model: Model) -> None:
    first, second = pictures()
    expected = model.answer(first, second)
    swapped = prompt(second, first)
    asked = replace(GREEDY, logprobs=1)
    outputs = model.llm.generate([prompt(first, second), swapped], asked, use_tqdm=False)
    one, other = (output.outputs[0].cumulative_logprob or 0.0 for output in outputs)
    assert abs(one - other) > 1e-3, "else nothing is compared"
    given = [model.embed(picture) for picture in (first, second)]
    assert model.answer(*(one.value for one in given)) == expected
    assert model.answer(first, given[1].value) == expected, "mixed with a picture"
    assert model.answer(*(one.value for one in given)) == expected, "from the caches"


def test_several_in_one_value(model: Model) -> None:
    given = [model.embed(picture) for picture in pictures()]
    expected = model.answer(*pictures())
    rows = [one.rows for one in given]
    values: list[Any] = [{"image_embeds": rows}, {"image_embeds": torch.cat(rows)}]
    if given[0].grid is None:
        values = [values[0], torch.stack(rows), rows, torch.stack(rows).numpy()]
    else:
        grids = torch.stack([one.grid for one in given if one.grid is not None])
        values = [{**value, "image_grid_thw": grids} for value in values]
    for value in values:
        made = {"prompt": "what is <image><image>?", "multi_modal_data": {"image": value}}
        (output,) = model.llm.generate(made, GREEDY, use_tqdm=False)
        assert output.outputs[0].token_ids == expected


def as_base64(tensor: torch.Tensor, how: str) -> str:
    file = io.BytesIO()
    if how == "torch":
        torch.save(tensor, file)
    elif how == "npy":
        np.save(file, tensor.numpy())
    else:
        file.write(save_safetensors({"rows": tensor}))
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("how", ["tensor", "torch", "npy", "safetensors"])
def test_chat_parts(model: Model, how: str) -> None:
    first, second = pictures()
    given = model.embed(second)

    def ask(part: dict[str, Any]) -> tuple[int, ...]:
        content = [part_of(first), part, {"type": "text", "text": "what is it?"}]
        (output,) = model.llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
        return output.outputs[0].token_ids

    def part_of(picture: np.ndarray) -> dict[str, Any]:
        return {"type": "image_pil", "image_pil": Image.fromarray(picture)}

    def spelt(tensor: torch.Tensor) -> Any:
        return tensor if how == "tensor" else as_base64(tensor, how)

    value: Any = spelt(given.rows)
    if given.grid is not None:
        value = {"image_embeds": value, "image_grid_thw": spelt(given.grid)}
    expected = ask(part_of(second))
    assert ask({"type": "image_embeds", "image_embeds": value, "uuid": f"{how} 2"}) == expected
    assert ask({"type": "image_embeds", "image_embeds": None, "uuid": f"{how} 2"}) == expected
    assert ask({"type": "image_embeds", "uuid": f"{how} 2"}) == expected


def test_several_messages_may_hold_them(model: Model) -> None:
    """vLLM's page allows them in one message only."""
    given = [model.embed(picture) for picture in pictures()]

    def ask(*values: Any) -> tuple[int, ...]:
        messages = [{"role": "user", "content": [value]} for value in values]
        messages.insert(1, {"role": "assistant", "content": "one"})
        (output,) = model.llm.chat(messages, GREEDY, use_tqdm=False)
        return output.outputs[0].token_ids

    def part(one: Given) -> dict[str, Any]:
        value: Any = one.rows
        if one.grid is not None:
            value = {"image_embeds": value, "image_grid_thw": one.grid}
        return {"type": "image_embeds", "image_embeds": value}

    shown = [{"type": "image_pil", "image_pil": Image.fromarray(one)} for one in pictures()]
    assert ask(*map(part, given)) == ask(*shown)


def test_what_is_refused_disturbs_nobody(model: Model) -> None:
    (picture,) = pictures(1)
    good = model.embed(picture)
    bad = [
        Given(good.rows[:, :-1], good.grid),
        Given(good.rows[:-1], good.grid),
        Given(good.rows / 0, good.grid),
        Given(good.rows.int(), good.grid),
    ]
    values = [one.value for one in bad]
    values.append({"image_embeds": good.rows[None], "image_sizes": [(110, 70)]})
    values.append({"image_embeds": good.rows[None].to_sparse()})
    if good.grid is not None:
        values.append(good.rows[None])
        values.append({"image_embeds": good.rows[None], "image_grid_thw": good.grid[None] * 2})
    prompts = [prompt(value) for value in [*values, good.value]]
    *failed, last = model.llm.generate(prompts, GREEDY, use_tqdm=False, on_error="return")
    assert all(isinstance(output.error, (MediaError, RequestError)) for output in failed)
    assert [str(output.error)[:8] for output in failed] == ["image 0:"] * len(failed)
    assert last.outputs[0].token_ids == model.answer(picture)
    model.llm.check_integrity()


def test_a_uuid_for_embeddings(model: Model) -> None:
    (picture,) = pictures(1)
    expected = model.answer(picture)
    assert model.answer([model.embed(picture).value], uuids=["rows"]) == expected
    assert model.answer([None], uuids=["rows"]) == expected
    with pytest.raises(CacheMissError, match="cache miss for image at index 0, uuid other"):
        model.answer([None], uuids=["other"])
