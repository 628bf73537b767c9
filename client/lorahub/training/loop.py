"""The loop: forward and backward on some batches, a step of the optimizer, now and then an evaluation, a checkpoint.

Everything that a step does follows from the settings and its number, so that a run that goes on gives the same bits.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lorahub.errors import TrainingDiverged, TrainingInterrupted
from lorahub.training.batches import Batch, Batches
from lorahub.training.checkpoint import Checkpoint, Checkpoints, Progressed
from lorahub.training.config import TrainConfig
from lorahub.training.devices import Place
from lorahub.training.history import History, Step
from lorahub.training.loss import Loss
from lorahub.training.optimizer import FlatAdamW, schedule
from lorahub.training.signals import Wish, asked_to_stop

OnStep = Callable[[Step], object]


def steps_of(config: TrainConfig, batches: int) -> int:
    """How many steps `batches` batches an epoch make."""
    return config.steps or max(math.ceil(config.epochs * batches / config.accum), 1)


@dataclass(slots=True)
class Loop:
    """One run. `run` gives the reason why it ended: `done`, or `early-stop`."""

    config: TrainConfig
    place: Place
    model: nn.Module
    loss: Loss
    optimizer: FlatAdamW
    batches: Batches
    evaluation: Batches | None
    checkpoints: Checkpoints
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
                raise self._diverged("loss", number * self.config.accum + place, batch)
            total += value
        norm = self.optimizer.grad_norm()
        if not math.isfinite(norm):
            raise self._diverged("gradient", (number + 1) * self.config.accum - 1, *batches)
        factor = schedule(number, self.steps, self.config.warmup)
        self.optimizer.step(factor, norm)
        tokens = sum(batch.tokens for batch in batches)
        seconds = time.perf_counter() - begun
        self._passed(tokens, seconds)
        self._note(total, self._evaluated_if_due(), factor, norm, tokens / seconds)

    def _passed(self, tokens: int, seconds: float) -> None:
        self.progress.step += 1
        self.progress.tokens += tokens
        self.progress.seconds += seconds

    def _note(
        self, loss: float | None, evaluated: float | None, factor: float, norm: float | None, speed: float
    ) -> None:
        done = self.progress
        step = Step(
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

    def _diverged(self, what: str, batch: int, *batches: Batch) -> TrainingDiverged:
        """The checkpoint of the step before is what gave this loss: it goes."""
        self.checkpoints.discard(self.progress.step)
        lines = [line for one in batches for line in one.lines]
        kept = self.checkpoints.newest
        some = ", ".join(map(str, lines[:8])) + (", …" if len(lines) > 8 else "")
        return TrainingDiverged(
            f"the {what} of step {self.progress.step + 1} is not finite: batch {batch + 1}, lines {some}",
            hint=(f"the last good checkpoint is {kept}; " if kept else "")
            + "look at the lines, and train anew with a smaller --lr",
            step=self.progress.step + 1,
            batch=batch + 1,
            lines=lines,
            checkpoint=None if kept is None else str(kept),
        )

    # --- now and then -------------------------------------------------------------------------------------------------

    def _evaluate_first(self) -> None:
        if self.evaluation is not None:
            self._note(None, self._evaluated(self.evaluation), 0.0, None, 0.0)

    def _evaluated_if_due(self) -> float | None:
        if self.evaluation is None or not self._is_due(self.config.eval_every):
            return None
        begun, done = time.perf_counter(), self.progress
        found = self._evaluated(self.evaluation)
        done.seconds += time.perf_counter() - begun
        if not math.isfinite(found):
            raise self._diverged("evaluation", done.step * self.config.accum - 1)
        if done.best_loss is None or found < done.best_loss - self.config.min_delta:
            done.best_loss, done.best_step, done.waited = found, done.step, 0
            if self.config.patience is not None:
                self.checkpoints.save(self.optimizer, done, is_best=True)
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

    def _save_if_due(self, wish: Wish) -> None:
        done = self.progress.step
        if wish.signal is not None and done < self.steps:
            self.checkpoints.save(self.optimizer, self.progress)
            raise TrainingInterrupted(
                f"{wish.signal}: stopped after step {done} of {self.steps}; everything so far is kept",
                hint="go on with: the same command and --resume auto",
                step=done,
            )
        if self._is_due(self.config.save_every):
            self.checkpoints.save(self.optimizer, self.progress)

    def _is_due(self, every: int | None) -> bool:
        done = self.progress.step
        return done == self.steps or done % (every or max(self.steps // 10, 1)) == 0
