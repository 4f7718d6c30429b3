"""The training loop: batches in, steps, evaluations, checkpoints, and the finished run out."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isae import __version__
from isae.device import use_device
from isae.errors import DataError, unknown_name
from isae.files import write_json
from isae.freed_memory import keep_freed_memory
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Meter, Reporter
from isae.randomness import keyed_rng
from isae.train.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint
from isae.train.config import TrainConfig
from isae.train.evaluate import Quality, evaluate
from isae.train.fused import FusedStepper, make_stepper
from isae.train.parameters import State, as_sae, new_state
from isae.train.plan import Plan, make_plan
from isae.train.report import note, open_board, opening, to_board
from isae.train.run_folder import MetricsLog, RunFolder, identity_of
from isae.train.schedule import Schedule
from isae.train.source import CACHES, ActivationSource, piece_of, refuse_bad_rows, training_batches
from isae.train.step import Stepper, StepResult

MEDIAN_ROWS = 16384
SAMPLE_ROWS = 65536


def train(
    config: TrainConfig,
    store: ActivationSource,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    cache: str = "none",
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Train one SAE on a layer of an open store -> the run's summary, also in RUN/summary.json.

    The SAE with the lowest held-out FVU is saved in RUN/sae/<layer>. In the summary, FVU, L0 and
    `silent` (fraction of latents that fired on none of the evaluated rows) are that SAE's, the
    held-out FVU being the minimum over the run's evaluations. `dead` (fraction of latents that did
    not fire in the last `dead_rows` rows of training) is of the run's last state, and null where
    the run had fewer rows than that. With `resume`, a killed run
    goes on from its last checkpoint to the same weights as if it had not been killed; a complete
    run is left as it is. `cache` (none, ram, auto, device) is where the store keeps rows that it
    read, and changes nothing in the result. SIGTERM and SIGINT write a checkpoint and raise
    KeyboardInterrupt (a second one at once). Raises UnknownNameError for a layer or a cache that
    is not there, ConfigError for options that do not fit the layer, DataError for activations that
    are not finite, RunError for a folder that may not be used.
    """
    if config.layer not in store.layers:
        raise unknown_name("layer", config.layer, store.layers)
    if cache not in CACHES:
        raise unknown_name("cache", cache, CACHES)
    layer = store.layers[config.layer]
    use_device(config.device)
    plan = make_plan(config, layer, layer.rows > layer.train_rows)
    folder = RunFolder(out)
    run = _Run(config, plan, store, folder, cache, reporter)  # refuses what cannot be trained on
    identity = identity_of(config, plan, store)
    continued = folder.claim(identity, resume=resume, overwrite=overwrite)
    done = folder.finished() if continued else None
    if done is not None:
        reporter.say(f"'{folder.path}' is complete already")
        return done
    opening(config, plan, layer.rows > layer.train_rows, reporter)
    return run.go()


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        store: ActivationSource,
        folder: RunFolder,
        cache: str,
        reporter: Reporter,
    ) -> None:
        self.config, self.plan, self.store = config, plan, store
        self.folder, self.cache, self.reporter = folder, cache, reporter
        self.layer, self.rows = store.layers[config.layer], store.activations(config.layer)
        self.device = torch.device(plan.device)
        self.scale = _scale(store, config.layer)
        holdout = self.layer.rows - self.layer.train_rows
        self.holdout = (self.layer.train_rows, self.layer.rows) if holdout else None
        self.sample = self._stretch("evaluation", holdout or SAMPLE_ROWS)
        self.seconds = 0.0
        self.warm, self.new_rows, self.new_seconds = False, 0, 0.0

    def go(self) -> dict[str, Any]:
        """Train to the end, save the SAE, write the summary."""
        remove_leftovers(self.folder.checkpoints)
        found = load_checkpoint(self.folder.checkpoints, self.device)
        if found:
            state, schedule, self.seconds = found
            self.reporter.say(f"continuing from step {state.step:,}")
        else:
            state, schedule = self._start(), Schedule.of(self.plan)
        log = MetricsLog(self.folder.metrics, state.step)
        board = open_board(self.folder.path, state.step) if self.config.tensorboard else None
        label = f"{self.config.layer} (at most)" if self.plan.patience else self.config.layer
        try:
            with deferred_interrupts() as stop, self.reporter.task(1, label, "rows") as meter:
                meter.skip_to(state.step * self.plan.batch)
                self._steps(state, schedule, log, board, meter, stop)
        finally:
            log.close()
            if board is not None:
                board.close()
        if state.step < schedule.end:
            self.reporter.say(f"stopped at step {state.step:,}; go on with --resume")
            raise KeyboardInterrupt
        return self._finish(state, schedule)

    def _start(self) -> State:
        sample_RD = None
        if not self.plan.relative_loss:
            first, last = self._stretch("median", MEDIAN_ROWS)
            sample_RD = self.rows[slice(first, last)].astype(np.float32) * self.scale
        return new_state(self.plan, self.config.seed, sample_RD)

    def _stretch(self, name: str, wanted: int) -> tuple[int, int]:
        # Rows lie shuffled in the store, so any stretch of training rows is a random sample.
        count = min(wanted, self.layer.train_rows)
        generator = keyed_rng(self.config.seed, name)
        start = int(generator.integers(0, self.layer.train_rows - count + 1))
        return start, start + count

    def _steps(
        self,
        state: State,
        schedule: Schedule,
        log: MetricsLog,
        board: Any,
        meter: Meter,
        stop: Interrupts,
    ) -> None:
        plan, config = self.plan, self.config
        if self.device.type == "cpu":
            keep_freed_memory()
        stepper = make_stepper(plan, state, self.scale)
        how = self.scale, self.device, stepper.takes_halves and plan.pieces == 1
        batches = training_batches(
            self.store,
            config.layer,
            plan.micro_batch,
            seed=config.seed,
            start_batch=state.step * plan.pieces,
            cache=self.cache,
            device=self.device,
        )
        while state.step < schedule.end and not stop.asked:
            meter.total = schedule.end * plan.batch
            started = time.perf_counter()
            pieces = [piece_of(next(batches), *how) for _ in range(plan.pieces)]
            lr = plan.lr_at(state.step + 1, schedule.decay_start, schedule.end)
            result = self._step(stepper, pieces, lr)
            self._count_time(time.perf_counter() - started)
            line = self._line(state, result, lr)
            if state.step % plan.eval_every == 0 or state.step == schedule.end:
                line.update(self._evaluate(state, schedule))
                meter.note(note(line))
            if "train_fvu" in line or state.step % config.log_every == 0:
                log.write(line)
                to_board(board, line)
            if state.step % config.checkpoint_every == 0 or state.step >= schedule.end:
                self._checkpoint(state, schedule)
            meter.advance(plan.batch)
        if stop.asked:
            self._checkpoint(state, schedule)

    def _step(
        self, stepper: Stepper | FusedStepper, pieces: list[torch.Tensor], lr: float
    ) -> StepResult:
        try:
            result = stepper.step(pieces, lr)
        except DataError:
            refuse_bad_rows(self.store, self.config.layer)
            raise
        if not math.isfinite(result.loss):
            refuse_bad_rows(self.store, self.config.layer)
            raise DataError(
                f"layer {self.config.layer}: expected a finite loss, found {result.loss} at step "
                f"{stepper.state.step} although the activations are finite; lower --lr"
            )
        return result

    def _count_time(self, seconds: float) -> None:
        self.seconds += seconds
        if self.warm:  # the first step also compiles the kernels
            self.new_seconds += seconds
            self.new_rows += self.plan.batch
        self.warm = True

    def _rate(self) -> float | None:
        return self.new_rows / self.new_seconds if self.new_seconds else None

    def _line(self, state: State, result: StepResult, lr: float) -> dict[str, float | int | None]:
        plan = self.plan
        rows_before = state.rows - plan.batch
        return {
            "step": state.step,
            "rows": state.rows,
            "epoch": state.rows / plan.epoch_rows,
            "loss": result.loss,
            "fvu": result.fvu,
            "l0": result.l0,
            # Counted before the step; before dead_rows rows no latent could be dead.
            "dead": result.dead / plan.n if rows_before >= plan.dead_rows else None,
            "lr": lr,
            "rows_per_s": self._rate(),
            "seconds": self.seconds,
        }

    def _evaluate(self, state: State, schedule: Schedule) -> dict[str, float | int | None]:
        sae = state.sae(self.plan.k, self.plan.evaluation_kernel)
        seen, unseen = self._qualities(sae, self.scale)
        values: dict[str, float | int | None] = {
            "train_fvu": seen.fvu,
            "train_l0": seen.l0,
            "train_silent": seen.silent,
        }
        if unseen is not None:
            values |= {"holdout_fvu": unseen.fvu, "holdout_l0": unseen.l0}
            values["holdout_silent"] = unseen.silent
            if schedule.observe(self.plan, state.step, unseen.fvu):
                state.best = {name: value.clone() for name, value in state.params.items()}
        return values

    def _qualities(self, sae: Any, scale: float) -> tuple[Quality, Quality | None]:
        try:
            seen = evaluate(sae, self.rows, *self.sample, scale=scale)
            if self.holdout is None:
                return seen, None
            return seen, evaluate(sae, self.rows, *self.holdout, scale=scale)
        except DataError:
            refuse_bad_rows(self.store, self.config.layer)
            raise

    def _checkpoint(self, state: State, schedule: Schedule) -> None:
        save_checkpoint(self.folder.checkpoints, state, schedule, self.seconds)

    def _finish(self, state: State, schedule: Schedule) -> dict[str, Any]:
        plan, layer = self.plan, self.config.layer
        params = state.best or state.params
        metadata = {
            "layer": layer,
            "store_content_id": self.store.manifest["content_id"],
            "isae_version": __version__,
            "recipe": self.config.recipe,
            "tied": plan.tied,
            "scale": self.scale,
            "seed": self.config.seed,
            "model": self.store.manifest.get("model"),
        }
        sae = as_sae(params, plan.k, plan.evaluation_kernel, metadata).unscaled(self.scale)
        sae.save(self.folder.sae(layer))
        seen, unseen = self._qualities(sae, 1.0)
        summary: dict[str, Any] = {
            "layer": layer,
            "run": str(self.folder.path),
            "sae": str(self.folder.sae(layer)),
            "store": self.store.location,
            "store_content_id": self.store.manifest["content_id"],
            "recipe": self.config.recipe,
            "kernel": plan.kernel,
            "d": plan.d,
            "n": plan.n,
            "k": plan.k,
            "batch": plan.batch,
            "steps": state.step,
            "rows": state.rows,
            "epochs": state.rows / plan.epoch_rows,
            "best_step": schedule.best_step if state.best else state.step,
            "plateau_step": schedule.plateau_step,
            "train_fvu": seen.fvu,
            "train_l0": seen.l0,
            "train_silent": seen.silent,
            "holdout_fvu": unseen.fvu if unseen else None,
            "holdout_l0": unseen.l0 if unseen else None,
            "holdout_silent": unseen.silent if unseen else None,
            "holdout_rows": unseen.rows if unseen else 0,
            "dead": state.dead_fraction(plan.dead_rows),
            "dead_rows": plan.dead_rows,
            "scale": self.scale,
            "seconds": self.seconds,
            "rows_per_s": self._rate(),
            "threads": torch.get_num_threads(),
        }
        write_json(self.folder.summary, summary)
        return summary


def _scale(store: ActivationSource, layer: str) -> float:
    """S = 1 / sqrt(mean over channels of the variance), from training rows."""
    statistics = store.statistics(layer)
    variance = float(np.mean(statistics.var_C))
    if not (math.isfinite(variance) and np.isfinite(statistics.mean_C).all()):
        refuse_bad_rows(store, layer)
    if not (math.isfinite(variance) and variance > 0):
        raise DataError(
            f"layer {layer}: expected activations that vary, found a mean variance of {variance}; "
            "look at the images and weights that the store was built from"
        )
    return 1 / math.sqrt(variance)
