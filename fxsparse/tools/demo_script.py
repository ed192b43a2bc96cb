"""The demo of fxsparse, step by step. `fxsparse demo` shows these lines and runs them; `python demo.py` does the same."""

# %% Settings
# Everything is written to one folder; nothing is downloaded.
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

import fxsparse
from fxsparse import passes, report
from fxsparse.engines import compare, export_onnx
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.models.digits import digits_resnet
from fxsparse.tools.progress import progress_bar
from fxsparse.training import Recipe, Trainer

folder, epochs, threads, console = Path("fxsparse-demo"), 6, 1, Console()

# %% Train a small residual network
# 1,437 pictures of digits, 8 x 8 pixels each, train it; 360 others, which it never sees, tell how good it is.
torch.manual_seed(0)
model, inputs = digits_resnet()
recipe = Recipe("fxsparse.models.digits:digits_resnet", "digits", epochs=epochs, batch=64, lr=0.05, flip=False, crop=1, threads=threads)
Trainer(recipe, folder / "dense", model=model, console=console).run()

# %% See what hangs together
# Tracing runs the model once, without data, and derives from each operator which channels can only go together.
net = fxsparse.trace(model.eval(), inputs)
print(net)
for member in net.group("layer1.0.conv1").members:
    print(f"layer1.0.conv1 {member.role} {member.tensor}, axis {member.axis}")

# %% Prune to half the measured latency
# Layers are measured on ONNX Runtime at several widths, a knapsack chooses, and the whole network is measured until it fits.
with progress_bar("layers measured", console) as told:
    pruning = passes.Prune(latency=0.5)(net, progress=told)
pruned = pruning.network
print(*pruning.notes, sep="\n")

# %% Prove the surgery
# In float64, with random weights: the narrow network is the wide one without the removed channels.
proof = fxsparse.verify(net, pruned)
print(proof)

# %% Fine-tune
# The pruned network is a module like any other.
tuning = replace(recipe, epochs=max(1, epochs // 2), lr=0.02)
Trainer(tuning, folder / "pruned", model=pruned.module, console=console).run()

# %% Regrow a part
# Half of the channels that went come back, 16 at a time, as engines like it. What reads them begins at zero, so no output changes. Then
# they learn.
missing = {name: len(net.living[name]) - len(units) for name, units in pruned.living.items()}
growing = passes.Regrow(counts={name: count // 32 * 16 for name, count in missing.items() if count >= 32}, init="zero")(pruned)
regrown = growing.network
print(*growing.notes, sep="\n")
print(fxsparse.verify(regrown, pruned))
Trainer(tuning, folder / "regrown", model=regrown.module, console=console).run()

# %% Export
# Each file is checked, and its outputs are compared with the module's, before it appears under its name.
networks = {"dense": net, "pruned": pruned, "regrown": regrown}
for name, network in networks.items():
    fxsparse.save(network, folder / name)
    exported = export_onnx(network, folder / name / "model.onnx")
    print(f"{exported.path}: {exported.bytes:,} bytes, outputs equal to {exported.max_error:.0e}")

# %% Compare
# The three run in turn, in one process, on one thread, so that a busy machine slows all of them.
runtime = OnnxRuntime(threads=1)
built = {name: runtime.open(folder / name / "model.onnx") for name in networks}
timings = compare({name: session.prepare() for name, session in built.items()})
print(*(f"{name}: {timing.median:.2f} ms" for name, timing in timings.items()), sep="\n")

# %% Report
# One HTML file: widths, the groups as a graph to explore, accuracy against cost, training, the proof.
for name, network in networks.items():
    run = report.run_of(name, network, net, model=recipe.model, measures={"latency_ms": timings[name].median})
    if name == "pruned":
        run = replace(run, proofs=(str(proof),), notes=pruning.notes)
    report.write_run(run, folder / name / "report.json")
report.write_page(report.read_sources([folder / name for name in networks]), folder / "report.html", title="The demo of fxsparse")
