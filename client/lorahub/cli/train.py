"""`lorahub train`."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from lorahub.cli.completing import placed
from lorahub.cli.output import Result, table
from lorahub.cli.progress import chosen_for_training
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidConfiguration
from lorahub.hub.showing import size_text
from lorahub.training.config import PRESETS, Format, Init, MethodName, Schedule, TrainConfig, TrainOn

if TYPE_CHECKING:
    from lorahub.hub.hub import Pushed
    from lorahub.training.plan import TrainingPlan
    from lorahub.training.preview import ShownSample
    from lorahub.training.run import Run


def _setting(flag: str, kind: Any, text: str, **more: Any) -> Callable[[Any], Any]:
    """An option that is a setting of `TrainConfig`, by the same name."""
    return click.option(flag, type=kind, help=text, **more)


def _choice(literal: Any) -> click.Choice[str]:
    return click.Choice(get_args(literal))


@command("train")
@click.argument("base", shell_complete=placed)
@click.argument("data", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("adapter"), show_default=True)
@_setting("--method", _choice(MethodName), "How the base is adapted (lora).")
@_setting("--preset", click.Choice(list(PRESETS)), "Settings by one name.")
@_setting("--from", str, "Go on with this adapter: a folder, or a reference.", metavar="ADAPTER")
@_setting("--rank", int, "Of LoRA (16).")
@_setting("--alpha", int, "The update is scaled by alpha/rank (twice the rank).")
@_setting("--targets", str, "Modules by name, with commas; all-linear; q,v (all-linear).")
@_setting("--add-tokens", str, "New tokens, with commas; their embeddings are trained.")
@_setting("--save-modules", str, "Modules that are trained and kept whole, with commas.")
@_setting("--dropout", float, "Before A (0: dropout costs memory).")
@click.option("--rslora", is_flag=True, default=None, help="Scale by alpha/√rank.")
@click.option("--dora", is_flag=True, default=None, help="Direction and magnitude apart.")
@_setting("--init", _choice(Init), "Of A and B (default).")
@_setting("--lora-plus", float, "B's learning rate over A's.")
@_setting("--virtual-tokens", int, "Of prefix and prompt (16).")
@_setting("--bottleneck", click.Choice(["houlsby", "pfeiffer"]), "Where the bottlenecks go (houlsby).")
@_setting("--extract-lora", int, "Of full: keep a LoRA of this rank.")
@_setting("--lr", float, "Learning rate (2e-4).")
@_setting("--epochs", float, "How often each row is seen (3).")
@_setting("--steps", int, "Instead of epochs.")
@_setting("--batch-tokens", int, "Tokens of one forward (4096).")
@_setting("--accum", int, "Forwards of one step (1).")
@_setting("--warmup", float, "Share of the steps in which the learning rate rises (0.03).")
@_setting("--schedule", _choice(Schedule), "Of the learning rate behind that (linear).")
@_setting("--weight-decay", float, "(0)")
@_setting("--clip", float, "Largest norm of a gradient (1).")
@_setting("--neftune", float, "Noise on embeddings while it trains, such as 5.")
@_setting("--seed", int, "(0)")
@_setting("--max-len", int, "Tokens of one row; longer ones are cut, and reported (1024).")
@_setting("--pack", click.Choice(["best-fit", "none"]), "Several rows into one, which don't see each other (best-fit).")
@click.option("--data-format", "data_format", type=_choice(Format), help="Of the rows (auto).")
@_setting(
    "--column", str, "What a key stands for: prompt=title, 'prompt=Q: {title}'.", multiple=True, metavar="OURS=THEIRS"
)
@_setting("--chat-template", click.Path(dir_okay=False), "Jinja instead of the tokenizer's own.")
@_setting("--train-on", _choice(TrainOn), "All answers, the last of each row, or every token (assistant).")
@_setting("--eval-split", str, "A share of the rows, or a file (0.05).")
@_setting("--eval-every", int, "In steps (ten times).")
@_setting("--patience", int, "Evaluations without progress until it stops, and keeps the best.")
@_setting("--min-delta", float, "What counts as progress (0.001).")
@_setting("--save-every", int, "In steps (ten times).")
@_setting("--device", str, "cpu, cuda, … (auto).")
@_setting("--dtype", click.Choice(["auto", "bf16", "fp32"]), "Of the base (auto).")
@_setting("--attention", click.Choice(["auto", "sdpa", "eager", "flash_attention_2"]), "(auto)")
@click.option("--load-4bit", is_flag=True, default=None, help="The base in 4 bits, by bitsandbytes.")
@click.option("--grad-ckpt", is_flag=True, default=None, help="Less memory, more time.")
@click.option("--compile", is_flag=True, default=None, help="torch.compile: for runs of some hundred steps.")
@_setting("--threads", int, "Of the CPU.")
@_setting("--base-name", str, "What the adapter calls its base.", metavar="NAME")
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="Settings in TOML or YAML; flags win."
)
@click.option("--resume", metavar="auto|PATH", help="Go on with a checkpoint.")
@click.option(
    "--plan", "--dry-run", "is_plan", is_flag=True, help="Show parameters, memory, tokens, steps; run nothing."
)
@click.option(
    "--show", type=click.IntRange(1), metavar="N", help="Show N rows, and what of them is learnt; run nothing."
)
@click.option("--push", "reference", metavar="REF", help="Publish the adapter as the next version.")
def train(
    session: Session,
    base: str,
    data: tuple[str, ...],
    *,
    output: Path,
    file: Path | None,
    resume: str | None,
    is_plan: bool,
    show: int | None,
    reference: str | None,
    **given: Any,
) -> Result:
    """Train an adapter of BASE on the rows of DATA: files or folders of JSON lines, JSON, CSV, Parquet, Arrow or text.

    BASE is a folder, hf:org/name[@revision], or a repository of the registry. Rows are {"messages": […]},
    {"prompt": …, "completion": …}, {"question": …, "answer": …}, {"text": …} and their like; --column names others.
    Behind a name, :0.5 or :2 is how often its rows are seen. Ctrl-C keeps what there is; --resume auto goes on.
    """
    config = _config(file, given)
    _require_libraries()
    if show is not None:
        return _shown(session, base, data, config, show)
    if is_plan:
        return _planned(session, base, data, config)
    from lorahub.training.run import train as trained

    shown = chosen_for_training(session.settings.text("progress"), is_quiet=session.output.format == "quiet")
    try:
        run = trained(
            base, data, config, output=output, resume=resume,
            on_step=shown, on_note=lambda note: session.output.note(f"  {note}"),
            hub=session.hub, progress=session.progress(),
        )  # fmt: skip
    finally:
        shown.close()
    return _finished(run, None if reference is None else _pushed(session, output, reference))


def _config(file: Path | None, options: dict[str, Any]) -> TrainConfig:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "from" in given:
        given["start"] = given.pop("from")
    if "column" in given:
        given["columns"] = given.pop("column")
    if "data_format" in given:
        given["format"] = given.pop("data_format")  # `--format` is how results are shown
    if "targets" in given:
        targets = given["targets"]
        is_one = targets == "q,v" or targets.startswith("re:")
        given["targets"] = (targets,) if is_one else tuple(targets.split(","))
    for name in ("add_tokens", "save_modules"):
        if name in given:
            given[name] = tuple(given[name].split(","))
    if "eval_split" in given:
        given["eval_split"] = _share(given["eval_split"])
    return TrainConfig.of(given) if file is None else TrainConfig.from_file(file, given)


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _require_libraries() -> None:
    """One message where the extra is missing, and nothing but ours on the terminal where it is there."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import peft  # noqa: F401 (asked first, so that an absence has one message)
        import torch  # noqa: F401
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"`lorahub train` needs PyTorch, transformers and PEFT, and {error.name} is not installed",
            hint="pip install 'lorahub-registry[train]'",
        ) from None
    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()


