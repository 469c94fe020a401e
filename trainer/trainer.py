"""One epoch of training and evaluation, and the state of a run."""

import math
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.optim import Optimizer

from base.base_data_loader import Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from config_schema import CrossEntropy
from data_loader.build import RunData
from data_loader.preprocess import Preprocess
from logger.confusion import Confusion, confusion_picture, confusion_table
from logger.tables import DiagnosticRow, write_diagnostics
from logger.tensorboard import LAST_TEXT, displayable
from logger.thumbnails import MOST, spread_over
from models.build import outputs_of
from models.compiled import compiled
from models.loss import build_loss, class_weights
from models.metric import METRICS
from parse_config import Config
from trainer.batch_statistics import share_statistics
from trainer.changes import Changes, changes, check_function, check_order, check_start, report_lines, that_matter
from trainer.checkpoint import CheckpointStore
from trainer.diagnostics import Diagnostics
from trainer.environment import environment
from trainer.evaluation import AMP_TYPES, Evaluator, Metrics, measure, measure_noise
from trainer.identity import note_save
from trainer.meter import Meter
from trainer.optim import Schedule, Step, setting_of_rate
from trainer.restore import check_data, check_progress, load_model, load_optimizer
from trainer.state import FORMAT_VERSION, RunState, config_of
from utils.columns import SPLITS, prefixed
from utils.drawing import warn_on_failure
from utils.errors import CheckpointError, NonFiniteLossError
from utils.folder import Folder
from utils.progress import Bar
from utils.reading import errors_as
from utils.seeding import rng_state, set_rng_state
from utils.stopping import Handlers
from utils.text import visible
from utils.world import World

NONE_YET = 2**62  # a step that no run comes to


