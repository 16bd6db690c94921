"""A training between two epochs: all that has to survive an interruption, and the file that it survives in."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from equispike.errors import FileError, one_line
from equispike.files.checkpoint import read_tensors, write_tensors
from equispike.files.disk import write_bytes
from equispike.zoo.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """Figures of one pass over the training part.

    Fields:
        number: 1, 2, ...
        loss, train_accuracy: means over the images seen, augmented and with dropout, while the weights move.
        validation_accuracy: at its end, in eval mode; None before.
        lr: learning rate at its last step.
        seconds: training and validation; images_per_second: training alone.
    """

    number: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    lr: float
    seconds: float
    images_per_second: float


class TrainingState:
    """Model, optimiser, history and best weights of a training; its random state is torch's own.

    Args:
        model: on its device; its weights move.
        identity: what a file must agree on for a training to go on from it; JSON-able.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, identity: Mapping[str, str | int]) -> None:
        self.model, self.optimizer, self.identity = model, _optimizer(model, recipe), dict(identity)
        self.device = next(model.parameters()).device
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights: dict[str, Tensor] = {}

    def add(self, epoch: Epoch, first: int = 1) -> None:
        """Enter a finished epoch, and keep its weights if none were better since epoch `first`."""
        self.history.append(epoch)
        best = self.best
        if not best or best.number < first or (epoch.validation_accuracy or 0.0) >= (best.validation_accuracy or 0.0):
            self.best = epoch
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Replace the file, atomically, and write the history beside it, a line of JSON per epoch."""
        assert self.best is not None
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"momentum.{i}": value for i, value in enumerate(self._momenta())}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        description = {**self.identity, "history": [asdict(e) for e in self.history], "best": self.best.number}
        # the log first: if the end comes between the two, the epoch is repeated and so is its line
        lines = (json.dumps(asdict(epoch)) + "\n" for epoch in self.history)
        write_bytes(path.with_suffix(".jsonl"), "".join(lines).encode())
        write_tensors(path, "equispike.training", description, tensors)

    def restore(self, path: Path) -> None:
        """Continue from that file. FileError in one line if it is of another training, damaged or foreign."""
        description, tensors = read_tensors(path, "equispike.training")
        for what, value in self.identity.items():
            if description.get(what) != value:
                raise FileError(
                    f"{path}: is of a training with another {what}: {description.get(what)}, not {value}. "
                    "Resume with the same settings, or remove the file"
                )
        try:
            self.best_weights = _part(tensors, "best.")
            for weights in (self.best_weights, _part(tensors, "model.")):
                self.model.load_state_dict(weights)
            self.history = [Epoch(**epoch) for epoch in description["history"]]
            self.best = self.history[description["best"] - 1]
            momenta = _part(tensors, "momentum.")
            for i, parameter in enumerate(self._parameters()):
                # in the parameter's own memory format, as if it had never been away
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momenta[str(i)])
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            reason = one_line(error, 200)
            raise FileError(f"{path}: is not of a training of this model: {reason}. Remove it") from error

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _momenta(self) -> Iterator[Tensor]:
        for parameter in self._parameters():
            buffer: Tensor | None = self.optimizer.state[parameter].get("momentum_buffer")
            yield torch.zeros_like(parameter) if buffer is None else buffer


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Weight decay acts on weights alone: biases, batch norm and gains have one dimension."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
