"""Each way in which transformers' Trainer and TRL's SFTTrainer publish what they have trained. Run as a program:

    python trainer_journey.py NAMESPACE Trainer|SFTTrainer

Prints one line for each way that worked; anything that doesn't ends it with a traceback.
"""

import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

NAMESPACE, KIND = sys.argv[1:3]
BASE = f"{NAMESPACE}/base"
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints", None)
"""None: nothing is pushed while it trains; the caller does, after it."""
BY_PRODUCTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
TEXTS = ["SELECT name FROM users", "SELECT count(*) FROM orders", "DROP TABLE students", "INSERT INTO logs"] * 2

api = HfApi()
folder = Path(tempfile.mkdtemp())


def make_base() -> PreTrainedTokenizerFast:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=257, eos_token_id=258, pad_token_id=259,
    )  # fmt: skip
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    LlamaForCausalLM(config).push_to_hub(BASE)
    made.push_to_hub(BASE)
    return made


def arguments(name: str, strategy: str | None) -> dict[str, object]:
    return {
        "output_dir": str(folder / name), "max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 2,
        "learning_rate": 0.1, "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "hub_model_id": f"{NAMESPACE}/{name}", "push_to_hub": strategy is not None,
        **({} if strategy is None else {"hub_strategy": strategy, "hub_always_push": True}),
    }  # fmt: skip


def lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])


def by_trainer(name: str, strategy: str | None) -> Trainer:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), lora())
    rows = Dataset.from_list([tokenizer(text) for text in TEXTS])
    return Trainer(
        model,
        TrainingArguments(**arguments(name, strategy)),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def by_sft_trainer(name: str, strategy: str | None) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        BASE,
        SFTConfig(**arguments(name, strategy), max_length=32, bf16=False),
        train_dataset=Dataset.from_list([{"text": text} for text in TEXTS]),
        processing_class=tokenizer,
        peft_config=lora(),
    )


def train_and_push(trainer: Trainer, name: str, strategy: str | None) -> None:
    trainer.train()
    assert all((folder / name / "checkpoint-2" / path).is_file() for path in BY_PRODUCTS), "what is it that is left?"
    trainer.push_to_hub()
    trained = logits(trainer.model)
    fresh = AutoModelForCausalLM.from_pretrained(BASE)
    untrained = logits(fresh)
    pulled = PeftModel.from_pretrained(fresh, f"{NAMESPACE}/{name}")
    assert torch.equal(trained, logits(pulled)), "the adapter came back changed"
    again = AutoModelForCausalLM.from_pretrained(BASE)
    latest = PeftModel.from_pretrained(again, f"{NAMESPACE}/{name}", revision="latest")
    assert torch.equal(trained, logits(latest)), "the newest version is another than what was pushed last"
    assert not torch.allclose(trained, untrained), "nothing was trained"
    files = api.list_repo_files(f"{NAMESPACE}/{name}")
    assert not [path for path in files if path.rpartition("/")[2] in BY_PRODUCTS], files
    places = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}
    for place in places.get(strategy or "", set()):
        assert f"{place}/adapter_model.safetensors" in files, files
        assert f"{place}/trainer_state.json" in files, files


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


if __name__ == "__main__":
    tokenizer = make_base()
    for strategy in STRATEGIES:
        name = f"{KIND}-{strategy or 'after'}"
        trainer = (by_trainer if KIND == "Trainer" else by_sft_trainer)(name, strategy)
        train_and_push(trainer, name, strategy)
        print(f"pushed: {strategy}", flush=True)
