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
    tokenizer = tokenizers_of_ours.build(num_items=12_000, vocab_size=1024)
    tokenizers_of_ours.save(tokenizer, FOLDER)
    model_files.write(FOLDER, tokenizer)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
