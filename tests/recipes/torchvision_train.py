"""A training script in miniature, in the order of torchvision's, with the lines of docs/how-to/torchvision-script.md in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import fxsparse
from fxsparse.models import import_torchvision
from tests.recipes.images import batches

torchvision: Any = import_torchvision()


def train_one_epoch(
    model: Any, criterion: Any, optimizer: Any, data_loader: Any, args: Any, model_ema: Any, scaler: Any, sparsifier: Any
) -> None:
    model.train()
    for image, target in data_loader:
        with torch.autocast("cpu", enabled=scaler is not None):
            loss = criterion(model(image), target)
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        else:
            loss.backward()
        if args.clip_grad_norm is not None:
            if sparsifier is not None:
                sparsifier.prepare()
            nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad_norm)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if model_ema is not None:
            model_ema.update_parameters(model)
            if sparsifier is not None:
                sparsifier.mask_module(model_ema)


def main(args: SimpleNamespace) -> Any:
    """Returns the model, its average, and the sparsifier."""
    data_loader, num_classes = batches(), 4
    model = torchvision.models.get_model(args.model, weights=None, num_classes=num_classes)
    if args.small is not None:
        model = fxsparse.load("small/", model).module
    model.to(torch.device("cpu"))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu") if args.amp else None
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    sparsifier: Any = None
    if args.sparse:
        sparsifier = fxsparse.training.RigL(model, optimizer, density=0.1, steps=args.epochs * len(data_loader))
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    model_ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True) if args.model_ema else None
    first = 0
    if args.resume:
        checkpoint = torch.load(args.resume, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
        if sparsifier is not None:
            sparsifier.load_state_dict(checkpoint["sparsifier"])
        first = checkpoint["epoch"] + 1
    for epoch in range(first, args.until):
        train_one_epoch(model, criterion, optimizer, data_loader, args, model_ema, scaler, sparsifier)
        lr_scheduler.step()
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "sparsifier": sparsifier.state_dict() if sparsifier is not None else None,
            "lr_scheduler": lr_scheduler.state_dict(),
            "epoch": epoch,
        }
        torch.save(checkpoint, Path("checkpoint.pth"))
    return model, model_ema, sparsifier
