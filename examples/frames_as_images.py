"""Several frames of a clip, each a data URL, in one message."""

import base64
import io
import sys

from PIL import Image, ImageDraw

from sensorium import LLM

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())


def encode_image(frame: Image.Image) -> str:
    """The frame as base64 of a JPEG file."""
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def draw_frame(i: int) -> Image.Image:
    """A red circle that moves to the right."""
    frame = Image.new("RGB", (168, 168), "white")
    ImageDraw.Draw(frame).ellipse((10 + 30 * i, 60, 58 + 30 * i, 108), fill=(220, 30, 30))
    return frame


# Specify the maximum number of frames per video to be 4. This can be changed.
llm = LLM(model, limit_mm_per_prompt={"image": 4})

# Create the request payload.
video_frames = [draw_frame(i) for i in range(4)]
message = {
    "role": "user",
    "content": [
        {
            "type": "text",
            "text": "Describe this set of frames. "
            "Consider the frames to be a part of the same video.",
        },
    ],
}
for i in range(len(video_frames)):
    base64_image = encode_image(video_frames[i])  # base64 encoding.
    new_image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{base64_image}"},
    }
    message["content"].append(new_image)

# Perform inference and log output.
outputs = llm.chat([message])

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
