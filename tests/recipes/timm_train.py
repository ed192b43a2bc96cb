"""A training script in miniature, in the order of timm's and with its parts, with the lines of docs/how-to/timm-script.md in it."""

from __future__ import annotations

import importlib
import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import fxsparse
from fxsparse.models import import_timm
from tests.recipes.images import batches

import_timm()
models, optim, scheduler, utils = (importlib.import_module(f"timm.{name}") for name in ("models", "optim", "scheduler", "utils"))
create_model, resume_checkpoint = models.create_model, models.resume_checkpoint
create_optimizer_v2, create_scheduler_v2 = optim.create_optimizer_v2, scheduler.create_scheduler_v2
CheckpointSaver, ModelEmaV3, NativeScaler = utils.CheckpointSaver, utils.ModelEmaV3, utils.NativeScaler


def main(args: SimpleNamespace) -> Any:
    """Returns the model, its average, and the sparsifier."""
    loader_train, output_dir = batches(), "."
    updates_per_epoch = len(loader_train)
    model = create_model(args.model, pretrained=False, num_classes=4, **args.model_kwargs)
    if args.small is not None:
        model = fxsparse.load("small/", model).module
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=args.layer_decay)
    loss_scaler = NativeScaler("cpu") if args.amp else None
    resume_epoch = None
    if args.resume:
        resume_epoch = resume_checkpoint(model, args.resume, optimizer=optimizer, loss_scaler=loss_scaler)
    model_ema = ModelEmaV3(model, decay=0.9) if args.model_ema else None
    schedule = {"sched": "cosine", "num_epochs": args.epochs, "warmup_epochs": 1, "cooldown_epochs": 0}
    lr_scheduler, num_epochs = create_scheduler_v2(optimizer, **schedule, updates_per_epoch=updates_per_epoch)
    sparsifier: Any = None
    if args.sparse:
        sparsifier = fxsparse.training.RigL(model, optimizer, density=0.1, steps=num_epochs * updates_per_epoch)
        if args.resume:
            resume_checkpoint(model, args.resume, optimizer=optimizer, loss_scaler=loss_scaler)
            sparsifier.load_state_dict(torch.load(os.path.join(os.path.dirname(args.resume), "sparsifier.pt"), weights_only=True))
    saver = CheckpointSaver(
        model=model, optimizer=optimizer, args=None, model_ema=model_ema, amp_scaler=loss_scaler, checkpoint_dir=output_dir
    )
    first = resume_epoch or 0
    lr_scheduler.step(first)
    for epoch in range(first, args.until):
        model.train()
        for index, (image, target) in enumerate(loader_train):
            num_updates = epoch * updates_per_epoch + index
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.amp):
                loss = nn.functional.cross_entropy(model(image), target)
            optimizer.zero_grad()
            if loss_scaler is not None:
                loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            else:
                loss.backward()
                optimizer.step()
            if model_ema is not None:
                model_ema.update(model, step=num_updates)
                if sparsifier is not None:
                    sparsifier.mask_module(model_ema.module)
        lr_scheduler.step(epoch + 1, None)
        latest_metric = float(epoch)
        saver.save_checkpoint(epoch, metric=latest_metric)
        if sparsifier is not None:
            torch.save(sparsifier.state_dict(), os.path.join(output_dir, "sparsifier.pt"))
    return model, model_ema, sparsifier
