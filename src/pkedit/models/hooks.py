"""The only file that registers hooks. Every function here is a context manager that removes what it added."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

# Receives the place in the sequence of modules and the tensor.
Receiver = Callable[[int, Tensor], None]


@contextmanager
def inputs_of(modules: Sequence[nn.Module], receive: Receiver) -> Generator[None]:
    """Hands each module's first input to `receive` as the forward pass reaches it."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):

            def hook(_: nn.Module, args: tuple[Any, ...], place: int = place) -> None:
                receive(place, args[0])

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def outputs_of(modules: Sequence[nn.Module], receive: Receiver) -> Generator[None]:
    """Hands each module's output to `receive` as the forward pass reaches it."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):

            def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor, place: int = place) -> None:
                receive(place, output)

            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def calls_of(modules: Sequence[nn.Module], receive: Callable[[int, Callable[[], Any]], None]) -> Generator[None]:
    """Hands `receive` a function that calls the module once more, as the forward pass is about to call it."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):

            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], place: int = place) -> None:
                receive(place, lambda: module(*args, **kwargs))

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def gradients_from(block: nn.Module) -> Generator[None]:
    """Starts the gradient at this block's input, so that a model with frozen weights can be differentiated."""
    with entering_block(block, lambda states: states.detach().requires_grad_()):
        yield


@contextmanager
def entering_block(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Replaces the states that enter a decoder layer, [rows, tokens, hidden], by `change(states)`."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_inputs(modules: Sequence[nn.Module], replacement: Callable[[int, Tensor], Tensor]) -> Generator[None]:
    """Replaces each module's first input by `replacement(place, input)`."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):

            def hook(_: nn.Module, args: tuple[Any, ...], place: int = place) -> tuple[Any, ...]:
                return (replacement(place, args[0]), *args[1:])

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def scaled_activations(write: nn.Module, neurons: Tensor, factor: float) -> Generator[None]:
    """Multiplies the activation of the given neurons (indices, [k]) by `factor`."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        activation = args[0].clone()
        activation[..., neurons] *= factor
        return (activation, *args[1:])

    handle = write.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_activations(writes: Sequence[tuple[nn.Module, Tensor, Tensor]]) -> Generator[None]:
    """Holds activations at fixed values. Each entry: the write module, neuron indices [k], values [k]."""
    with ExitStack() as stack:
        for write, neurons, values in writes:

            def hook(
                _: nn.Module, args: tuple[Any, ...], neurons: Tensor = neurons, values: Tensor = values
            ) -> tuple[Any, ...]:
                activation = args[0].clone()
                activation[..., neurons] = values.to(activation.dtype)
                return (activation, *args[1:])

            stack.callback(write.register_forward_pre_hook(hook).remove)
        yield


@contextmanager
def added_outputs(modules: Sequence[nn.Module], add: Callable[[int, Tensor, Tensor], Tensor]) -> Generator[None]:
    """Replaces each module's output by `add(place, input, output)`."""
    with ExitStack() as stack:
        for place, module in enumerate(modules):

            def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor, place: int = place) -> Tensor:
                return add(place, args[0], output)

            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def skipped_blocks(
    blocks: Sequence[nn.Module], hidden: Tensor | None, *, as_tuple: Callable[[], bool]
) -> Generator[None]:
    """Lets the model's own forward pass jump over `blocks`: each returns `hidden`, or what it was given.

    `as_tuple` says, when the first of them is reached, whether this model's blocks return tuples.
    """

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        states = hidden_states if hidden is None else hidden
        return (states,) if as_tuple() else states

    # A forward that accelerate put on the instance must come back; usually there is only the class's.
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own
