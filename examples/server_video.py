"""A clip in a chat with a server, by URL, then by its uuid alone, with OpenAI's client.

    python examples/server_video.py [ADDRESS] [VIDEO_URL]

First: sensorium serve llava-hf/llava-onevision-qwen2-0.5b-ov-hf --runner generate \
           --max-model-len 8192
"""

import sys

from openai import OpenAI

openai_api_key = "EMPTY"
openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"
video_url = (
    sys.argv[2]
    if len(sys.argv) > 2
    else "http://commondatastorage.googleapis.com/gtv-videos-bucket/sample/ForBiggerFun.mp4"
)

client = OpenAI(
    api_key=openai_api_key,
    base_url=openai_api_base,
)
model = client.models.list().data[0].id

# Use video url in the payload, then leave the data out: the server knows the clip by its uuid.
for given in ({"url": video_url}, None):
    chat_completion_from_url = client.chat.completions.create(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What's in this video?"},
                    {
                        "type": "video_url",
                        "video_url": given,
                        "uuid": video_url,  # Optional
                    },
                ],
            }
        ],
        model=model,
        max_completion_tokens=64,
        temperature=0,
    )
    result = chat_completion_from_url.choices[0].message.content
    print("Chat completion output from video url:", result)
