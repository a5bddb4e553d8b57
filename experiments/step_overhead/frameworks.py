"""The same job by the training frameworks, each as its documentation sets it up, with logging and checkpoints off."""

from __future__ import annotations

import math
import tempfile
import time
from typing import Any

import torch
from job import CLIP_NORM, LR, Job, Timing, factor, make
from loops import loader
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset


def ignite(name: str, steps: int) -> Timing:
    """pytorch-ignite: an Engine around an update function, the scheduler as a handler."""
    from ignite.engine import Engine, Events

    job = make(name)
    optimizer, scheduler = _optimizer(job.model, steps)

    def update(engine: Engine, batch: list[Tensor]) -> float:
        optimizer.zero_grad()
        loss = job.loss(job.model, tuple(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(job.model.parameters(), CLIP_NORM)
        optimizer.step()
        return loss.item()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: scheduler.step())
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=steps), lambda engine: engine.terminate())
    started = time.perf_counter()
    trainer.run(loader(job), max_epochs=_epochs(job, steps))
    return Timing((time.perf_counter() - started) / steps)


def skorch(name: str, steps: int) -> Timing:
    """skorch: NeuralNet with its callbacks for clipping and schedule; whole epochs."""
    from skorch import NeuralNetClassifier
    from skorch.callbacks import GradientNormClipping, LRScheduler

    job = make(name)
    epochs = _epochs(job, steps)
    made = epochs * math.ceil(len(job.tensors[0]) / job.batch_size)
    net = NeuralNetClassifier(
        job.model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__fused=True,
        lr=LR,
        max_epochs=epochs,
        batch_size=job.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[
            GradientNormClipping(CLIP_NORM),
            LRScheduler(policy=LambdaLR, lr_lambda=lambda step: factor(step, made), step_every="batch"),
        ],
        callbacks__print_log=None,
    )
    started = time.perf_counter()
    net.fit(*job.tensors)
    return Timing((time.perf_counter() - started) / made)


def transformers(name: str, steps: int) -> Timing:
    """transformers.Trainer around a module that returns its loss."""
    from transformers import Trainer, TrainingArguments

    job = make(name)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=job.batch_size,
            max_grad_norm=CLIP_NORM,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(_Lossy(job), arguments, train_dataset=_Items(job), optimizers=_optimizer(job.model, steps))
        started = time.perf_counter()
        trainer.train()
    return Timing((time.perf_counter() - started) / steps)


def lightning(name: str, steps: int) -> Timing:
    """Lightning's Trainer around a LightningModule."""
    import lightning

    job = make(name)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return job.loss(self.model, tuple(batch))

        def configure_optimizers(self) -> Any:
            optimizer, scheduler = _optimizer(self.model, steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=CLIP_NORM,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    trainer.fit(Module(), loader(job))
    return Timing((time.perf_counter() - started) / steps)


def _optimizer(model: nn.Module, steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: factor(step, steps))


def _epochs(job: Job, steps: int) -> int:
    return math.ceil(steps / math.ceil(len(job.tensors[0]) / job.batch_size))


class _Lossy(nn.Module):
    """A model that returns its loss, as transformers.Trainer wants it."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model, self._job = job.model, job

    def forward(self, **rows: Tensor) -> dict[str, Tensor]:
        return {"loss": self._job.loss(self.model, tuple(rows.values()))}


class _Items(Dataset[dict[str, Tensor]]):
    """The rows as dicts, as transformers' collator wants them."""

    def __init__(self, job: Job) -> None:
        self._tensors = job.tensors

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {f"rows{number}": tensor[index] for number, tensor in enumerate(self._tensors)}
