"""Fine-tune an exported model to tag words: python examples/token_classifier.py MODEL RECORDS OUT.

RECORDS is a JSON-lines file with the fields `words` and `tags`, two lists of strings of the same length.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer, Trainer, TrainingArguments
from transformers.data import DataCollatorForTokenClassification

folder, records, out = sys.argv[1:]
data = load_dataset("json", data_files=records, split="train")
names = sorted({tag for tags in data["tags"] for tag in tags})
tokenizer = AutoTokenizer.from_pretrained(folder)


def encode(record):
    """The first token of each word has the word's tag; the loss ignores the others."""
    encoded = tokenizer(record["words"], is_split_into_words=True, truncation=True)
    words = encoded.word_ids()
    first = [word is not None and word != before for word, before in zip(words, [None, *words])]
    labels = [names.index(record["tags"][word]) if is_first else -100 for word, is_first in zip(words, first)]
    return {**encoded, "labels": labels}


model = AutoModelForTokenClassification.from_pretrained(
    folder, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
)
arguments = TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, report_to="none", save_strategy="no")
parts = data.map(encode, remove_columns=data.column_names).train_test_split(test_size=0.2, seed=0)
collator = DataCollatorForTokenClassification(tokenizer)
sides = {"train_dataset": parts["train"], "eval_dataset": parts["test"]}
trainer = Trainer(model, arguments, data_collator=collator, processing_class=tokenizer, **sides)
trainer.train()
print(trainer.evaluate())
trainer.save_model(out)
