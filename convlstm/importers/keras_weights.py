"""Find the tensors of a layer in a Keras file, as Keras 3 numbers them or Keras 2 names them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from convlstm.importers.foreign import Foreign
from convlstm.importers.keras_config import Layer

LAYERS = "layers/"
_NUMBERED = re.compile(r"layers/.*\bvars/\d+$")


class KerasWeights:
    """The tensors of a Keras file, each taken once by the layer that it belongs to.

    Keras 3 (and .keras of 2.15) has layers/GROUP/INSIDE/vars/0, 1, ...; what is older
    NAME/.../kernel:0, without the :0 where Keras 3 wrote it.
    """

    def __init__(self, foreign: Foreign):
        self._left = dict(foreign.tensors)
        self.numbered = any(_NUMBERED.match(name) for name in self._left)
        self._root = LAYERS if self.numbered else ""
        self._groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._left:
            if name.startswith(self._root):
                self._groups[name[len(self._root) :].partition("/")[0]].append(name)

    def groups(self) -> list[str]:
        """Return the names of the layers in the file."""
        return list(self._groups)

    def paths(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a layer that were not taken yet, by their paths in the layer."""
        start = f"{self._root}{name}/"
        group = self._groups.get(name.partition("/")[0], [])  # names of layers may have a slash
        return {
            path[len(start) :]: self._left[path]
            for path in group
            if path.startswith(start) and path in self._left
        }

    def take(
        self,
        layer: Layer,
        shapes: Mapping[str, Sequence[int | None]],
        inside: str = "",
        backward: Layer | None = None,
    ) -> dict[str, Tensor]:
        """Take tensors of a layer.

        Args:
            layer: the layer.
            shapes: by the tensors' names in Keras's order, None for a size that only the file tells.
            inside: in a file with numbers, where they are, such as "cell/".
            backward: of a Bidirectional layer, the second one; `inside` says of which the tensors are.
        """
        taken = {}
        for number, (name, shape) in enumerate(shapes.items()):
            if self.numbered:
                path = f"{self._root}{layer.group}/{inside}vars/{number}"
                found = [path] if path in self._left else []
            else:
                found = self._by_name(layer, name, inside, backward)
            if len(found) != 1:
                what = "is missing" if not found else f"is there {len(found)} times"
                raise layer.error(f"cannot be read: its {name} {what} in the file")
            tensor = self._left.pop(found[0])
            sizes = tuple(tensor.shape)
            if len(sizes) != len(shape) or any(s not in (None, n) for s, n in zip(shape, sizes, strict=True)):
                needs = ", ".join("any" if size is None else str(size) for size in shape)
                raise layer.error(f"has a {name} of shape {sizes}; by its config it needs ({needs})")
            taken[name] = tensor
        return taken

    def unused(self, stateful: Sequence[Layer]) -> dict[str, str]:
        """Return the tensors that no layer took, each with the reason.

        Args:
            stateful: layers whose states may be in the file.

        Raises:
            ValueError: weights are left that belong to no layer of the model.
        """
        states = tuple(f"{LAYERS}{layer.group}/" for layer in stateful)
        dropped = {}
        for name in self._left:
            if "seed_generator" in name:
                dropped[name] = "the random numbers of dropout, which does nothing at inference"
            elif states and name.startswith(states):
                dropped[name] = "a state of its last call; ours start at zero"
            else:
                raise ValueError(f"{name} is in the file, and no layer of its config needs it")
        return dropped

    def _by_name(self, layer: Layer, name: str, inside: str, backward: Layer | None) -> list[str]:
        found = []
        for path in self.paths(layer.name):
            *above, last = path.split("/")
            if last.removesuffix(":0") != name:
                continue
            if backward is not None:
                second = any(part.startswith("backward_") or part == backward.name for part in above[1:])
                if second != inside.startswith("backward"):
                    continue
            found.append(f"{self._root}{layer.name}/{path}")
        return found
