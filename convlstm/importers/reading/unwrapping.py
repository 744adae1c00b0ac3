"""Where in a pickled checkpoint the weights are, and what stands beside them."""

from dataclasses import dataclass, field
from typing import Any

from convlstm.importers.reading.inert import Stub, TensorRef
from convlstm.importers.reading.plain import is_module

# The usual keys of a checkpoint's weights.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_dict",
    "model_weights",
    "model",
    "net_state_dict",
    "net",
    "netG",
    "netD",
    "network",
    "module",
    "weights",
    "params",
    "params_ema",
    "ema",
    "ema_state_dict",
    "model_ema",
    "gen",
    "generator",
    "discriminator",
)
MOST_LEVELS = 16
MOST_MODULES = 10_000
MOST_NAMES = 100_000
MOST_SEARCHED = 3_000_000


@dataclass
class Found:
    """The weights of a checkpoint, still as records of tensors, and where they were."""

    wrapper: tuple[str, ...] = ()
    tensors: dict[str, TensorRef] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, dict[Any, Any]] = field(default_factory=dict)  # each with its class under "class"
    searched: int = 0  # values

    def add(self, name: str, tensor: TensorRef) -> None:
        """Note a tensor by its name."""
        if name in self.tensors:
            raise ValueError(f"it has two tensors named {name!r:.80}")
        if len(self.tensors) == MOST_NAMES:
            raise ValueError(f"it has more than {MOST_NAMES} tensors")
        self.tensors[name] = tensor

    def search(self, values: int) -> None:
        """Count values that were looked at; a dict that stands in many places is looked at in each."""
        self.searched += values
        if self.searched > MOST_SEARCHED:
            raise ValueError("its dicts unfold to an absurd size")


def unwrap(value: Any) -> Found:
    """Find the weights in what a checkpoint holds.

    Raises:
        ValueError: there are none, or several that could be meant.
    """
    found = Found()
    for _ in range(MOST_LEVELS):
        if is_module(value):
            found.wrapper += ("module",)
            _add_module(found, value, "", 0)
            break
        items = _items(value)
        if items is None:
            what = {TensorRef: "a single tensor", list: "a list", tuple: "a tuple"}.get(type(value))
            what = what or (f"a {value.name}" if isinstance(value, Stub) else f"a {type(value).__name__}")
            raise ValueError(f"it holds {what:.80}; it needs a state_dict, or what has one")
        rest = {key for key, item in items.items() if _is_optimizer(item)}
        holders = {key for key in items if key not in rest and _holds_tensors(found, items[key])}
        wrappers = [key for key in items if key in holders and key in WRAPPERS]
        if len(wrappers) > 1:
            raise ValueError(
                f"it holds several models, {', '.join(wrappers)}; it needs one: save the one you mean alone"
            )
        if not wrappers:
            _add_nested(found, {key: item for key, item in items.items() if key not in rest}, "", 0)
            _note(found, items, holders | {key for key, item in items.items() if isinstance(item, TensorRef)})
            break
        _note(found, items, {wrappers[0]})
        found.wrapper += (wrappers[0],)
        value = items[wrappers[0]]
    else:
        raise ValueError("its weights are wrapped too deep")
    if not found.tensors:
        raise ValueError("it holds no tensors by name; it needs a state_dict, or what has one")
    return found


def _items(value: Any) -> dict[Any, Any] | None:
    return value.entries if isinstance(value, Stub) else value if isinstance(value, dict) else None


def _note(found: Found, items: dict[Any, Any], weights: set[Any]) -> None:
    """Keep what stood beside the weights."""
    for key, item in items.items():
        if key in weights:
            continue
        found.beside.setdefault(
            key if isinstance(key, str) else str(key) if isinstance(key, int | float) else "...", item
        )


def _holds_tensors(found: Found, value: Any) -> bool:
    """Tell whether a dict, or one in it, has tensors, or is a whole module."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if is_module(value):
            return True
        items = _items(value)
        if items is None or id(items) in seen:
            continue
        seen.add(id(items))
        found.search(len(items))
        if any(isinstance(item, TensorRef) for item in items.values()):
            return True
        waiting.extend(items.values())
    return False


def _is_optimizer(value: Any) -> bool:
    """Tell an optimizer's state_dict, or a list of such, by what torch.optim puts there."""
    items = _items(value)
    return items is not None and "param_groups" in items and "state" in items


def _join(prefix: str, key: Any) -> str:
    """Return the name of what stands under a key, once it is known to be fit for a name."""
    if not isinstance(key, str | int) or len(prefix) + len(str(key)) > 1000 or not str(key).isprintable():
        raise ValueError(
            f"it has weights under a key in {prefix!r:.40} that is too long, not printable or no text"
        )
    return f"{prefix}{key}"


def _add_nested(found: Found, items: dict[Any, Any], prefix: str, level: int) -> None:
    """Add the tensors of a dict and of dicts in it, their keys joined by dots."""
    found.search(len(items))
    if level > MOST_LEVELS:
        raise ValueError("its weights are nested too deep")
    for key, item in items.items():
        if isinstance(item, TensorRef):
            found.add(_join(prefix, key), item)
        elif is_module(item):
            _add_module(found, item, _join(prefix, key) + ".", 0)
        elif _holds_tensors(found, item):
            _add_nested(found, _items(item) or {}, _join(prefix, key) + ".", level + 1)
        elif isinstance(item, Stub) and item.name.startswith("torch._utils._rebuild"):
            raise ValueError(
                f"its {_join(prefix, key)!r} is a tensor of a kind that is not read: {item.name:.80}"
            )


def _add_module(found: Found, module: Stub, prefix: str, level: int) -> None:
    """Add a module's tensors under the names of its state_dict, and what the module itself is."""
    if level > 2 * MOST_LEVELS or len(found.modules) >= MOST_MODULES:
        raise ValueError("its modules are nested too deep, or are too many")
    path = prefix.removesuffix(".")
    if path in found.modules:
        raise ValueError(f"it has two modules named {path!r:.80}")
    state = module.state
    found.modules[path] = {"class": module.name} | {
        key: item
        for key, item in state.items()
        if isinstance(key, str) and not key.startswith("_") and not isinstance(item, TensorRef)
    }
    transient, buffers = state.get("_non_persistent_buffers_set"), state.get("_buffers")
    transient = {key for key in transient if isinstance(key, str)} if isinstance(transient, list) else ()
    places = (state["_parameters"], buffers if isinstance(buffers, dict) else {}, state)
    found.search(len(transient) + sum(len(named) for named in places))
    # Attributes too: tensors that the author meant to register, as peepholes made on a GPU.
    for named in places:
        for key, item in named.items():
            if isinstance(item, TensorRef) and key not in transient:
                found.add(_join(prefix, key), item)
    for key, child in state["_modules"].items():
        if is_module(child):
            _add_module(found, child, _join(prefix, key) + ".", level + 1)
