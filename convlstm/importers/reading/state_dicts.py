"""Where the weights of a checkpoint are, and what stands beside them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convlstm.importers.foreign import Foreign
from convlstm.importers.reading.torch_files import Stub

WRAPPERS = (
    *("state_dict", "model_state_dict", "net_state_dict", "ema_state_dict", "model_state", "model_dict"),
    *("model_weights", "model", "net", "netG", "netD", "network", "module", "weights", "params"),
    *("params_ema", "ema", "model_ema", "gen", "generator", "discriminator"),
)
"""Usual keys of a checkpoint's weights."""
MAX_NAME = 1000
MAX_LEVELS = 32
MAX_VALUES = 500_000


@dataclass
class _Found:
    """What was found so far, see `Foreign`."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[Any, Any] = field(default_factory=dict)
    modules: dict[str, dict[Any, Any]] = field(default_factory=dict)
    visited: int = 0

    def visit(self, values: int, level: int) -> None:
        """Count values that are looked at: a dict that stands in many places is looked at in each."""
        self.visited += values
        if self.visited > MAX_VALUES or level > MAX_LEVELS:
            raise ValueError("its dicts and modules are nested too deep, or unfold to an absurd size")

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor."""
        if name in self.tensors:
            raise ValueError(f"it has two tensors named {name!r:.80}")
        self.tensors[name] = tensor.detach()


def find_state_dict(value: Any) -> Foreign:
    """Find the weights in what a checkpoint holds.

    That is a dict of tensors, a whole module, or a dict with one of them under a usual key. Otherwise keys
    of dicts in dicts are joined by dots.

    Raises:
        ValueError: there are none.
    """
    found = _Found()
    for level in range(MAX_LEVELS):
        if is_module(value):
            _add_module(found, value, "", level)
            break
        items = entries(value)
        if items is None:
            kind = value.name if isinstance(value, Stub) else type(value).__name__
            raise ValueError(f"it holds a {kind:.80}; it needs a state_dict, or what has one")
        optimizer = {"param_groups", "state"}  # what an optimizer's state_dict has
        items = {key: item for key, item in items.items() if not optimizer <= (entries(item) or {}).keys()}
        wrappers = [key for key in items if key in WRAPPERS and _holds_tensors(found, items[key])]
        if len(wrappers) != 1:
            _add_dict(found, items, "", level)
            break
        value = items.pop(wrappers[0])
        found.notes = items | found.notes
    if not found.tensors:
        raise ValueError("it holds no tensors by name; it needs a state_dict, or what has one")
    return Foreign(found.tensors, notes=found.notes, modules=found.modules)


def is_module(value: Any) -> bool:
    """Return whether an object is a torch.nn.Module, by its attributes."""
    state = value.state if isinstance(value, Stub) else None
    return isinstance(state, dict) and all(
        isinstance(state.get(key), dict) for key in ("_parameters", "_buffers", "_modules")
    )


def entries(value: Any) -> dict[Any, Any] | None:
    """Return the items of a dict, of a subclass of it or of a namespace; None for other values."""
    if isinstance(value, Stub):
        namespace = value.name in ("argparse.Namespace", "types.SimpleNamespace")
        value = value.state if namespace else value.entries
    return value if isinstance(value, dict) else None


def _holds_tensors(found: _Found, value: Any) -> bool:
    """Return whether a dict, or one in it, has tensors or is a module."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        items = entries(value)
        if is_module(value):
            return True
        if items is not None and id(items) not in seen:
            seen.add(id(items))
            found.visit(len(items), 0)
            if any(isinstance(item, Tensor) for item in items.values()):
                return True
            waiting.extend(items.values())
    return False


def _join(prefix: str, key: Any) -> str:
    """Return the name of what stands under a key."""
    if not isinstance(key, str | int) or len(prefix) + len(str(key)) > MAX_NAME:
        raise ValueError(f"it has weights under a key in {prefix!r:.40} that is too long or no text")
    return f"{prefix}{key}"


def _add_dict(found: _Found, items: dict[Any, Any], prefix: str, level: int) -> None:
    """Add the tensors of a dict and of dicts in it, their keys joined by dots."""
    found.visit(len(items), level)
    for key, item in items.items():
        if isinstance(item, Tensor):
            found.add(_join(prefix, key), item)
        elif is_module(item):
            _add_module(found, item, _join(prefix, key) + ".", level + 1)
        elif _holds_tensors(found, item):
            _add_dict(found, entries(item) or {}, _join(prefix, key) + ".", level + 1)
        elif isinstance(item, Stub) and item.name.startswith("torch._utils._rebuild"):
            raise ValueError(
                f"its {_join(prefix, key)!r} is a tensor of a kind that is not read: {item.name:.80}"
            )


def _add_module(found: _Found, module: Stub, prefix: str, level: int) -> None:
    """Add a module's parameters, persistent buffers and attributes that are tensors, and its settings.

    The author meant to register the attributes, such as peepholes that were moved to a GPU.
    """
    path = prefix.removesuffix(".")
    if path in found.modules:
        raise ValueError(f"it has two modules named {path!r:.80}")
    state = module.state
    found.visit(sum(map(len, (state, state["_parameters"], state["_buffers"], state["_modules"]))), level)
    found.modules[path] = {"class": module.name} | state
    transient = state.get("_non_persistent_buffers_set")
    transient = {key for key in transient if isinstance(key, str)} if isinstance(transient, list) else ()
    for named in (state["_parameters"], state["_buffers"], state):
        for key, item in named.items():
            if isinstance(item, Tensor) and key not in transient:
                found.add(_join(prefix, key), item)
    for key, child in state["_modules"].items():
        if is_module(child):
            _add_module(found, child, _join(prefix, key) + ".", level + 1)
