"""Reading and writing of weights, in half precision."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from extractors.backends.nano.network import NanoNetwork
from extractors.backends.nano.packaged import PACKAGED
from extractors.errors import WeightsError


def load_network(path: Path = PACKAGED) -> NanoNetwork:
    """The network with the weights of `path`, ready for inference on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, or of another network.
    """
    network = NanoNetwork()
    try:
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        network.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        advice = "install cuepack again" if path == PACKAGED else "name a file of `cuepack models distil`"
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not hold nano's weights ({reason}); {advice}") from error
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def save_weights(network: NanoNetwork, path: Path) -> None:
    """Writes them as `load_network` reads them, in half precision."""
    state = network.state_dict()
    save_file(
        {name: value.half().contiguous() if value.is_floating_point() else value for name, value in state.items()}, path
    )
