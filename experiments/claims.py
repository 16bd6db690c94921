"""The papers' claims, judged by stored results: one table for a reader in a hurry."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch

import equispike as es
from experiments.catalogue import CATALOGUE
from experiments.entry import stem

Content = Mapping[str, Any]
Verdict = tuple[str, bool | None]
"""Our figure, and whether it bears the claim out; None: so few steps do not tell."""
VERDICTS = {True: "holds", False: "does not hold", None: "open"}


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how a result is judged.

    Fields:
        entries: beginnings of the names of the entries that bear on it.
        words, paper: the claim, and the paper's figure.
        judge: from the result's rows by label, and the result, to the verdict; KeyError where it does not apply.
        row: label, up to its colon, of the row whose network the claim is about; "" for the result's first network.
    """

    entries: tuple[str, ...]
    words: str
    paper: str
    judge: Callable[[Mapping[str, Any], Content], Verdict]
    row: str = ""


def _last(row: Any) -> float:
    return 100 * row["accuracy"][-1]


def _trained(row: Any) -> float:
    return 100 * row["trained_accuracy"]


def _at(row: Any, t: int) -> float:
    if len(row["accuracy"]) < t:
        raise KeyError(t)
    return 100 * row["accuracy"][t - 1]


def _no_loss(rows: Mapping[str, Any], _: Content) -> Verdict:
    full, low, trained = _last(rows["RMP, scale 1.0"]), _last(rows["RMP, scale 0.6"]), _trained(rows["RMP, scale 0.6"])
    return f"{low:.1f} % at 0.6, {full:.1f} % at 1.0, trained {trained:.1f} %", low > max(full, trained - 1) - 1


def _collapse(rows: Mapping[str, Any], _: Content) -> Verdict:
    low = rows["RMP, scale 0.2"]
    return f"{_last(low):.1f} % of {_trained(low):.1f} %", _last(low) < _trained(low) - 5


def _sparse(rows: Mapping[str, Any], _: Content) -> Verdict:
    rate = rows["RMP, scale 0.6"]["spike_rate"][-1]
    return f"{rate:.1f} %", rate < 2.5


def _at_half(soft: Mapping[str, Any], hard: Mapping[str, Any], least: float) -> Verdict:
    """The least factor by which soft reset is sooner at half the trained accuracy, which hard reset never has."""
    half, told = _trained(hard) / 200, f"after all steps {_last(soft):.1f} %, hard reset {_last(hard):.1f} %"
    steps, others = (es.latency(torch.tensor(row["accuracy"]), half) for row in (soft, hard))
    if steps is None or others is not None:
        return told, None
    times = hard["timesteps"] / steps
    return f"more than {times:.1f} times, at {100 * half:.1f} %; {told}", True if times >= least else None


def _sooner(scale: str) -> Callable[[Mapping[str, Any], Content], Verdict]:
    """By as many times as the paper has for that network, or twice where it has a range."""

    def judge(rows: Mapping[str, Any], content: Content) -> Verdict:
        hard, soft = rows["IF, hard reset"], rows[f"RMP, scale {scale}"]
        line = {line["label"]: line for line in content["lines"]}[f"RMP, scale {scale}"]
        ours, least = line["ours"], line["published"].get("times sooner", 2)
        if ours["times sooner"] is None:
            return _at_half(soft, hard, least)
        return f"{ours['times sooner']:.1f} times, at {ours['level']}", ours["times sooner"] >= least

    return judge


def _loss(label: str, most: float) -> Callable[[Mapping[str, Any], Content], Verdict]:
    def judge(rows: Mapping[str, Any], _: Content) -> Verdict:
        row = rows[label]
        loss = _trained(row) - _last(row)
        return f"{loss:.2f} points, of {_trained(row):.1f} %", loss <= most

    return judge


def _unity(rows: Mapping[str, Any], _: Content) -> Verdict:
    unity, plain, weighted = (
        _last(rows[f"SPIKE-NORM, {name}"])
        for name in ("all constraints", "unit spikes added as they are", "spikes weighted")
    )
    words = f"unity {unity:.1f} %, measured {plain:.1f} % with unit spikes added as they are, {weighted:.1f} weighted"
    return words, unity > max(plain, weighted) + 1


