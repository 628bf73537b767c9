"""Options and words of the snippets that can't be run here."""

import shlex

import pytest
from lorahub.adapters.runtimes import RUNTIMES
from lorahub_registry.features.catalog.snippets import Subject, snippets
from pages.payloads import PAYLOADS


@pytest.mark.parametrize(("rank", "flag"), [(8, None), (16, None), (17, "32"), (64, "64"), (300, "320")])
def test_vllm_is_told_the_rank_where_it_must_be(rank: int, flag: str | None) -> None:
    made = {one.key: one.text for one in snippets(Subject("o/a", "v2", "https://r", base="m/base", rank=rank))}
    words = shlex.split(made["vllm"])
    assert (words[words.index("--max-lora-rank") + 1] if "--max-lora-rank" in words else None) == flag
    assert "o/a@v2" in words


@pytest.mark.parametrize("base", [*PAYLOADS[:12], "a'; touch hurt #", "$(touch hurt)", "`touch hurt`", "a\nb"])
def test_a_base_is_one_word_whatever_its_name(base: str) -> None:
    made = {one.key: one.text for one in snippets(Subject("o/a", "v2", "https://r", base=base))}
    words = shlex.split(made["vllm"])
    assert words[words.index("serve") + 1] == base.replace("\n", " ")
    compile(made["peft"], "peft", "exec")


def test_every_runtime_that_is_judged_is_shown_by_its_name() -> None:
    made = {one.key: one for one in snippets(Subject("o/a", "v2", "https://r", base="m/base"))}
    for runtime in RUNTIMES.values():
        assert made[runtime.name].label == runtime.label
        assert f"--for {runtime.name}" in made[runtime.name].text
    assert made["mlx"].text.splitlines()[1] == "mlx_lm.generate --model m/base --adapter-path ./a --prompt Hello"


def test_a_base_of_this_registry_is_asked_for_here_and_an_absent_one_of_nobody() -> None:
    here = {one.key: one.text for one in snippets(Subject("o/a", "v2", "https://r", base="m/base", is_base_here=True))}
    for key in ("peft", "transformers", "vllm", "sglang", "mlx", "diffusers"):
        assert here[key].count("HF_ENDPOINT=https://r") == 1, key
    without = {one.key: one for one in snippets(Subject("o/a", "v2", "https://r"))}
    assert not without["vllm"].is_usable
    assert without["vllm"].reasons == ("the adapter names no base",)
    assert not [one for one in without.values() if "/path/to" in one.text or "BASE" in one.text]


def test_an_image_adapter_is_merged_by_diffusers_and_what_is_pulled_for_a_runtime_is_cured() -> None:
    verdicts = {
        "diffusers": {"loads": "yes", "reasons": [], "needs": None},
        "sglang": {
            "loads": "wrong",
            "reasons": [{"rule": "LH408", "message": "…"}],
            "needs": "lorahub pull --for sglang",
        },
    }
    subject = Subject("o/a", "v2", "https://r", base="m/base", is_mergeable=True, verdicts=verdicts)
    made = {one.key: one for one in snippets(subject)}
    assert made["merged"].label == "diffusers, merged"
    assert "AutoPipelineForText2Image.from_pretrained" in made["merged"].text
    assert made["sglang"].loads == "with"
