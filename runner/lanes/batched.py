"""Operations whose batched form in torch is slow or missing: linear layers, attention, and cross entropy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_linear, _attention = functional.linear, functional.scaled_dot_product_attention
_cross_entropy = functional.cross_entropy
_FEW = 16  # outputs of a linear layer
_LEFT_OUT = -100  # class of an answer that does not count, as torch has it


@contextmanager
def batched_operations() -> Iterator[None]:
    """Have modules that run inside call the forms below, where they are vectorised over their weights or queries.

    A module finds them in `torch.nn.functional` at each call; there is no other place that sees a call before it is
    taken apart into operations that have no batched form.
    """
    functional.linear, functional.scaled_dot_product_attention = linear, attention
    functional.cross_entropy = cross_entropy
    try:
        yield
    finally:
        functional.linear, functional.scaled_dot_product_attention = _linear, _attention
        functional.cross_entropy = _cross_entropy


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias, as torch does for one lane."""
    made: Tensor = _Linear.apply(*_cast(input, weight, bias))  # type: ignore[no-untyped-call]
    return made


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what torch's function of this name does for one lane."""
    given = (dropout_p, is_causal, scale, enable_gqa)
    made: Tensor = _Attention.apply(*_cast(query, key, value), attn_mask, given)  # type: ignore[no-untyped-call]
    return made


def cross_entropy(input: Tensor, target: Tensor, *given: Any, **named: Any) -> Tensor:
    """Return what torch's function of this name does for one lane; sums over (n, classes) logits and (n,) classes."""
    is_plain = not given and named == {"reduction": "sum"} and input.dim() == 2 and target.dim() == 1
    if not is_plain or input.dtype not in (torch.float32, torch.float64):
        return _cross_entropy(input, target, *given, **named)
    made: Tensor = _CrossEntropy.apply(input, target)  # type: ignore[no-untyped-call]
    return made


def _cast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return tensors in the number format that autocast gives these operations, which it does not see in here."""
    device = "cpu" if tensors[0] is None else tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


class _Linear(torch.autograd.Function):
    """A linear layer, whose vectorised form is one batched product with the bias in it.

    torch's own expands the bias, adds it in a second pass and leaves the gradient of the weight transposed.
    """

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.has_bias = inputs[2] is not None

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        grad, rows = grads[0], grads[0].flatten(0, -2)
        return (
            grad @ weight if ctx.needs_input_grad[0] else None,
            rows.mT @ inputs.flatten(0, -2) if ctx.needs_input_grad[1] else None,
            rows.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        weight = _first(weight, in_dims[1], info.batch_size)
        bias = None if bias is None else _first(bias, in_dims[2], info.batch_size)
        if in_dims[0] is not None:
            inputs = inputs.movedim(in_dims[0], 0)
            if inputs.dim() == 2:  # one example without a batch dimension
                alone: Tensor = _BatchedLinear.apply(inputs.unsqueeze(1), weight, bias)  # type: ignore[no-untyped-call]
                return alone.squeeze(1), 0
            rows, shape = inputs.flatten(1, -2), inputs.shape[1:-1]
        else:
            rows, shape = inputs.reshape(-1, inputs.shape[-1]), inputs.shape[:-1]
        made: Tensor = _BatchedLinear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return made.reshape(len(made), *shape, made.shape[-1]), 0


class _BatchedLinear(torch.autograd.Function):
    """(lanes, rows, n) or shared (rows, n) inputs, (lanes, m, n) weights, (lanes, m) biases -> (lanes, rows, m)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        rows = _of_each(inputs, weight)
        if weight.shape[1] < _FEW:  # this way round, such products take half as long
            turned = rows.mT
            few = torch.bmm(weight, turned) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, turned)
            return few.mT
        return torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        grad, needs = grads[0], ctx.needs_input_grad
        to_inputs = torch.bmm(grad, weight) if needs[0] else None
        return (
            to_inputs.sum(0) if to_inputs is not None and inputs.dim() == 2 else to_inputs,
            torch.bmm(grad.mT, _of_each(inputs, weight)) if needs[1] else None,
            grad.sum(1) if ctx.has_bias and needs[2] else None,
        )


