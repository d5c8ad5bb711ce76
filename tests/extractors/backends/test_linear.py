"""Packed linear layers give what plain ones give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.backends.linear import HAS_ONEDNN, Gelu, Linear, pack_linears


def a_layer(width_in: int, width_out: int, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(width_in, width_out, bias=bias).requires_grad_(False)


def some_values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (0, 24)])
@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
def test_packed_as_plain(shape: tuple[int, ...], gelu: Gelu | None) -> None:
    layer, values = a_layer(24, 40), some_values(*shape)
    plain = F.linear(values, layer.weight, layer.bias)
    wanted = plain if gelu is None else F.gelu(plain, approximate=gelu)
    pack_linears(layer)
    with torch.inference_mode():
        torch.testing.assert_close(layer(values, gelu=gelu), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_packed_adds_a_residual_of_any_layout(bias: bool) -> None:
    layer, values = a_layer(24, 40, bias=bias), some_values(6, 4, 24).transpose(0, 1)
    residual = some_values(6, 4, 40).transpose(0, 1)
    wanted = residual + F.linear(values, layer.weight, layer.bias)
    pack_linears(layer)
    with torch.inference_mode():
        torch.testing.assert_close(layer(values, add=residual), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_ONEDNN, reason="this PyTorch was built without oneDNN")
def test_packing_is_found_in_a_model_and_leaves_its_state() -> None:
    model = nn.Sequential(a_layer(8, 8), nn.Linear(8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack_linears(model)
    assert model[0].is_packed
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gradients_and_autocast_take_the_plain_way() -> None:
    layer, values = a_layer(8, 4), some_values(3, 8).requires_grad_()
    pack_linears(layer)
    layer(values).sum().backward()
    assert values.grad is not None
    assert float(values.grad.abs().sum()) > 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(values).dtype == torch.bfloat16


def test_unpacked_off_the_cpu_and_in_half_precision() -> None:
    model = nn.Sequential(Linear(8, 8, device="meta"), a_layer(8, 8).half())
    pack_linears(model)
    assert not any(each.is_packed for each in model)
