"""Linear layers that run faster on a CPU: weights laid out for its matrix kernels, GELU and residual done in one pass.

PyTorch multiplies by a weight as it is stored; oneDNN, which PyTorch carries and its compiler uses, lays the weight
out once in the blocks that its kernels read, and applies what follows while the numbers are still in the cache. The
results differ by rounding.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

Gelu = Literal["none", "tanh"]

HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this PyTorch has the kernels; without them the layers are plain ones."""

_TYPICAL_ROWS = 2048
"""Rows for which the layout is chosen; others run within some percent of it."""


class Linear(nn.Linear):
    """`nn.Linear` with what follows it as an argument; its state is the same, and `pack_linears` makes it fast."""

    _packed: Tensor | None = None

    def forward(self, values: Tensor, *, gelu: Gelu | None = None, add: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out).

        Args:
            values: the input.
            gelu: a GELU follows, exact ("none") or in its "tanh" approximation, as in `torch.nn.functional.gelu`.
            add: (..., out), added to the result; not together with `gelu`.
        """
        if self._packed is None or torch.is_grad_enabled() or torch.is_autocast_enabled(values.device.type):
            out = F.linear(values, self.weight, self.bias)
            out = out if gelu is None else F.gelu(out, approximate=gelu)
            return out if add is None else add + out
        fused = torch.ops.mkldnn._linear_pointwise
        if add is not None:
            return cast(Tensor, fused.binary(values, add.contiguous(), self._packed, self.bias, "add"))
        return cast(Tensor, fused(values, self._packed, self.bias, "none" if gelu is None else "gelu", [], gelu or ""))

    @property
    def is_packed(self) -> bool:
        """Whether a call outside of autograd and autocast takes the fast way."""
        return self._packed is not None

    def pack(self) -> None:
        """Lays the weight out for a CPU's kernels; what is loaded into the layer later is not seen."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _TYPICAL_ROWS)


def pack_linears(model: nn.Module) -> None:
    """Packs every `Linear` of a model that is on a CPU, where PyTorch was built with oneDNN."""
    if not HAS_ONEDNN:
        return
    for module in model.modules():
        if isinstance(module, Linear) and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.pack()
