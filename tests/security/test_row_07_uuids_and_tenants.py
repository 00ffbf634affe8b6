"""Row 7 (vLLM #55439): a uuid names an item within its ``cache_salt`` only.

Another tenant's uuid is not known, its URL in flight is not shared, its pages are not used.
"""

from __future__ import annotations

from typing import Any

from hostile_server import HostileServer, answer
from PIL import Image

from sensorium import LLM, SamplingParams
from sensorium.errors import CacheMissError

PROMPT = "<|vision_start|><|image_pad|><|vision_end|> What?"
PARAMS = SamplingParams(temperature=0, max_tokens=1)


def ask(llm: LLM, image: Any, salt: str, uuid: str = "u") -> Any:
    prompt = {
        "prompt": PROMPT,
        "multi_modal_data": {"image": image},
        "multi_modal_uuids": {"image": uuid},
        "cache_salt": salt,
    }
    (output,) = llm.generate([prompt], PARAMS, use_tqdm=False, on_error="return")
    return output


def test_a_uuid_is_one_tenants(llm: LLM) -> None:
    picture = Image.new("RGB", (56, 56), "red")
    assert ask(llm, picture, "mine").error is None
    assert ask(llm, None, "mine").error is None, "known here"
    for salt in ("yours", ""):
        error = ask(llm, None, salt).error
        assert isinstance(error, CacheMissError)
        assert str(error).startswith("cache miss for image at index 0, uuid u")


def test_another_tenants_item_is_not_served_for_a_uuid(llm: LLM) -> None:
    small, large = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (112, 56), "blue")
    mine = ask(llm, small, "mine", "v")
    yours = ask(llm, large, "yours", "v")
    assert yours.error is None
    assert len(yours.prompt_token_ids) > len(mine.prompt_token_ids)
    assert yours.num_cached_tokens == 0, "no page of another salt is used"


def test_each_tenant_fetches_for_itself(vl_folder: object) -> None:
    with (
        HostileServer() as server,
        LLM(
            str(vl_folder), dtype="float32", max_model_len=256, allow_private_media_hosts=True
        ) as llm,
    ):
        server.scripts["/x"] = answer(b"no picture")
        for salt in ("mine", "yours", "mine"):
            assert ask(llm, server.url("/x"), salt, "w").error is not None
        assert len(server.requests) == 3
