"""tiny-audio's accuracy by question type, by greedy generation with the project's engine.

    python measure_sound.py CHECKPOINT --count 200 [--split heldout] [--seed 2026]

Prints the table of the model's card: right answers, and two controls: the same questions about
silence, and about another item's clips; both must fall to what a guesser reaches who always gives
the commonest training answer to the question. Types that are spoken need espeak-ng.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import sound_talk
from speech import Espeak

from sensorium import LLM, SamplingParams
from sensorium_tiny_models.hearing import (
    HELD_OUT,
    QUESTION_TYPES,
    SPLITS,
    SPOKEN,
    TRAIN,
    Item,
    draw_item,
    item_rng,
    silenced,
    swapped,
)
from sensorium_tiny_models.spoken import Speaker
from sensorium_tiny_models.tones import RATE

Answerer = Callable[[Sequence[Item]], list[str]]
#: Training items from which the guesser learns, of each type.
NUM_GUESSED = 300


def with_engine(llm: LLM) -> Answerer:
    """Answers by greedy generation, clips before the question."""
    greedy = SamplingParams(temperature=0, max_tokens=48)

    def answer(items: Sequence[Item]) -> list[str]:
        prompts = [
            {
                "prompt": sound_talk.plain_prompt(item.question, len(item.clips)),
                "multi_modal_data": {"audio": [(clip, RATE) for clip in item.clips]},
            }
            for item in items
        ]
        outputs = llm.generate(prompts, greedy, use_tqdm=False)
        return [output.outputs[0].text.strip() for output in outputs]

    return answer


def draw(split: str, seed: int, name: str, count: int, speaker: Speaker | None) -> list[Item]:
    """Item ``index`` of a seed is the same whatever ``count`` is."""
    return [
        draw_item(item_rng(f"{split}/{name}", seed, index), split, name, speaker=speaker)
        for index in range(count)
    ]


def accuracy(items: Sequence[Item], texts: Sequence[str]) -> float:
    """The share of answers that are right letter for letter."""
    return sum(i.answer == text for i, text in zip(items, texts, strict=True)) / len(items)


def guessed(items: Sequence[Item], speaker: Speaker | None) -> list[str]:
    """The commonest training answer to each question, or, to an unknown one, of its type."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for item in draw(TRAIN, 0, items[0].question_type, NUM_GUESSED, speaker):
        answers[item.question][item.answer] += 1
        answers[""][item.answer] += 1
    return [answers.get(i.question, answers[""]).most_common(1)[0][0] for i in items]


def row(name: str, items: Sequence[Item], answer: Answerer, speaker: Speaker | None) -> str:
    """A line of the card's table."""
    shares = (
        accuracy(items, answer(items)),
        accuracy(items, answer([silenced(item) for item in items])),
        accuracy(items, answer(swapped(items))),
        accuracy(items, guessed(items, speaker)),
    )
    cells = " | ".join(f"{100 * share:.1f}" for share in shares)
    return f"| {name} | {len(items)} | {cells} |"


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Measure tiny-audio.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=200, help="items a type")
    parser.add_argument("--split", choices=SPLITS, default=HELD_OUT)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--types", nargs="+", choices=QUESTION_TYPES, default=QUESTION_TYPES)
    options = parser.parse_args()
    speaker = Espeak() if set(options.types) & set(SPOKEN) else None
    begun = time.monotonic()
    print("| question | items | right | silence | another's clips | guessed blind |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with LLM(model=str(options.checkpoint), dtype="float32") as llm:
        for name in options.types:
            items = draw(options.split, options.seed, name, options.count, speaker)
            print(row(name, items, with_engine(llm), speaker), flush=True)
    print(f"\n{options.split}, seed {options.seed}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
