"""Pretends that a model is spread over devices, on a machine that has none.

Every tensor bears a label, the device it would lie on; all numbers stay in main memory. Inside `Devices`, calls of
torch see these labels as `.device`, `.to(device)` and factories set them, and a call that mixes two of them fails, as
it would on GPUs. What autograd hands back bears none: what a gradient meets is checked only where it has met another
tensor. So this finds most, not all, of what two real devices would.
"""

from collections.abc import Iterator
from typing import Any

import accelerate
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

HOST = torch.device("cpu")
# Devices of a kind that every torch build knows, and on which tensors can lie.
FIRST, SECOND = torch.device("cpu", 1), torch.device("cpu", 2)

MOVES = {"to", "cpu", "as_tensor"}
# These copy from one device to another, or ask for nothing but sizes.
FREE = {"copy_", "__get__", "__set__", "requires_grad_", "size", "dim", "register_hook", "numel", "is_floating_point"}
# An index may lie in main memory.
INDEXED = {"__getitem__", "__setitem__", "index_put_"}


def label(tensor: Tensor) -> torch.device | None:
    """Where the tensor would lie; None where nobody knows."""
    return getattr(tensor, "_label", None)


def put(tensor: Any, device: torch.device | None) -> None:
    """Says where a tensor would lie."""
    if isinstance(tensor, Tensor) and device is not None:
        tensor._label = device  # type: ignore[attr-defined]


class Devices(TorchFunctionMode):
    """Calls inside see labels as devices; `moved` are the devices that tensors were sent to."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[torch.device] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return label(args[0]) or HOST
        if func == torch.autograd.grad:
            # It crosses from device to device by itself.
            return func(*args, **kwargs)
        wanted = self._asked(args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        home = self._home(name, args, kwargs, tensors)
        plain_args = tree_map_only(torch.device, lambda _: HOST, args)
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = HOST
        result = func(*plain_args, **kwargs)
        if name in MOVES and tensors:
            target = HOST if name == "cpu" else wanted or home
            if target != home and target is not None:
                self.moved.append(target)
                if result is args[0]:
                    # A tensor that moves becomes another one; a parameter stays what it is.
                    result = args[0].view_as(args[0])
            home = target
        elif wanted is not None or not tensors:
            home = wanted or HOST
        if name not in ("__get__", "__set__") or isinstance(result, Tensor):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and not any(leaf is one for one in tensors):
                    put(leaf, home)
        return result

    @staticmethod
    def _asked(args: Any, kwargs: Any) -> torch.device | None:
        asked = kwargs.get("device") or next((one for one in args if isinstance(one, torch.device)), None)
        return None if asked is None else torch.device(asked)

    @staticmethod
    def _home(name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> torch.device | None:
        """The one device that all tensors of a call lie on.

        Raises:
            RuntimeError: there is more than one.
        """
        checked = tensors
        if name in INDEXED:
            index = {id(one) for one in tree_leaves(args[1]) if isinstance(one, Tensor) and label(one) == HOST}
            checked = [one for one in tensors if id(one) not in index]
        labels: list[torch.device] = []
        for tensor in checked:
            found = label(tensor)
            # One number alone may come from main memory.
            if found is not None and found not in labels and not (found == HOST and tensor.dim() == 0):
                labels.append(found)
        if len(labels) > 1 and name not in FREE:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {labels}")
        return labels[0] if labels else (label(tensors[0]) if tensors else None)


def spread(model: Any, *, at: int) -> None:
    """Puts a model with Llama's layout on two devices, the second from layer `at` on, as accelerate does for GPUs."""
    places: dict[str, torch.device] = {"": FIRST, "model.embed_tokens": FIRST, "model.rotary_emb": FIRST}
    for number in range(len(model.model.layers)):
        places[f"model.layers.{number}"] = FIRST if number < at else SECOND
    places |= {"model.norm": SECOND, "lm_head": SECOND}
    for path, device in places.items():
        module = model.get_submodule(path)
        hook = accelerate.hooks.AlignDevicesHook(
            execution_device=device, io_same_device=path == "", skip_keys=model._skip_keys_device_placement
        )
        accelerate.hooks.add_hook_to_module(module, hook)
        if path:
            for tensor in (*module.parameters(), *module.buffers()):
                put(tensor, device)


def unlabelled(module: nn.Module) -> Iterator[str]:
    """Names of parameters without a label."""
    return (name for name, parameter in module.named_parameters() if label(parameter) is None)
