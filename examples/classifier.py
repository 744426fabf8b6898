"""Fine-tune an exported model to classify texts: python examples/classifier.py MODEL RECORDS OUT.

RECORDS is a JSON-lines file with the fields `text` and `label`, a string.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

folder, records, out = sys.argv[1:]
data = load_dataset("json", data_files=records, split="train").class_encode_column("label")
names = data.features["label"].names
tokenizer = AutoTokenizer.from_pretrained(folder)
data = data.map(lambda batch: tokenizer(batch["text"], truncation=True), batched=True, remove_columns=["text"])
parts = data.train_test_split(test_size=0.2, seed=0)
model = AutoModelForSequenceClassification.from_pretrained(
    folder, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
)
trainer = Trainer(
    model,
    TrainingArguments(out, num_train_epochs=3, learning_rate=5e-5, report_to="none", save_strategy="no"),
    train_dataset=parts["train"],
    eval_dataset=parts["test"],
    processing_class=tokenizer,
    compute_metrics=lambda result: {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean()},
)
trainer.train()
print(trainer.evaluate())
trainer.save_model(out)
