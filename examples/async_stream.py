"""Two requests at once, their text as it comes."""

import asyncio
import sys

from PIL import Image, ImageDraw

from sensorium import AsyncEngine, SamplingParams

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())


def picture(colour: str) -> Image.Image:
    """A square on white."""
    image = Image.new("RGB", (168, 168), "white")
    ImageDraw.Draw(image).rectangle((50, 50, 118, 118), fill=colour)
    return image


async def ask(engine: AsyncEngine, colour: str) -> None:
    """Prints the answer's growing text."""
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image_pil", "image_pil": picture(colour)},
                {"type": "text", "text": "What colour is the square?"},
            ],
        }
    ]
    async for output in engine.chat(messages, SamplingParams(temperature=0.0, max_tokens=12)):
        print(f"{colour}: {output.outputs[0].text}")


async def main() -> None:
    async with AsyncEngine(model) as engine:
        await asyncio.gather(ask(engine, "red"), ask(engine, "blue"))


asyncio.run(main())
