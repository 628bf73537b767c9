"""The loop: forward and backward on some batches, a step of the optimizer, now and then an evaluation, a checkpoint.

Everything that a step does follows from the settings and its number, so that a run that goes on gives the same bits.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorahub.errors import TrainingDiverged, TrainingInterrupted
from lorahub.training.batches import Batches, TokenBatch
from lorahub.training.checkpoint import Checkpoint, Checkpoints, Progressed, read_checkpoint
from lorahub.training.config import TrainConfig
from lorahub.training.devices import DevicePlace
from lorahub.training.history import History, TrainingStep
from lorahub.training.kept import KeptAdapters, Role
from lorahub.training.loss import Loss
from lorahub.training.optimizer import FlatAdamW, schedule
from lorahub.training.saving import RunRecord
from lorahub.training.signals import StopRequest, asked_to_stop

OnStep = Callable[[TrainingStep], object]


def steps_of(config: TrainConfig, batches: int) -> int:
    """How many steps `batches` batches an epoch make."""
    return config.steps or max(math.ceil(config.epochs * batches / config.accum), 1)


@dataclass(slots=True)
class Loop:
    """One run. `run` gives the reason why it ended: `done`, or `early-stop`."""

    config: TrainConfig
    place: DevicePlace
    model: nn.Module
    loss: Loss
    optimizer: FlatAdamW
    batches: Batches
    evaluation: Batches | None
    checkpoints: Checkpoints
    kept: KeptAdapters
    record: RunRecord
    history: History
    on_step: OnStep
    progress: Progressed
    steps: int

    def run(self, resumed: Checkpoint | None = None) -> str:
        """Raises `TrainingDiverged`, `TrainingInterrupted`: what was good until then is kept, to go on from."""
        if resumed is not None:
            resumed.restore(self.optimizer)
        self.model.train()
        with asked_to_stop() as wish:
            if self.progress.step == 0:
                self._evaluate_first()
            while self.progress.step < self.steps:
                self._step()
                if self._has_stalled():
                    self.checkpoints.best().restore(self.optimizer, parameters_only=True)
                    return "early-stop"
                self._save_if_due(wish)
        if self.config.patience is not None and self.evaluation is not None:
            self.checkpoints.best().restore(self.optimizer, parameters_only=True)
        return "done"

    def write(self, place: Path, stopped: str | None = None) -> dict[str, Any]:
        """The adapter as it is now, into a new folder; what its lorahub.json says. `stopped` is why the run ended."""
        done = self.progress
        steps = [step for step in self.history.steps if step.step <= done.step]
        evaluated = [step.eval_loss for step in steps if step.eval_loss is not None]
        is_best = stopped is not None and self.config.patience is not None
        kept = done.best_loss if is_best else (evaluated[-1] if evaluated else None)
        return self.record.write(place, steps, done, stopped=stopped or "unfinished", kept=kept)

    # --- a step -------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        begun, number = time.perf_counter(), self.progress.step
        batches = [self.batches.at(number * self.config.accum + place) for place in range(self.config.accum)]
        supervised = sum(batch.supervised for batch in batches)
        total = 0.0
        for place, batch in enumerate(batches):
            loss = self.loss(batch.to(self.place.device)) / supervised
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.collect()
            if not math.isfinite(value := loss.item()):  # asked last: a GPU works on meanwhile
                raise self._diverged("loss of", number + 1, number * self.config.accum + place, batch)
            total += value
        norm = self.optimizer.grad_norm()
        if not math.isfinite(norm):
            raise self._diverged("gradient of", number + 1, (number + 1) * self.config.accum - 1, *batches)
        factor = schedule(number, self.steps, self.config.warmup, self.config.schedule)
        self.optimizer.step(factor, norm)
        tokens = sum(batch.tokens for batch in batches)
        seconds = time.perf_counter() - begun
        self._passed(tokens, seconds)
        evaluated = self._evaluated_if_due()
        self._note(total, evaluated, factor, norm, tokens / seconds)
        if evaluated is not None and self.progress.best_step == self.progress.step:
            self._save_best()

    def _passed(self, tokens: int, seconds: float) -> None:
        self.progress.step += 1
        self.progress.tokens += tokens
        self.progress.seconds += seconds

    def _note(
        self, loss: float | None, evaluated: float | None, factor: float, norm: float | None, speed: float
    ) -> None:
        done = self.progress
        step = TrainingStep(
            step=done.step,
            steps=self.steps,
            tokens=done.tokens,
            loss=loss,
            eval_loss=evaluated,
            lr=self.config.lr * factor,
            grad_norm=norm,
            tokens_per_second=speed,
            peak_memory=self.place.peak_memory(),
            seconds=done.seconds,
        )
        self.history.add(step)
        self.on_step(step)

    def _diverged(self, what: str, step: int, batch: int | None = None, *batches: TokenBatch) -> TrainingDiverged:
        lines = [line for one in batches for line in one.lines]
        some = ", ".join(map(str, lines[:8])) + (", …" if len(lines) > 8 else "")
        good = self._back_to_good()
        return TrainingDiverged(
            f"the {what} step {step} is not finite" + ("" if batch is None else f": batch {batch + 1}, lines {some}"),
            hint=(f"the last good checkpoint is {good}; " if good else "")
            + f"look at the lines, and train anew with a smaller --lr{self.kept.told}",
            step=step,
            batch=None if batch is None else batch + 1,
            lines=lines,
            checkpoint=good,
            adapters=self.kept.paths,
        )

    def _back_to_good(self) -> str | None:
        """The checkpoint of the step before is what gave this loss: it goes, and the one before it is where we are."""
        self.checkpoints.discard(self.progress.step)
        path = self.checkpoints.newest
        if path is None:
            self.kept.discard("last")
            return None
        good = read_checkpoint(path)
        good.restore(self.optimizer, parameters_only=True)
        self.progress = good.progress
        self._keep("last")
        return str(path)

    # --- now and then -------------------------------------------------------------------------------------------------

    def _evaluate_first(self) -> None:
        if self.evaluation is not None:
            found = self._evaluated(self.evaluation)
            if not math.isfinite(found):
                raise TrainingDiverged(
                    "the evaluation before the first step is not finite",
                    hint="look for NaN in the base: it computes no finite loss of the rows that are held out",
                )
            self._note(None, found, 0.0, None, 0.0)

    def _evaluated_if_due(self) -> float | None:
        if self.evaluation is None or not self._is_due(self.config.eval_every):
            return None
        begun, done = time.perf_counter(), self.progress
        found = self._evaluated(self.evaluation)
        done.seconds += time.perf_counter() - begun
        if not math.isfinite(found):
            raise self._diverged("evaluation after", done.step)
        if done.best_loss is None or found < done.best_loss - self.config.min_delta:
            done.best_loss, done.best_step, done.waited = found, done.step, 0
        else:
            done.waited += 1
        return found

    def _evaluated(self, batches: Batches) -> float:
        """Nats a token, over everything held out."""
        self.model.eval()
        with torch.no_grad():
            found = [(self.loss(batch.to(self.place.device)).item(), batch.supervised) for batch in batches]
        self.model.train()
        return sum(loss for loss, _ in found) / sum(count for _, count in found)

    def _has_stalled(self) -> bool:
        return self.config.patience is not None and self.progress.waited >= self.config.patience

    def _save_best(self) -> None:
        if self.config.patience is not None:
            self.checkpoints.save(self.optimizer, self.progress, is_best=True)
        if not self.record.method.is_slow_to_save:
            self._keep("best")

    def _save_if_due(self, wish: StopRequest) -> None:
        done = self.progress.step
        is_end = wish.signal is not None and done < self.steps
        if not is_end and not self._is_due(self.config.save_every):
            return
        path = self.checkpoints.save(self.optimizer, self.progress)
        if is_end or not self.record.method.is_slow_to_save:
            self._keep("last")
        if is_end:
            raise TrainingInterrupted(
                f"{wish.signal}: stopped after step {done} of {self.steps}; everything so far is kept",
                hint=f"go on with: the same command and --resume auto{self.kept.told}",
                step=done,
                checkpoint=str(path),
                adapters=self.kept.paths,
            )

    def _keep(self, role: Role) -> None:
        self.kept.keep(role, self.progress.step, self.write)

    def _is_due(self, every: int | None) -> bool:
        done = self.progress.step
        return done == self.steps or done % (every or max(self.steps // 10, 1)) == 0
