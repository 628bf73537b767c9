"""PeftModel.from_pretrained."""

from collections.abc import Iterable

from language_model import log_probabilities, open_base
from peft import PeftModel
from task import Case, each


def answer(case: Case) -> Iterable[float]:
    base = open_base(case["base"])
    if case["option"] == "resized":
        base.resize_token_embeddings(case["tokens"])
    return log_probabilities(PeftModel.from_pretrained(base, case["adapter"]).eval(), case["prompt"])


each(answer)
