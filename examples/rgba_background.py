"""Which colour stands behind the transparent parts of a picture."""

import sys

from PIL import Image, ImageDraw

from sensorium import LLM

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

image = Image.new("RGBA", (168, 168), (0, 0, 0, 0))
ImageDraw.Draw(image).ellipse((50, 50, 118, 118), fill=(220, 30, 30, 255))
message = {
    "role": "user",
    "content": [
        {"type": "image_pil", "image_pil": image},
        {"type": "text", "text": "What colour is the circle?"},
    ],
}

# Default white background (no configuration needed)
llm = LLM(model=model)
print("on white:", llm.chat([message])[0].outputs[0].text)
llm.close()

# Custom black background for dark theme
llm = LLM(
    model=model,
    media_io_kwargs={"image": {"rgba_background_color": [0, 0, 0]}},
)
print("on black:", llm.chat([message])[0].outputs[0].text)
llm.close()

# Custom brand color background (e.g., blue)
llm = LLM(
    model=model,
    media_io_kwargs={"image": {"rgba_background_color": [0, 0, 255]}},
)
print("on blue:", llm.chat([message])[0].outputs[0].text)
llm.close()
