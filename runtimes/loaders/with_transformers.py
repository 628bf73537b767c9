"""load_adapter of transformers' models."""

from collections.abc import Iterable

from language_model import log_probabilities, open_base
from task import Case, each


def answer(case: Case) -> Iterable[float]:
    model = open_base(case["base"])
    if case["option"] == "resized":
        model.resize_token_embeddings(case["tokens"])
    model.load_adapter(case["adapter"])
    return log_probabilities(model.eval(), case["prompt"])


each(answer)
