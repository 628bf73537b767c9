"""mlx-lm's load with an adapter's folder."""

from collections.abc import Iterable

import mlx.core as mx
from mlx_lm import load
from task import Case, NotRun, each, told

mx.set_default_device(mx.cpu)


def answer(case: Case) -> Iterable[float]:
    try:
        load(case["base"])
    except Exception as error:
        raise NotRun(told(error)) from error
    model, _ = load(case["base"], adapter_path=case["adapter"])[:2]
    logits = model(mx.array([case["prompt"]]))[0, -1].astype(mx.float32)
    return (logits - mx.logsumexp(logits)).tolist()


each(answer)