# --- a plan -----------------------------------------------------------------------------------------------------------


def _planned(session: Session, base: str, data: tuple[str, ...], config: TrainConfig) -> Result:
    from lorahub.training.base import find_base
    from lorahub.training.plan import plan

    made = plan(find_base(base, config.base_name, session.hub), data, config, session.hub)
    rows = [[name, value] for name, value in made.as_json().items() if isinstance(value, str | int | float)]
    return Result(
        made.as_json(), _told(made), ids=[str(made.trainable)], rows=rows, notes=[f"  {n}" for n in made.notes]
    )


def _told(plan: "TrainingPlan") -> str:
    memory = [[name, "not known" if size is None else size_text(size)] for name, size in asdict(plan.memory).items()]
    share = plan.trainable / plan.parameters
    data = plan.data["train"]
    what = f"{plan.trainable:,} of {plan.parameters:,} parameters are trained ({share:.2%})"
    return "\n".join(
        [
            f"{plan.method} on {plan.device} in {plan.dtype}: {what}, {size_text(plan.checkpoint_bytes)} to keep",
            "",
            table(["memory", "about"], [*memory, ["together", size_text(plan.memory.total)]]),
            "",
            f"  {data['rows']:,} rows, {data['tokens']:,} tokens, {data['supervised']:,} of them trained on",
            f"  {plan.batches:,} batches of up to {plan.rows} × {plan.width} tokens, {plan.fill:.1%} full",
            f"  {plan.steps:,} steps, {plan.tokens:,} tokens; nothing was run",
        ]
    )


