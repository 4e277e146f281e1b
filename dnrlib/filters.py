"""RePr (Prakash et al., 2019): filters that overlap are dropped for a while, and come back
orthogonal to what they were and to all others."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import stored
from .masks import CONVOLUTIONS, Mask, fan_in, top
from .train import Step


@stored("RePr")
class RePr:
    """Three times in a training the `share` of all filters of convolutions that overlap most is
    dropped: held at zero for a twentieth of the epochs (S2), after a quarter without them (S1). KE
    trains for 200 epochs with S1 = 50, S2 = 10 and 30 %."""

    share: float = 0.3

    def epochs(self, total: int) -> dict[int, bool]:
        """After which of `total` epochs filters are dropped (True) or come back (False); none
        where there are too few epochs for both."""
        found = {}
        for share in (0.25, 0.55, 0.85):
            dropped, back = round(share * total), round((share + 0.05) * total)
            if 0 < dropped < back < total:
                found |= {dropped: True, back: False}
        return found


def convolutions(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all convolutions, by state-dict name."""
    modules = model.named_modules()
    return {f"{name}.weight": of.weight for name, of in modules if isinstance(of, CONVOLUTIONS)}


def overlap(weight: Tensor) -> Tensor:
    """How much each filter (row) of a weight overlaps with the others of its layer: the mean of
    |W W^T - I| over a row, with filters of length 1; float32 on the CPU, n."""
    unit = F.normalize(weight.detach().flatten(1).float().cpu())
    return (unit @ unit.T - torch.eye(len(unit))).abs().mean(1)


def orthogonal(rows: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Random directions that are orthogonal to all `rows` (n x d) and to each other: `count` of
    them, or d - n where there are fewer; float64, of length 1."""
    most = max(0, min(count, rows.shape[1] - len(rows)))
    random = torch.randn((most, rows.shape[1]), generator=draw, dtype=torch.float64)
    columns, _ = torch.linalg.qr(torch.cat([rows.double(), random]).T)
    return columns.T[len(rows) :]


class Dropping:
    """RePr on its way through one training of `epochs` epochs."""

    def __init__(self, how: RePr, model: nn.Module, epochs: int, draw: torch.Generator) -> None:
        self.how, self.draw, self.due = how, draw, how.epochs(epochs)
        weights = convolutions(model)
        self.whole: Mask = {name: torch.ones_like(w, dtype=bool) for name, w in weights.items()}
        """The masks that training begins with, with nothing held at zero; on the CPU it is these
        that `after` changes."""
        self.before: dict[str, Tensor] = {}
        """The weights when filters were dropped last, on the CPU."""

    @torch.no_grad()
    def after(self, epoch: int, step: Step) -> None:
        """Drops filters, or brings them back, if that is due after an epoch of a training step that
        was begun with the masks `whole`."""
        held, due = step.held, self.due.get(epoch)
        if due is None:
            return
        if due:
            self.before = {name: weight.cpu().clone() for name, (weight, _) in held.items()}
            scores = {name: overlap(weight) for name, weight in self.before.items()}
            for name, stay in top(scores, 1 - self.how.share, least=True).items():
                weight, kept = held[name]
                kept.copy_(stay.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape))
                weight *= kept
            return
        for name, (weight, kept) in held.items():
            stay = kept.flatten(1)[:, 0].cpu()
            weight[~stay.to(weight.device)] = self.reborn(name, weight.cpu(), stay).to(weight)
            momentum = step.optimiser.state[weight].get("momentum_buffer")
            if momentum is not None:
                # It went on growing while the filters were held.
                momentum *= kept
            kept.fill_(True)

    def reborn(self, name: str, weight: Tensor, stay: Tensor) -> Tensor:
        """New values for the filters that do not `stay` (n): orthogonal to what they were and to
        those that stayed, and where there is no such direction uniform as in `reinit.fresh`; all as
        long as these are on average."""
        old, now = self.before[name].flatten(1)[~stay], weight.flatten(1)[stay]
        bound = 1 / math.sqrt(fan_in(weight))
        new = torch.empty(old.shape).uniform_(-bound, bound, generator=self.draw)
        found = orthogonal(torch.cat([old, now]), len(old), self.draw)
        new[: len(found)] = (found / math.sqrt(3)).float()
        return new.view(-1, *weight.shape[1:])