def _constraint(words: str, before: str, after: str) -> Claim:
    def judge(rows: Mapping[str, Any], _: Content) -> Verdict:
        losses = {label.partition(":")[0]: _trained(row) - _last(row) for label, row in rows.items()}
        return f"{losses[after]:.2f} points lost, {losses[before]:.2f} without", losses[after] < losses[before]

    return Claim(("sengupta-figure-3",), f"Sengupta: {words}", "curves", judge, row=after)


def _decay(_: Mapping[str, Any], content: Content) -> Verdict:
    found = content["numbers"]
    later = [found["thresholds"][name] for name in found["junctions"]]
    return f"junctions {later[0]:.2f} ... {later[-1]:.2f}, later half {found['later junctions']:.2f}", later[-1] < 1.3


def _thirds(values: Iterable[float]) -> tuple[float, float]:
    """Means over the first and over the last third of the layers, output neurons left out."""
    *layers, _ = values
    third = (len(layers) + 1) // 3
    return sum(layers[:third]) / third, sum(layers[-third:]) / third


def _sparser(_: Mapping[str, Any], content: Content) -> Verdict:
    columns = ("spikes per neuron", "with soft reset", "asked for")
    hard, soft, asked = (_thirds(line["ours"][name] for line in content["lines"]) for name in columns)
    words = f"first third {hard[0]:.1f}, last third {hard[1]:.1f} spikes per neuron; soft reset {soft[0]:.1f} and"
    return f"{words} {soft[1]:.1f}, the trained network asks for {asked[0]:.1f} and {asked[1]:.1f}", hard[1] < hard[0]


def _ratio(most: float) -> Callable[[Mapping[str, Any], Content], Verdict]:
    def judge(_: Mapping[str, Any], content: Content) -> Verdict:
        ratio = content["lines"][0]["ours"]["additions per MAC"]
        return f"{ratio:.2f}", ratio <= 2 * most

    return judge


def _fast(rows: Mapping[str, Any], _: Content) -> Verdict:
    ours, robust, most = (_at(rows[label], 32) for label in ("RNL + RIL", "Robust Norm", "Max Norm"))
    robust_too, most_too = (_at(rows[f"{name} Norm, Rate Norm network"], 32) for name in ("Robust", "Max"))
    variant = "RNL + RIL, "
    others = [
        f"{_at(row, 32):.1f} with {name[len(variant) :]}" for name, row in rows.items() if name.startswith(variant)
    ]
    variants = f" ({', '.join(others)})" if others else ""
    words = f"{ours:.1f} %{variants} against {robust:.1f} and {most:.1f} %"
    controls = f"on the Rate Norm network itself {robust_too:.1f} and {most_too:.1f} %"
    return f"{words}; {controls}", ours > max(robust, most) + 1


def _energy(_: Mapping[str, Any], content: Content) -> Verdict:
    last = {line["label"].rpartition(":")[0]: line["ours"] for line in content["lines"]}
    told: list[str] = []
    for label, ours in last.items():
        words = (
            f"{ours['energy']:.2f} of it, {ours['times sooner']:.1f} times sooner" if ours["energy"] else "not reached"
        )
        told.append(words if label == "RNL + RIL" else f"{label}: {words}")
    energy = last["RNL + RIL"]["energy"]
    return "; ".join(told), None if energy is None else energy < 1


def _bound(_: Mapping[str, Any], content: Content) -> Verdict:
    share = content["numbers"]["first layer within"]
    return f"first layer: {share:.0f} % of the images, in every step", share == 100


def _formula(_: Mapping[str, Any], content: Content) -> Verdict:
    unlike = sum(line["ours"]["unlike the formula"] for line in content["lines"])
    return f"{unlike} of {sum(line['ours']['points'] for line in content['lines']):,} points differ", unlike == 0


