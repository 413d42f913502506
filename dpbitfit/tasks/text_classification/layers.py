"""The last layers of a backbone, where only these train: what is below is computed once.

Nothing below has a bias that trains, so that what enters the first of these layers is a
function of the text alone for as long as a run goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpbitfit.engine.split import layer_stack
from dpbitfit.errors import InputError, ModelError

_TEXTS, _TOKENS = 3, 8  # on which it is seen whether a backbone goes on from its layers' input


class _Reached(Exception):
    """The first of the layers is about to be computed, from ``states`` [B, T, d]."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


class UpperLayers:
    """The last ``count`` layers of a backbone, and whatever comes after them.

    The backbone is not frozen yet. ``below`` are the names of the parameters that are used
    before the layers, ``width`` is that of the states which enter them, d. Raises InputError
    where the backbone has fewer layers, ModelError where it is not one stack of layers.
    """

    def __init__(self, backbone: Any, count: int) -> None:
        self._backbone = backbone
        vocabulary = len(backbone.get_input_embeddings().weight)
        place = layer_stack(backbone)
        if place is None:
            raise _unfit(backbone)
        self._owner, self._name, stack = place
        if count > len(stack):
            raise InputError(f"'layers' is {count}, and the model has {len(stack)}")
        self._lower, self._upper = stack[:-count], stack[-count:]
        ids = torch.arange(_TEXTS * _TOKENS).reshape(_TEXTS, _TOKENS) % vocabulary
        mask = torch.ones_like(ids)
        mask[0, _TOKENS // 2 :] = 0
        self.below = self._used_below(ids, mask)
        with torch.no_grad():
            self.width = self.states(ids, mask).shape[-1]
        self.can_go_on = self._goes_on(ids, mask)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What enters the first of the layers [B, T, d], for token ids and mask [B, T]."""

        def stop(_layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            raise _Reached(args[0] if args else named["hidden_states"])

        handle = self._upper[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._backbone(input_ids=input_ids, attention_mask=attention_mask)
        except _Reached as reached:
            return reached.states
        finally:
            handle.remove()
        raise _unfit(self._backbone)

    def go_on(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last layer's states [B, T, d], from those that enter the first of the layers."""

        def enter(_layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return (
                ((states, *args[1:]), named) if args else ((), {**named, "hidden_states": states})
            )

        # First, so that what moves a layer's input to its device moves this.
        handle = self._upper[0].register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
        try:
            with self._alone():
                last = self._backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
        finally:
            handle.remove()
        assert isinstance(last, Tensor)
        return last

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The backbone without the layers below."""
        whole = getattr(self._owner, self._name)
        setattr(self._owner, self._name, self._upper)
        try:
            yield
        finally:
            setattr(self._owner, self._name, whole)

    def _used_below(self, ids: Tensor, mask: Tensor) -> frozenset[str]:
        """Those on which the states depend, however they are used; and all of the layers below."""
        parameters = dict(self._backbone.named_parameters(remove_duplicate=False))
        with torch.enable_grad():
            total = self.states(ids, mask).sum()
        reached = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
        lower = {id(parameter) for parameter in self._lower.parameters()}
        return frozenset(
            name
            for (name, parameter), gradient in zip(parameters.items(), reached, strict=True)
            if gradient is not None or id(parameter) in lower
        )

    def _goes_on(self, ids: Tensor, mask: Tensor) -> bool:
        """Whether going on gives what the whole backbone does, to the bit."""
        with torch.no_grad():
            whole = self._backbone(input_ids=ids, attention_mask=mask)[0]
            states = self.states(ids, mask)
            if len(states) != len(ids):
                return False  # they do not begin with the record
            try:
                last = self.go_on(states, ids, mask)
            except (IndexError, RuntimeError, TypeError, ValueError):
                return False  # its layers ask for each other
        return torch.equal(whole, last)


def _unfit(backbone: nn.Module) -> ModelError:
    kind = type(backbone).__name__
    return ModelError(f"{kind} is not one stack of layers: leave 'layers' at 0")
