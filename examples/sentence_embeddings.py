"""Fine-tune an exported model to embed sentences: python examples/sentence_embeddings.py MODEL RECORDS OUT.

RECORDS is a JSON-lines file with the fields `anchor` and `positive`: texts that belong together, such as a question and
its answer. The other texts of a batch are the negatives.
"""

import sys

from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss

folder, records, out = sys.argv[1:]
model = SentenceTransformer(folder)
pairs = load_dataset("json", data_files=records, split="train").select_columns(["anchor", "positive"])
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(out, num_train_epochs=1, report_to="none", save_strategy="no"),
    train_dataset=pairs,
    loss=MultipleNegativesRankingLoss(model),
)
trainer.train()
model.save_pretrained(out)
print(model.similarity(model.encode(pairs[:3]["anchor"]), model.encode(pairs[:3]["positive"])))