# --- some rows --------------------------------------------------------------------------------------------------------


def _shown(session: Session, base: str, data: tuple[str, ...], config: TrainConfig, count: int) -> Result:
    from lorahub.training.base import find_base
    from lorahub.training.preview import preview

    made = preview(find_base(base, config.base_name, session.hub), data, config, count)
    return Result(
        asdict(made),
        "\n".join(
            [
                *(_sample(number, sample) for number, sample in enumerate(made.samples, start=1)),
                f"  {len(made.samples)} of {made.of:,} samples; what is learnt is ⟦marked⟧; nothing was run",
            ]
        ),
        ids=[str(sample.line) for sample in made.samples],
        rows=[[sample.line, text, is_learnt] for sample in made.samples for text, is_learnt in sample.parts],
        notes=[f"  {note}" for note in made.notes],
    )


def _sample(number: int, sample: "ShownSample") -> str:
    text = "".join(f"⟦{part}⟧" if is_learnt else part for part, is_learnt in sample.parts)
    return f"{number}  line {sample.line}: {sample.tokens} tokens, {sample.learnt} of them learnt\n{text.rstrip()}\n"


# --- a run ------------------------------------------------------------------------------------------------------------


def _pushed(session: Session, folder: Path, reference: str) -> "Pushed":
    with session.hub() as hub:
        return hub.push(folder, reference, message="Trained with lorahub train")


def _finished(run: "Run", pushed: "Pushed | None") -> Result:
    from lorahub.training.curve import sparkline

    facts: Any = run.manifest["run"]
    losses = [step.loss for step in run.history if step.loss is not None]
    evaluated = facts["eval_loss"]
    lines = [
        f"  {sparkline(losses)}  loss {losses[0]:.4f} → {losses[-1]:.4f}",
        f"✓ {run.adapter_dir}: {facts['parameters']:,} parameters in {facts['steps']} steps, {facts['seconds']:.1f} s, "
        f"{facts['tokens']:,} tokens" + (" (stopped early)" if facts["stopped"] == "early-stop" else ""),
    ]
    if evaluated["untrained"] is not None:
        lines.append(f"  evaluation loss {evaluated['untrained']:.4f} → {evaluated['kept']:.4f}")
    name = None if pushed is None else f"{pushed.repository}@{pushed.version}"
    lines.append(f"✓ Pushed {name}" if name else f"  Next: lorahub push {run.adapter_dir} namespace/name")
    data = {
        "folder": str(run.adapter_dir),
        "reference": name,
        "run": {key: value for key, value in facts.items() if key != "curve"},
        "notes": run.notes,
    }
    return Result(data, "\n".join(lines), ids=[name or str(run.adapter_dir)], rows=[[str(run.adapter_dir), name]])
