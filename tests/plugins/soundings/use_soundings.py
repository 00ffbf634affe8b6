"""What can be asked with soundings: run by the tests with a small model."""

import numpy as np

from sensorium import LLM, SamplingParams


def answers(model, url):
    """The answers to every form that a sounding may be given in."""
    depths = np.linspace(3.0, 30.0, 40, dtype=np.float32)
    file = b"SND1" + depths.tobytes()
    llm = LLM(
        model,
        dtype="float32",
        max_model_len=256,
        media_io_kwargs={"sounding": {"metres": 1.0}},  # how they are read
        mm_processor_kwargs={"stride": 4},  # what the adapter makes of them
        limit_mm_per_prompt={"sounding": {"count": 2, "pings": 512}},
    )
    tokenizer = llm.get_tokenizer()
    words, mark = tokenizer.encode("The ground"), tokenizer.encode("<sounding>")
    rows = np.zeros((7, 64), np.float32)  # embeddings of any length, as wide as the model
    prompts = [
        {"prompt": "<sounding> is deep", "multi_modal_data": {"sounding": depths}},
        {"prompt": "<sounding> is deep", "multi_modal_data": {"sounding": file}},
        {"prompt": "<sounding> is deep", "multi_modal_data": {"sounding": url(file)}},
        {"prompt": "<sounding>, <sounding>", "multi_modal_data": {"sounding": [depths, file]}},
        {"prompt_token_ids": [*words, *mark], "multi_modal_data": {"sounding": depths}},
        {
            "prompt": "<sounding> is deep",
            "multi_modal_data": {"sounding": {"sounding_embeds": rows}},
        },
        {
            "prompt": "<sounding> is deep",
            "multi_modal_data": {"sounding": depths},
            "mm_processor_kwargs": {"stride": 8},
        },
    ]
    with llm:
        return llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=4), use_tqdm=False)
