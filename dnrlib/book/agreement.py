"""Whether the user's own runs agree with the published ones."""

from collections.abc import Iterable

import pandas as pd

from ..stats import estimate
from ..study import Archive, Run


def agreement(shown: Iterable[Run]) -> str:
    """One sentence: whether the user's own runs agree with the published ones, of those `shown`.

    On the same processor and torch every weight must agree bit for bit. Elsewhere training is
    chaotic in the last bits, and the paired difference of the final accuracies is judged by its
    95 % interval. The sentence says which of the two was judged.
    """
    pairs, any_own = [], False
    published, own = Archive(own=False), Archive(published=False)
    for each in shown:
        ours = own.find(each.config, each.evaluations)
        theirs = published.find(each.config, each.evaluations)
        any_own |= ours is not None
        if ours is not None and theirs is not None:
            pairs.append((theirs, ours))
    if not pairs:
        if any_own:
            return "These runs are your own; no published ones of their kind compare with them."
        return "None of these runs was trained on this machine; those shown are published."
    # A run of eight generations is the beginning of one of ten: that was trained once.
    begun = {record["key"] for _, ours in pairs for record in ours.trained[:-1]}
    trained = sum(ours.last["key"] not in begun for _, ours in pairs)
    on_disk = f"{len(pairs)} of these runs are on this machine too"
    if trained < len(pairs):
        on_disk += f" ({trained} trainings: the others are the beginning of a longer run)"
    same_place = all(
        a["provenance"][name] == b["provenance"][name]
        for theirs, ours in pairs
        for a, b in zip(theirs.records, ours.records, strict=True)
        for name in ("processor", "torch", "threads")
    )
    if same_place:
        same = sum(
            all(
                # Some published masks do not have all that is measured of a mask now.
                b["result"] | a["result"] == b["result"]
                for a, b in zip(theirs.records, ours.records, strict=True)
            )
            for theirs, ours in pairs
        )
        verdict = "all agree" if same == len(pairs) else f"{len(pairs) - same} DIFFER"
        return (
            f"{on_disk}, made with the same processor and torch as the published ones; compared "
            f"bit for bit, {verdict}."
        )
    final = [[run.last["result"]["test_accuracy"] for run in pair] for pair in pairs]
    seeds = [theirs.config.seed for theirs, _ in pairs]
    differences = pd.Series([ours - theirs for theirs, ours in final])
    result = estimate(differences.groupby(seeds).mean())
    text = (
        f"{on_disk}, made with another processor or torch than the published ones, where the "
        f"last bits of a training cannot agree. Judged by "
        f"the difference of final accuracies (own minus published, mean per seed): "
        f"{result.mean:+.2f} points, n = {result.n} seeds"
    )
    if result.n < 2:
        return text + "; an interval needs at least two."
    agree = result.low <= 0 <= result.high
    return f"{text}, 95 % interval {result.low:+.2f} to {result.high:+.2f}: " + (
        "no difference was found." if agree else "they DIFFER."
    )
