"""Write everything of the model's folder but its weights. Run before training."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import model_files
import tokenizer as tokenizers_of_ours

FOLDER = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    tokenizer = tokenizers_of_ours.build(
        tokenizers_of_ours.corpus(num_items=12_000), 1024, tokenizers_of_ours.SPECIAL_TOKENS
    )
    tokenizers_of_ours.save(
        tokenizer, FOLDER, tokenizers_of_ours.SPECIAL_TOKENS, tokenizers_of_ours.CHAT_TEMPLATE
    )
    model_files.write(FOLDER, tokenizer)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
