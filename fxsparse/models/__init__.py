"""The zoo: models by name with example inputs, our own networks, and an activation."""

from fxsparse.models.cifar_resnet import CifarResNet
from fxsparse.models.dyrelu import DyReLU
from fxsparse.models.examples import example_inputs, small_options
from fxsparse.models.specs import list_models, quantized_models
from fxsparse.models.timm_zoo import FamilyModel, timm_family_models
from fxsparse.models.torchvision_shim import TorchvisionState, import_timm, import_torchvision, torchvision_state
from fxsparse.models.weights import load_weights, read_weights
from fxsparse.models.zoo import Loaded, build, build_alone

__all__ = [
    "CifarResNet",
    "DyReLU",
    "FamilyModel",
    "Loaded",
    "TorchvisionState",
    "build",
    "build_alone",
    "example_inputs",
    "import_timm",
    "import_torchvision",
    "list_models",
    "load_weights",
    "quantized_models",
    "read_weights",
    "small_options",
    "timm_family_models",
    "torchvision_state",
]
