"""Duplicates of a sample -> the least dot product of two sketches at which nearly no duplicate is lost."""

import math

import numpy as np
import torch

from image_curation.duplicates.edges import Rows
from image_curation.duplicates.margin import FEW, LITTLE_KNOWN, Sampled, rows_to_show, shown
from image_curation.duplicates.sketches import RADIUS, Sketcher, dots
from image_curation.duplicates.vectors import Float64s

_OTHERS = 10_000  # pairs that show how far sketches of so different vectors are from each other
_ROUNDED = RADIUS + 32  # what rounding alone may take from a dot product


def fitted_cut(sketcher: Sketcher, sampled: Sampled, threshold: float, share: float) -> int:
    """The cut that a `share` of the duplicates reach.

    Each sampled row with duplicates counts once. As many as show the share with 90 % certainty, 1,641 for 0.999, give
    it. Fewer give the most that any of their duplicates needs and something more, the fewer the more: a quarter where
    there are a hundred, a ninth where 1,641. Where there are less than a hundred it is no less than pairs at the
    threshold would need that differ as any two vectors of the block do, and a quarter more. Equal sketches say nothing.
    """
    x, y = (_sketches(sketcher, sampled, rows) for rows in (sampled.a, sampled.b))
    differ = (x != y).any(1)
    need, a = _need(x[differ], y[differ]), sampled.a[differ.cpu().numpy()]
    known, enough = len(np.unique(a)), rows_to_show(share)
    if known >= enough:
        reach = shown(need, a, known, share)
    else:
        reach = max((need * _more(known, enough)).max(initial=0), _need_of_any(sketcher, sampled, threshold, known))
    return math.floor(RADIUS * RADIUS - max(reach, _ROUNDED))


def _more(known: int, enough: float) -> float:
    """1.25 times what is needed where a hundred rows are known, as much where there are enough."""
    missing = math.log(enough / max(FEW, known)) / math.log(enough / FEW) if enough > FEW else 1.0
    return 1 + (LITTLE_KNOWN - 1) * missing


def _need_of_any(sketcher: Sketcher, sampled: Sampled, threshold: float, known: int) -> float:
    """What pairs at the threshold need whose difference is any two vectors' one, made smaller."""
    if known >= FEW:
        return 0.0
    order = np.random.default_rng(0).permutation(len(sampled.block))[:_OTHERS]
    x, y = order[1:], order[:-1]
    values = [sampled.block.take(rows).values.float() for rows in (x, y)]
    apart = ((values[0] - values[1]) ** 2).sum(1).double().cpu().numpy() / 2  # 1 less the cosine
    need = _need(_sketches(sketcher, sampled, x), _sketches(sketcher, sampled, y))
    different = apart > 1 - threshold
    return LITTLE_KNOWN * float((need[different] / apart[different]).max(initial=0)) * (1 - threshold)


def _sketches(sketcher: Sketcher, sampled: Sampled, rows: Rows) -> torch.Tensor:
    used, place = np.unique(rows, return_inverse=True)
    sketches = sketcher.sketch(sampled.block.take(used).values)
    return sketches[torch.from_numpy(place).to(sketches.device)]


def _need(x: torch.Tensor, y: torch.Tensor) -> Float64s:
    """How far below that of equal sketches a cut has to be for each of these pairs to reach it."""
    need: Float64s = RADIUS * RADIUS - dots(x, y).double().cpu().numpy()
    return need
