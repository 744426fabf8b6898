"""How to use the exported model: a program that runs as it is written."""

from __future__ import annotations

from pathlib import Path

from mlm_dist.evaluation.cloze import ClozeExample


def fill_mask_program(model: str, example: ClozeExample | None) -> str:
    """Python that predicts a word of a sentence.

    Args:
        model: The folder of the model, or its repository on the Hub.
        example: The sentence and the word; None for a sentence of no corpus.
    """
    before, after = "The ", " is missing."
    if example is not None:
        before, after = example.sentence[: example.start], example.sentence[example.end :]
    return (
        "from transformers import pipeline\n\n"
        f"fill = pipeline('fill-mask', model={model!r})\n"
        f"text = {before!r} + fill.tokenizer.mask_token + {after!r}\n"
        "for guess in fill(text):\n"
        "    print(f\"{guess['score']:.1%}  {guess['token_str']}\")\n"
    )


def embedding_program(model: str) -> str:
    """Python that embeds sentences with the encoder."""
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({model!r})\n"
        "print(model.encode(['one text', 'another text']).shape)\n"
    )


def exported_model(folder: Path, is_finished: bool) -> str | None:
    """The exported model of a finished run; None if there is none."""
    return str(folder.resolve()) if is_finished and (folder / "config.json").is_file() else None
