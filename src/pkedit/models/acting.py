"""A change of some neurons' vectors that acts through hooks, whatever the weights are stored in.

h += a[S] δ for write vectors, and pre-activation[S] += x δᵀ for read vectors: what the matrices would add if δ were
written into them.
"""

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from pkedit.models.family import MlpSite
from pkedit.models.hooks import added_outputs


@contextmanager
def acting(site: MlpSite, which: int | None, neurons: Tensor, change: Tensor) -> Generator[None]:
    """The change acts on every forward pass made inside.

    Args:
        site: the MLP.
        which: the read matrix whose vectors change; None for write vectors.
        neurons: of the MLP, [k], where its weights are.
        change: δ, [k, hidden], there too. It may require a gradient.
    """

    def add_write(_: int, activation: Tensor, output: Tensor) -> Tensor:
        return output + (activation[..., neurons] @ change.to(activation.dtype)).to(output.dtype)

    def add_read(_: int, entering: Tensor, output: Tensor) -> Tensor:
        more = entering @ change.T.to(entering.dtype)
        return output.index_add(-1, outputs, more.to(output.dtype))

    if which is None:
        with added_outputs([site.write], add_write):
            yield
        return
    outputs = site.read_outputs(which, neurons)
    with added_outputs([site.reads[which].module], add_read):
        yield