SCALES = ("han-figure-5", "han-figure-6", "han-figure-7", "han-figure-9")
CLAIMS = (
    Claim(("han-figures-3d-4c",), "Han: rates follow equations 3 and 4", "curves", _formula),
    Claim(SCALES, "Han: thresholds at 0.6 lose nothing", "91.36 % both", _no_loss),
    Claim(SCALES, "Han: at 0.2 accuracy drops", "in words", _collapse),
    Claim(SCALES, "Han: 0.6 takes few spikes", "about 2 % of neurons", _sparse),
    Claim(SCALES, "Han: soft reset is sooner than hard", "2 to 8 times", _sooner("1.0")),
    Claim(SCALES, "Han: lowered thresholds are sooner still", "8 times (2 for VGG-16, CIFAR-100)", _sooner("0.6")),
    Claim(("sengupta-table-1",), "Sengupta: VGG-16 loses little", "0.15 points", _loss("SPIKE-NORM", 0.5)),
    Claim(("sengupta-table-3",), "Sengupta: ResNet-20 converts", "1.64", _loss("SPIKE-NORM, all constraints", 2)),
    Claim(
        *(("sengupta-table-3",), "Sengupta: front thresholds from activations do as well", "1.97 points"),
        _loss("all constraints, front from activations", 2.3),
    ),
    Claim(("sengupta-table-3",), "Sengupta: thresholds of one in the blocks lose less", "a curve", _unity),
    _constraint("ReLUs where paths meet lose less (constraint 1)", "basic", "constraint 1"),
    _constraint("equal thresholds in the blocks lose less (constraint 2)", "constraint 1", "constraints 1 and 2"),
    _constraint("two layers in front lose less (constraint 3)", "constraints 1 and 2", "constraints 1 to 3"),
    Claim(("sengupta-figure-2c",), "Sengupta: the largest input decays to about one", "about 1", _decay),
    Claim(("sengupta-figure-5",), "Sengupta: spikes become fewer with depth", "a figure (ImageNet)", _sparser),
    Claim(("sengupta-operations-vgg",), "Sengupta: additions per MAC", "1.975 (ImageNet, T = 500)", _ratio(1.975)),
    Claim(("sengupta-operations-resnet",), "Sengupta: additions per MAC", "2.4 (ImageNet, T = 2,000)", _ratio(2.4)),
    Claim(("ding-table-1",), "Ding: learnt thresholds lose little", "low or negative", _loss("RNL", 0.5)),
    Claim(("ding-table-2",), "Ding: RNL + RIL after 32 steps", "85.40 % against 43.03 and 10.00", _fast),
    Claim(("ding-figure-7",), "Ding: less energy at equal accuracy", "0.265 of it, 8.6 times sooner", _energy),
    Claim(("ding-theorem-2",), "Ding: K < 2 Omega / t", "a theorem", _bound),
)


class Judged(NamedTuple):
    """A claim, the paper's figure, ours, whether it holds; on which images, and on which network in short."""

    claim: str
    paper: str
    ours: str
    verdict: str
    where: str
    network: str


def judged(results: Iterable[Content]) -> list[Judged]:
    """Every claim on every result that bears on it, in the order of the claims."""
    held = list(results)
    found: list[Judged] = []
    for claim in CLAIMS:
        for content in (content for content in held if content["name"].startswith(claim.entries)):
            try:
                ours, holds = claim.judge(content["numbers"].get("rows", {}), content)
            except KeyError:
                continue
            where = f"{content['note']}, T = {content['conditions']['timesteps']:,}"
            found.append(Judged(claim.words, claim.paper, ours, VERDICTS[holds], where, _network(claim, content)))
    return found


def in_short(found: Sequence[Judged]) -> list[list[str]]:
    """A row for each claim: its words, and the networks by verdict."""
    rows: list[list[str]] = []
    for claim in dict.fromkeys(one.claim for one in found):
        by_verdict = [[one for one in found if (one.claim, one.verdict) == (claim, v)] for v in VERDICTS.values()]
        rows.append([claim, *(", ".join(dict.fromkeys(one.network for one in some)) for some in by_verdict)])
    return rows


def _network(claim: Claim, content: Content) -> str:
    """The network that a claim is about, and its input where that is not the paper's."""
    network, *_ = named_networks(content["command"]) or CATALOGUE[content["name"]].networks or ("one neuron",)
    if claim.row:
        rows = content["numbers"]["rows"]
        network = next(row["network"] for label, row in rows.items() if label.partition(":")[0] == claim.row)
    return network + (" (constant input)" if "--coder constant" in content["command"] else "")


def named_networks(command: str) -> tuple[str, ...]:
    """Names of the networks that are not the entry's own."""
    words = command.split()
    return tuple(stem(following) for word, following in pairwise(words) if word == "--network")
