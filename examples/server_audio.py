"""Sound in chats with a server, as base64 and by URL, with OpenAI's client.

First: sensorium serve fixie-ai/ultravox-v0_5-llama-3_2-1b
"""

import base64
import sys
from urllib.request import urlopen

from openai import OpenAI

from sensorium.assets.audio import AudioAsset

openai_api_key = "EMPTY"
openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"


def encode_base64_content_from_url(content_url: str) -> str:
    """Encode a content retrieved from a remote url to base64 format."""
    with urlopen(content_url) as response:
        return base64.b64encode(response.read()).decode("utf-8")


client = OpenAI(
    api_key=openai_api_key,
    base_url=openai_api_base,
)
model = client.models.list().data[0].id

# Any format is supported that the package's page lists
audio_url = AudioAsset("winning_call").url
audio_base64 = encode_base64_content_from_url(audio_url)

chat_completion_from_base64 = client.chat.completions.create(
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What's in this audio?"},
                {
                    "type": "input_audio",
                    "input_audio": {"data": audio_base64, "format": "wav"},
                    "uuid": audio_url,  # Optional
                },
            ],
        }
    ],
    model=model,
    max_completion_tokens=64,
)
result = chat_completion_from_base64.choices[0].message.content
print("Chat completion output from input audio:", result)

# The server fetches what an audio_url names; for file: it must be told where it may read.
chat_completion_from_url = client.chat.completions.create(
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What's in this audio?"},
                {
                    "type": "audio_url",
                    "audio_url": {"url": audio_url},
                    # With the uuid of above the server would know the clip and fetch nothing.
                    "uuid": audio_url + "#by-url",  # Optional
                },
            ],
        }
    ],
    model=model,
    max_completion_tokens=64,
)
result = chat_completion_from_url.choices[0].message.content
print("Chat completion output from audio url:", result)

# A clip that the server knows by its uuid need not be sent again.
chat_completion_from_uuid = client.chat.completions.create(
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What's in this audio?"},
                {"type": "input_audio", "input_audio": None, "uuid": audio_url},
            ],
        }
    ],
    model=model,
    max_completion_tokens=64,
)
result = chat_completion_from_uuid.choices[0].message.content
print("Chat completion output from its uuid:", result)
