"""Sound in `generate` prompts, one clip and several, and in a chat.

    python examples/audio_language.py [MODEL] [TEXT_MODEL]

Ultravox takes its text model from another repository, a gated one; TEXT_MODEL names another place
for it.
"""

import sys

from sensorium import LLM, SamplingParams
from sensorium.assets.audio import AudioAsset

model = sys.argv[1] if len(sys.argv) > 1 else "fixie-ai/ultravox-v0_5-llama-3_2-1b"
elsewhere = {"text_model_id": sys.argv[2]} if len(sys.argv) > 2 else {}

llm = LLM(
    model=model,
    trust_remote_code=True,  # accepted, not needed
    max_model_len=4096,
    limit_mm_per_prompt={"audio": 2},
    hf_overrides=elsewhere,
)
sampling_params = SamplingParams(temperature=0.2, max_tokens=64)

# A tuple (array, sampling_rate) in the 'audio' field of the multi-modal dictionary
audio, sampling_rate = AudioAsset("mary_had_lamb").audio_and_sample_rate
outputs = llm.generate(
    {
        "prompt": "<|audio|>\nWhat is this?",
        "multi_modal_data": {"audio": (audio, sampling_rate)},
    },
    sampling_params=sampling_params,
)
print(outputs[0].outputs[0].text)

# Several clips, each where its placeholder stands; <audio> is any model's
outputs = llm.generate(
    {
        "prompt": "First: <audio> Second: <audio> Which one is louder?",
        "multi_modal_data": {
            "audio": [
                AudioAsset("mary_had_lamb").audio_and_sample_rate,
                AudioAsset("winning_call").audio_and_sample_rate,
            ]
        },
    },
    sampling_params=sampling_params,
)
print(outputs[0].outputs[0].text)

# A file, whatever its format
conversation = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What's in this audio?"},
            {"type": "audio_url", "audio_url": {"url": AudioAsset("winning_call").url}},
        ],
    }
]
llm.close()

llm = LLM(
    model=model,
    max_model_len=4096,
    hf_overrides=elsewhere,
    # Files by URL are read below this folder only.
    allowed_local_media_path=str(AudioAsset("winning_call").get_local_path().parent),
)
outputs = llm.chat(conversation, sampling_params=sampling_params)
print(outputs[0].outputs[0].text)
llm.close()