class Trainer(BaseTrainer[RunState]):
    """Trains `model` on `data` as `config` says, and writes into the run folder `folder`."""

    store: CheckpointStore

    def __init__(
        self,
        config: Config,
        model: BaseModel,
        optimizer: Optimizer,
        schedule: Schedule,
        data: RunData,
        device: torch.device,
        folder: Path | Folder,
        world: World | None = None,
    ) -> None:
        place = Folder.of(folder)
        super().__init__(config.trainer, CheckpointStore(place), place, world or World())
        self.config, self.data, self.device = config, data, device
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        outputs = outputs_of(config, len(data.dataset.classes))
        given = data.given["train"].to(device)
        self.loss = build_loss(config.loss, given, outputs)
        #: Those of the loss, if several processes must weigh their shares of a batch by them.
        self.class_weights: torch.Tensor | None = None
        self.metrics: Metrics = {name: METRICS[name] for name in config.metrics}
        self.world.begin(self.loop.lost_after_minutes, device)
        self.remarks += [*model.remarks]
        self.changed: Changes = {}  # settings that a resume changed
        self.remarks += share_statistics(model, self.loop.sync_batch_norm, device, self.world.size)
        if self.world.size > 1 and isinstance(config.loss, CrossEntropy):
            self.class_weights = class_weights(config.loss.args.class_weights, given, outputs)
        network = compiled(model, config.trainer.compile, device)
        self.evaluator = Evaluator(network, self.metrics, device, AMP_TYPES[config.trainer.amp], self.world)
        self.network = self.world.wrapped(network)
        # Only float16 underflows; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.trainer.amp == "fp16")
        self.meter = Meter(device, self.world)
        wanted = config.trainer.diagnostics
        self.diagnostics = Diagnostics(model, data.image_size, device, self.world) if wanted else None
        self.remarks += [] if self.diagnostics is None else self.diagnostics.remarks
        self.diagnostic_rows: list[DiagnosticRow] = []
        self.bad_step = torch.full((), NONE_YET, dtype=torch.int64, device=device)

    def enter(self, folder: Path | Folder) -> None:
        """Set the run's folder, which is made after the trainer."""
        self.folder = Folder.of(folder)
        self.store = CheckpointStore(self.folder)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        if epoch == 1 and self.batch == 0:
            self._show_images()
        self._train(epoch)
        rate = self._schedule(epoch, len(self.data.train) - 1)  # also where all batches were done before a resume
        self.world.take_buffers_of_first(self.model)
        figures = {"lr": rate, **prefixed("train", self.meter.figures())}
        for name, loader in (("val", self.data.val), ("test", self.data.test)):
            figures |= prefixed(name, self.evaluator.figures(loader, name, after_batch=self.between_batches))
        self.meter = Meter(self.device, self.world)
        if not all(math.isfinite(figures[f"{split}_loss"]) for split in SPLITS):
            raise self._diverged(epoch, self.global_step)
        if self.diagnostics is not None:
            self._diagnose(self.diagnostics.rows(epoch))
        return figures

    def _diagnose(self, rows: list[DiagnosticRow]) -> None:
        assert self.board is not None
        self.diagnostic_rows += rows
        self.board.diagnostics(rows)

    def write_tables(self) -> None:
        super().write_tables()
        write_diagnostics(self.folder, self.diagnostic_rows)

    def note_save(self) -> None:
        note_save(self.folder)

    def _train(self, epoch: int) -> None:
        loader = self.data.train
        self.model.train()
        batches, images = loader.batches(epoch, first=self.batch), 0
        bar = Bar(batches, desc=f"epoch {epoch}", total=len(loader), initial=self.batch, leave=False)
        for batch in bar:
            self._schedule(epoch, self.batch)
            self.train_step(batch, loader.weight(self.batch))
            self.batch += 1
            self.global_step += 1
            images += len(batch.given) * self.world.size
            bar.show_pace(images, self.seconds_left(self.batch / len(loader)))
            self.between_batches()
        self.check_finite()

    def _schedule(self, epoch: int, batch: int) -> float:
        """Give the optimizer its options for batch number `batch` (from 0) of an epoch (from 1); returns the rate."""
        options = self.schedule(Step(epoch - 1, batch, len(self.data.train)))
        for group in self.optimizer.param_groups:
            group.update(options)
        return float(options["lr"])

    def train_step(self, batch: Batch, weight: float = 1.0) -> None:
        """One update from one batch. `weight` is the weight of its loss in the mean over all processes.

        Only fp16's scaler waits for the device, to check for overflows.
        """
        with self.evaluator.autocast():
            logits = self.network(batch.images)
            loss = self.loss(logits.float(), batch.given)
            if self.class_weights is not None:  # it was divided by the weights of this process's share
                loss = loss * self.class_weights[batch.given].mean() / self.class_weights[batch.everyone].mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * weight).backward()
        if self.loop.clip_grad_norm is not None or self.diagnostics is not None:
            self.scaler.unscale_(self.optimizer)
        if self.diagnostics is not None:
            self.diagnostics.add_gradients()
        if self.loop.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.loop.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        first_bad = ~torch.isfinite(loss.detach()) & (self.bad_step == NONE_YET)
        self.bad_step = torch.where(first_bad, self.global_step, self.bad_step)
        measure(self.meter, self.metrics, logits.detach(), loss, batch.given)
        if self.data.noisy:
            measure_noise(self.meter, logits.detach(), batch)

    def finish(self) -> None:
        """Write to TensorBoard the hyper-parameters, which a stop shall not lose, then the test set's confusion matrix,
        some of its images and its worst confusions."""
        assert self.board is not None
        if not self.history or not self.loop.tensorboard:
            return
        self.board.hyper_parameters(self.config.model_dump(), self.history[-1])
        predicted, true = self.evaluator.predictions(self.data.test, "confusion", after_batch=self.between_batches)
        if not self.world.first:
            return
        # All is saved, so a signal may stop the run at once, but not the first of several processes alone.
        with Handlers(self._stop) if self.world.size == 1 else nullcontext():
            confusion = Confusion.of(predicted, true, self.data.dataset.classes)
            with warn_on_failure("picture of the confusion matrix", self.log.warning):
                self.board.picture("test/confusion", confusion_picture(confusion, f"Epoch {self.epoch}"), self.epoch)
            if self.world.size == 1:  # otherwise the predictions are not in the order of the images
                some = spread_over(len(true), MOST)
                images, classes = self.data.dataset.images[self.data.splits.test[some]], self.data.dataset.classes
                self.board.images("test/images", images, predicted[some], true[some], classes, self.epoch)
            self.board.text(LAST_TEXT, confusion_table(confusion), self.epoch)

    def state_dict(self) -> RunState:
        data = self.data
        return {
            "format_version": FORMAT_VERSION,
            "environment": environment(self.device, self.world.size),
            "config": self.config.model_dump(),
            "dataset_sha256": data.sha256,
            "classes": list(data.dataset.classes),
            "splits": data.splits.named(),
            "given_labels": data.all_given(),
            "epoch": self.epoch,
            "batch": self.batch,
            "global_step": self.global_step,
            "model": self.model.state_dict(),
            "optimizer_type": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.epoch},
            "scaler": self.scaler.state_dict(),
            "best": self.monitor.best,
            "epochs_since_best": self.monitor.epochs_since_best,
            "partial_sums": self.meter.state_dict(),
            "history": self.history,
            "diagnostics": self.diagnostic_rows,
            "gradient_norms": {} if self.diagnostics is None else self.diagnostics.gradients.state_dict(),
            "seconds": self.seconds,
            "rng": rng_state(),
            "preprocessing": Preprocess.of(data.stats, data.image_size).record(),
        }

    def load_state_dict(self, state: RunState, source: str) -> None:
        with errors_as(CheckpointError, source, "malformed"):
            self._load(state, source)

    def _load(self, state: RunState, source: str) -> None:
        saved_as = config_of(state, source)
        since = changes(saved_as, self.config)
        check_start(since, source)
        check_order(state, since, self.config, self.data.train.sample_count, self.world.size, source)
        check_progress(state, len(self.data.train), source)
        check_data(self.data, state, source)
        check_function(since, len(self.data.dataset.classes), source)
        load_optimizer(self.optimizer, state, source)
        load_model(self.model, state["model"], source)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch, self.global_step = state["epoch"], state["batch"], state["global_step"]
        self.history, self.seconds = [dict(row) for row in state["history"]], state["seconds"]
        # find the best epoch again: this config's monitor may differ from the checkpoint's
        column = self.monitor.column or ""
        self.monitor = self.new_monitor().add_all(row.get(column) for row in self.history)
        self.meter.load_state_dict(state["partial_sums"])
        self.diagnostic_rows = [dict(row) for row in state.get("diagnostics", [])]
        if self.diagnostics is not None:
            self.diagnostics.gradients.load_state_dict(state.get("gradient_norms", {}))
        saved, here = state["environment"], environment(self.device, self.world.size)
        inexact = [
            f"{key} was {visible(str(saved.get(key)), 100)}, is {here[key]}"
            for key in here
            if saved.get(key) != here[key]
        ]
        if state["rng"]:
            set_rng_state(state["rng"])
        else:
            inexact.append("it holds no state of the generators")
        self.changed = that_matter(since)
        self.remarks += report_lines(since, saved_as, self.config, state, len(self.data.train))
        if inexact:
            self.log.warning("resume not bit-exact: %s", "; ".join(inexact))

    def check_finite(self) -> None:
        step = -self.world.largest(-int(self.bad_step))  # the first of all processes
        if step != NONE_YET:
            raise self._diverged(self.epoch + 1, step + 1)

    def _diverged(self, epoch: int, step: int) -> NonFiniteLossError:
        kept = f"; the best checkpoint is kept in {self.folder}" if self.monitor.best is not None else ""
        where = f"in epoch {epoch} at step {step}{kept}"
        said = f"the loss became NaN or infinite {where}; lower {setting_of_rate(self.config)}"
        return NonFiniteLossError(said, epoch, step)

    def _show_images(self) -> None:
        assert self.board is not None
        batch, classes = next(self.data.train.batches(epoch=1)), self.data.dataset.classes
        self.board.images("train/images", displayable(batch.images[:MOST]), batch.given, batch.true, classes, 0)