def _first(tensor: Tensor, dim: int | None, lanes: int) -> Tensor:
    return tensor.expand(lanes, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _of_each(inputs: Tensor, weight: Tensor) -> Tensor:
    return inputs if inputs.dim() == 3 else inputs.expand(weight.shape[0], *inputs.shape)


class _Attention(torch.autograd.Function):
    """Attention, whose vectorised form has the lanes in its batch dimension: torch's goes lane by lane."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, given: tuple[Any, ...]) -> Tensor:
        return _plain(query, key, value, mask, given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.given = inputs[4]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        *saved, mask = ctx.saved_tensors  # nothing here belongs to a lane
        query, key, value = (tensor.detach().requires_grad_() for tensor in saved)
        with torch.enable_grad():
            made = _plain(query, key, value, mask, ctx.given)
        return (*torch.autograd.grad(made, (query, key, value), grads[0]), None, None)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        given: tuple[Any, ...],
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        folded = [_first(tensor, dim, lanes) for tensor, dim in zip((query, key, value), in_dims, strict=False)]
        if mask is not None:
            mask = mask.unsqueeze(0) if in_dims[3] is None else mask.movedim(in_dims[3], 0)
            mask = mask.view(len(mask), *[1] * (folded[0].dim() - mask.dim()), *mask.shape[1:])
            mask = mask.expand(lanes, len(folded[0][0]), *mask.shape[2:]).flatten(0, 1)
        many, keys, values = (tensor.flatten(0, 1) for tensor in folded)
        made = _plain(many, keys, values, mask, given)
        return made.view(lanes, -1, *made.shape[1:]), 0


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, given: tuple[Any, ...]) -> Tensor:
    dropout_p, is_causal, scale, enable_gqa = given
    return _attention(query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


class _CrossEntropy(torch.autograd.Function):
    """Summed cross entropy, whose vectorised form exponentiates once: for ten classes torch's takes four times as long.

    A class of -100 is left out, as torch does.
    """

    @staticmethod
    def forward(logits: Tensor, classes: Tensor) -> Tensor:
        return _cross_entropy(logits, classes, reduction="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        logits, classes = ctx.saved_tensors
        with torch.enable_grad():
            own = logits.detach().requires_grad_()
            loss = _cross_entropy(own, classes, reduction="sum")
        return torch.autograd.grad(loss, own, grads[0])[0], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, classes: Tensor) -> tuple[Tensor, int]:
        logits = _first(logits, in_dims[0], info.batch_size)
        classes = classes.unsqueeze(0) if in_dims[1] is None else classes.movedim(in_dims[1], 0)
        made: Tensor = _BatchedCrossEntropy.apply(logits, classes)  # type: ignore[no-untyped-call]
        return made, 0


class _BatchedCrossEntropy(torch.autograd.Function):
    """(lanes, n, classes) logits, (lanes or 1, n) classes -> (lanes,) sums over n."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor) -> Tensor:
        counts = classes != _LEFT_OUT
        place = classes.where(counts, 0).unsqueeze(-1).expand(*logits.shape[:-1], 1)
        shifted = logits - logits.amax(-1, keepdim=True)
        exponents = shifted.exp()
        total = exponents.sum(-1, keepdim=True)
        ctx.save_for_backward(exponents, total, place, counts)
        losses = (total.log() - shifted.gather(-1, place)).squeeze(-1)
        return losses.where(counts, 0.0).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        exponents, total, place, counts = ctx.saved_tensors
        one = exponents.new_full((), -1.0).expand(place.shape)
        shares = (exponents / total).scatter_add(-1, place, one)
        return shares * grads[0].unsqueeze(-1).where(counts, 0.0).unsqueeze(-1), None
