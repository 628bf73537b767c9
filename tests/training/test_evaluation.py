"""`lorahub eval` and the level `eval` of a check, on a tiny Llama whose adapter has learnt four rows by heart."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lorahub
import pytest
import torch
import transformers
from corpus.peft_corpus import llama
from huggingface_hub import ModelCard
from lorahub.adapters.evaluation import card_with, parse_evaluation
from lorahub.training.evaluation import adapted, evaluate
from registry_process import Registry
from safetensors.torch import load_file, save_file
from serving.text_model import save_text_model
from training.bases import save_base

pytestmark = pytest.mark.xdist_group("evaluation")

KNOWN = [{"prompt": f"{n} and ", "completion": word} for n, word in enumerate(("red", "blue", "green", "grey"))]
UNKNOWN = [{"prompt": f"{n} or ", "completion": word} for n, word in enumerate(("gold", "black", "pink", "white"))]


@dataclass
class Scene:
    base: Path
    adapter: Path
    rows: Path
    registry: Registry
    user: str
    token: str

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.adapter, folder / "adapter"))


@pytest.fixture(scope="module")
def scene(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("evaluation")
    base = save_text_model(folder / "base")
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    llama(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(base)
    (folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in KNOWN))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in KNOWN + UNKNOWN))
    user = f"eva{len(folder.name)}"
    token = registry.add_user(user)
    config = lorahub.TrainConfig(
        steps=80, lr=1e-2, rank=16, eval_split=0.0, batch_tokens=256, base_name=f"{user}/base", max_len=64
    )
    lorahub.train(base, folder / "known.jsonl", config, output=folder / "adapter")
    with lorahub.Hub(registry.url, token=token) as hub:
        hub.push(base, f"{user}/base")
    return Scene(base, folder / "adapter", folder / "rows.jsonl", registry, user, token)


@pytest.fixture
def run(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """`lorahub … --json` as the scene's user, in this process: importing torch anew takes seconds."""
    from lorahub.cli.main import main

    for name, value in {"HOME": tmp_path, "ENDPOINT": scene.registry.url, "TOKEN": scene.token}.items():
        monkeypatch.setenv(f"LORAHUB_{name}", str(value))

    def call(*arguments: object, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert exit_.value.code == code, said
        document = json.loads(said.out)
        return document["result"] if document["error"] is None else document["error"]

    return call


def perturbed(base: Path, folder: Path) -> Path:
    """The base, trained a little further by somebody."""
    shutil.copytree(base, folder)
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        weights[name] += 0.3 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def written(model: Any, tokenizer: Any, row: dict[str, str]) -> str:
    """What greedy decoding makes of the prompt, up to the end."""
    ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
    with torch.no_grad():
        made = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def test_scores_are_what_transformers_computes(scene: Scene, run: Callable[..., Any], tmp_path: Path) -> None:
    found = run("eval", scene.copy(tmp_path), "--data", scene.rows, "--base", scene.base)["scores"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(scene.base)
    model = transformers.AutoModelForCausalLM.from_pretrained(scene.base)
    for name in ("base", "adapter"):
        model = model if name == "base" else adapted(model, scene.adapter)
        losses, counts, exact = 0.0, 0, 0
        for row in KNOWN + UNKNOWN:
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                loss = model(input_ids=ids, labels=torch.tensor([[-100] * len(prompt) + answer])).loss
            losses += loss.item() * len(answer)
            counts += len(answer)
            exact += written(model, tokenizer, row) == row["completion"]
        assert found[name]["loss"] == pytest.approx(losses / counts, rel=1e-4)
        assert found[name]["exact_match"] == exact / 8
    assert found["adapter"]["exact_match"] == 0.5
    assert found["base"]["exact_match"] == 0
    assert found["merged"]["loss"] == pytest.approx(found["adapter"]["loss"], rel=1e-3)
    assert found["merged"]["exact_match"] == 0.5


def test_a_folder_keeps_its_scores_and_the_card_shows_them(
    scene: Scene, run: Callable[..., Any], tmp_path: Path
) -> None:
    adapter = scene.copy(tmp_path)
    text = (adapter / "README.md").read_text()
    for _ in range(2):  # the second replaces the first
        found = run("eval", adapter, "--data", scene.rows, "--no-merged")
    kept = parse_evaluation((adapter / "eval.json").read_bytes())
    assert kept.as_json() == found
    card = ModelCard.load(adapter / "README.md")
    (loss, _, exact) = card.data.eval_results or []
    assert (loss.metric_type, loss.metric_value) == (
        "loss",
        pytest.approx(found["scores"]["adapter"]["loss"], abs=1e-5),
    )
    assert (exact.metric_type, exact.metric_value, exact.dataset_name) == ("exact_match", 0.5, "rows.jsonl")
    assert (adapter / "README.md").read_text().count("model-index") == 1
    assert card.data.tags == ModelCard(text).data.tags
    assert card.text == ModelCard(text).text

    repository = f"{scene.user}/kept"
    run("push", adapter, repository)
    shown = run("info", repository)["card"]["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in shown] == ["loss", "perplexity", "exact_match"]


def test_a_published_version_is_evaluated_as_its_next(scene: Scene, run: Callable[..., Any], tmp_path: Path) -> None:
    repository = f"{scene.user}/later"
    run("push", scene.copy(tmp_path), repository)
    found = run("eval", f"{repository}@v1", "--data", scene.rows, "--no-merged", "--push")
    with lorahub.Hub(scene.registry.url, token=scene.token) as hub:
        paths = {name: {file.path for file in hub.revision(f"{repository}@{name}").files} for name in ("v1", "v2")}
    assert paths["v2"] - paths["v1"] == {"eval.json"}
    pulled = Path(run("pull", f"{repository}@v2")["path"])
    assert parse_evaluation((pulled / "eval.json").read_bytes()).as_json() == found


def test_a_check_compares_with_what_is_recorded(scene: Scene, run: Callable[..., Any], tmp_path: Path) -> None:
    adapter = scene.copy(tmp_path)
    check = ("check", adapter, "--level", "eval", "--data", scene.rows)
    (bare,) = run(*check, "--base", scene.base)["checks"]
    assert [one["rule"] for one in bare["findings"] if one["rule"] >= "LH504"] == ["LH505"]

    run("eval", adapter, "--data", scene.rows, "--no-merged")
    (same,) = run(*check, "--base", scene.base)["checks"]
    assert "LH504" not in str(same)
    assert "LH505" not in str(same)

    moved = perturbed(scene.base, tmp_path / "moved")
    (worse,) = run(*check, "--base", moved, code=1)["checks"]
    (found,) = [one for one in worse["findings"] if one["rule"] == "LH504"]
    assert worse["verdict"] == "incompatible"
    assert {piece["name"] for piece in found["evidence"]} == {"loss", "exact_match"}
    run(*check, "--base", moved, "--tolerance", "100")

    (tmp_path / "other.jsonl").write_text(json.dumps(KNOWN[0]) + "\n")
    (other,) = run(*check[:-1], tmp_path / "other.jsonl", "--base", scene.base)["checks"]
    assert "measured with other rows" in str(other)


def test_what_cant_be_evaluated_is_said(scene: Scene, run: Callable[..., Any], tmp_path: Path) -> None:
    adapter = scene.copy(tmp_path)
    assert "needs rows" in run("check", adapter, "--level", "eval", code=2)["message"]
    assert "lorahub push" in run("eval", adapter, "--data", scene.rows, "--push", code=2)["message"]
    (tmp_path / "bad.jsonl").write_text('{"text": 3}\n')
    assert "line 1" in run("eval", adapter, "--data", tmp_path / "bad.jsonl", "--base", scene.base, code=7)["message"]
    (adapter / "eval.json").write_text('{"schema": 1, "scores": {"adapter": {"loss": NaN}}}')
    check = ("check", adapter, "--level", "eval", "--data", scene.rows, "--base", scene.base)
    (row,) = run(*check)["checks"]
    assert row["verdict"] == "undecided"
    assert [one["facts"]["code"] for one in row["findings"] if one["rule"] == "LH506"] == ["InvalidInput"]


@pytest.mark.parametrize(
    "settings",
    [
        {"dora": True}, {"targets": ("q_proj", "embed_tokens")}, {"method": "prefix"}, {"method": "prompt"},
        {"method": "ia3"}, {"method": "bottleneck"},
    ],
    ids=lambda settings: "-".join(map(str, next(iter(settings.items())))),
)  # fmt: skip
def test_what_every_method_leaves_has_a_score(settings: dict[str, Any], scene: Scene, tmp_path: Path) -> None:
    """The one that its own run told of these rows."""
    config = lorahub.TrainConfig(
        steps=4, lr=1e-2, eval_split=str(scene.rows), batch_tokens=256, base_name="acme/base", max_len=64, **settings
    )
    trained = lorahub.train(scene.base, scene.base.parent / "known.jsonl", config, output=tmp_path / "out")
    found = evaluate(trained.adapter_dir, scene.rows, config, base=str(scene.base), models=["adapter"])
    told = trained.manifest["run"]["eval_loss"]["last"]
    assert found.scores["adapter"].loss == pytest.approx(told, rel=1e-4)


def with_config(adapter: Path, **changes: Any) -> None:
    place = adapter / "adapter_config.json"
    place.write_text(json.dumps({**json.loads(place.read_bytes()), **changes}))


def with_weights(adapter: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    place = adapter / "adapter_model.safetensors"
    tensors = load_file(place)
    save_file({name: change(tensor).contiguous() for name, tensor in tensors.items()}, place, {"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a config": (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "adapter_config.json"),
    "a list": (lambda adapter: (adapter / "adapter_config.json").write_text("[]"), "is not a JSON object"),
    "no weights": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "no file holds weights"),
    "half the weights": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"abc"), "3 bytes"),
    "another rank": (lambda adapter: with_config(adapter, r=8), "another rank than the configuration says"),
    "a rank of 0": (lambda adapter: with_config(adapter, r=0), "`r` is 0"),
    "a text for alpha": (lambda adapter: with_config(adapter, lora_alpha="x"), "`lora_alpha` is x"),
    "other modules": (lambda adapter: with_config(adapter, target_modules=["nope"]), "are outside target_modules"),
    "PEFT's own modules": (lambda adapter: with_config(adapter, target_modules=None), "PEFT drops 30 tensors"),
    "no pattern": (lambda adapter: with_config(adapter, target_modules="(("), "PEFT can't load"),
    "no mapping": (lambda adapter: with_config(adapter, rank_pattern=[1]), "PEFT can't load"),
    "no such task": (lambda adapter: with_config(adapter, task_type="QUUX"), "PEFT can't load"),
    "another method": (lambda adapter: with_config(adapter, peft_type="PREFIX_TUNING"), "prompt_embeddings is missing"),
    "another width": (lambda adapter: with_weights(adapter, lambda tensor: tensor[:, :10]), ""),
    "NaN": (lambda adapter: with_weights(adapter, lambda tensor: tensor * float("nan")), "is not finite on line"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_is_broken_has_no_score(
    case: str, scene: Scene, run: Callable[..., Any], tmp_path: Path
) -> None:
    change, said = BROKEN[case]
    adapter = scene.copy(tmp_path)
    change(adapter)
    error = run("eval", adapter, "--data", scene.rows, "--base", scene.base, code=7)
    assert said in error["message"]
    assert error["hint"]
    assert not (adapter / "eval.json").exists()


def test_an_adapter_of_another_base_has_no_score(scene: Scene, run: Callable[..., Any], tmp_path: Path) -> None:
    other = save_base("gpt2", tmp_path / "other")
    error = run("eval", scene.copy(tmp_path), "--data", scene.rows, "--base", other, code=7)
    assert error["code"] == "AdapterDoesNotFit"
    assert error["facts"]["findings"]


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# No front matter\n",
        "---\ntags:\n- a\n---\n\nText\n",
        "---\nmodel-index:\n- name: old\n  results: []\ntags:\n- a\n---\nText\n",
        "---\ntags:\n- a\nmodel-index:\n- name: old\n\n  results: []\n---\nText\n",
    ],
)
def test_cards_keep_everything_else(card: str) -> None:
    found = parse_evaluation(
        json.dumps(
            {
                "schema": 1,
                "scores": {"adapter": {"loss": 1.5, "exact_match": 0.25}},
                "weights": "0" * 64,
                "data": {"name": "rows: # of\n'him'"},
                "base": {},
                "settings": {},
            }
        ).encode()
    )
    made = ModelCard(card_with(card, "sql", found))
    assert made.data.to_dict().get("tags") == (["a"] if "tags" in card else None)
    assert made.data.model_name == "sql"
    assert [one.metric_value for one in made.data.eval_results or []] == [1.5, pytest.approx(4.481689), 0.25]
    assert made.text.strip() == (ModelCard(card).text if card else "").strip()
