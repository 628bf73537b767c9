"""vLLM's engine in this process, one base a run: `add_lora` says if it takes an adapter, `generate` what it gives."""

import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}

from task import Case, Task, told
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

_MOST_RANK = 512
_TOKENS = 256


def started(base: str) -> LLM:
    return LLM(
        base,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=_MOST_RANK,
        max_loras=1,
        max_model_len=64,
        max_num_seqs=2,
        max_logprobs=_TOKENS,
        enable_prefix_caching=False,
    )


def answer(engine: LLM, case: Case, number: int) -> list[float]:
    request = LoRARequest(case["name"], number, case["adapter"])
    engine.llm_engine.add_lora(request)
    ran = engine.generate(
        [{"prompt_token_ids": case["prompt"]}],
        SamplingParams(max_tokens=1, logprobs=_TOKENS, temperature=0),
        lora_request=request,
        use_tqdm=False,
    )
    found = ran[0].outputs[0].logprobs[0]
    return [found[token].logprob for token in range(_TOKENS)]


task = Task(*sys.argv[1:3])
base, cases = next(task.by_base())
answered, config = None, Path(base) / "config.json"
text = config.read_text() if config.exists() else "SequenceClassification"
if "num_experts_per_tok" in text or "SequenceClassification" in text:
    answered, words = task.skip, "asked for words it gives none, or its kernels for experts need Triton"
else:
    try:
        engine = started(base)
    except Exception as error:  # noqa: BLE001 whatever it says
        words = told(error)
        answered = task.refuse if "LoRA" in words else task.skip
if answered is not None:
    for case in cases:
        answered(case, words)
    sys.exit()
for number, case in enumerate(cases, 1):
    task.begin(case)
    try:
        values = answer(engine, case, number)
    except Exception as error:  # noqa: BLE001 whatever it says is the measurement
        (task.skip if "triton" in str(error) else task.refuse)(case, told(error))
    else:
        task.answer(case, values)
