"""The papers' algorithms as plain NumPy loops: literal, slow, and sharing no code with the package.

Operations read the fields of a network's nodes and nothing else of it; all arithmetic is float64. Spikes of the
papers' own algorithms have size one, those at the input +1 or -1.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stage = Callable[[Array], Array]


def array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().double().numpy(), dtype=np.float64)


# Neurons


def if_neurons(
    currents: Sequence[Array] | Array,
    threshold: Any,
    reset: str,
    v: Any = 0.0,
    amplitude: Any = 1.0,
    signed: bool = False,
    sent: Any = 0,
) -> tuple[Array, Array]:
    """Integrate-and-fire neurons over T steps: spikes (T, B, *features) of size 0 or amplitude, and the potential.

    Signed neurons, which have ``sent`` so many more positive than negative spikes, take one back below zero.
    """
    v = v + np.zeros_like(currents[0])
    trains: list[Array] = []
    for current in currents:
        v = v + current
        fires = v >= threshold
        takes_back = (v < 0) & (sent > 0) if signed else np.zeros_like(fires)
        if reset == "subtract":
            v = np.where(fires, v - threshold, v)
        elif reset == "zero":
            v = np.where(fires, 0.0, v)
        else:
            raise AssertionError(reset)
        v = np.where(takes_back, v + threshold, v)
        sent = sent + fires.astype(int) - takes_back.astype(int)
        trains.append((fires.astype(int) - takes_back.astype(int)) * amplitude)
    return np.stack(trains), v


# Linear operations, position by position


def conv(op: Any, x: Array) -> Array:
    weight, rank = array(op.weight), op.weight.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in op.padding)])
    out, per_group = weight.shape[:2]
    reach = [d * (k - 1) + 1 for d, k in zip(op.dilation, weight.shape[2:])]
    space = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, op.stride)]
    y = np.zeros((len(x), out, *space))
    for position in np.ndindex(*space):
        window = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(position, op.stride, reach, op.dilation))
        patch = x[(slice(None), slice(None), *window)]
        for group in range(op.groups):
            rows = slice(group * out // op.groups, (group + 1) * out // op.groups)
            columns = patch[:, group * per_group : (group + 1) * per_group]
            y[(slice(None), rows, *position)] = np.tensordot(
                columns, weight[rows], axes=(range(1, rank + 2), range(1, rank + 2))
            )
    return y if op.bias is None else y + array(op.bias).reshape(-1, *(1,) * rank)


def avg_pool(op: Any, x: Array) -> Array:
    spans: list[list[tuple[int, int, int]]] = []  # per dimension and output position: start, stop, elements counted
    for n, k, s, p in zip(x.shape[2:], op.kernel, op.stride, op.padding):
        steps = (n + 2 * p - k) / s
        count = (math.ceil(steps) if op.ceil_mode else math.floor(steps)) + 1
        if op.ceil_mode and (count - 1) * s >= n + p:  # a window that would start in the right padding
            count -= 1
        spans.append([])
        for i in range(count):
            start, stop = i * s - p, min(i * s - p + k, n + p)
            inside = max(start, 0), min(stop, n)
            spans[-1].append((*inside, stop - start if op.count_include_pad else inside[1] - inside[0]))
    y = np.zeros((*x.shape[:2], *map(len, spans)))
    for position in np.ndindex(*map(len, spans)):
        chosen = [span[i] for span, i in zip(spans, position)]
        window = x[(slice(None), slice(None), *(slice(start, stop) for start, stop, _ in chosen))]
        total = window.reshape(*x.shape[:2], -1).sum(-1)
        y[(slice(None), slice(None), *position)] = total / math.prod(n for *_, n in chosen)
    return y


def winner_pool(op: Any, x: Array) -> Array:
    """Growth of the largest sum in each window, step by step: x (T, C, H, W), no padding or dilation."""
    sums = np.zeros(x.shape[1:])
    largest: Array | None = None
    passed: list[Array] = []
    for step in x:
        rows, columns = ((n - k) // s + 1 for n, k, s in zip(sums.shape[1:], op.kernel, op.stride, strict=True))
        before = np.zeros((len(sums), rows, columns)) if largest is None else largest
        sums = sums + step
        largest = np.zeros_like(before)
        for channel in range(len(sums)):
            for row in range(rows):
                for column in range(columns):
                    top, left = row * op.stride[0], column * op.stride[1]
                    window = sums[channel, top : top + op.kernel[0], left : left + op.kernel[1]]
                    largest[channel, row, column] = window.max()
        passed.append(largest - before)
    return np.stack(passed)


def linear(op: Any, x: Array) -> Array:
    y = x @ array(op.weight).T
    return y if op.bias is None else y + array(op.bias)


def pad(op: Any, x: Array) -> Array:
    if any(op.between):
        spread = np.zeros([len(x), *((n - 1) * (zeros + 1) + 1 for n, zeros in zip(x.shape[1:], op.between))])
        for index in np.ndindex(x.shape):
            spread[(index[0], *(i * (zeros + 1) for i, zeros in zip(index[1:], op.between)))] = x[index]
        x = spread
    before, after = (0, *op.before), (0, *op.after)
    y = np.zeros([n + b + a for n, b, a in zip(x.shape, before, after)])
    for index in np.ndindex(*x.shape):
        target = tuple(i + b for i, b in zip(index, before))
        if all(0 <= i < n for i, n in zip(target, y.shape)):
            y[target] = x[index]
    return y


def weighted(op: Any, inputs: Sequence[Array]) -> list[Array]:
    return [c * x for c, x in zip(op.coefficients, inputs, strict=True)]


def apply(op: Any, *inputs: Array) -> Array:
    """One linear operation."""
    match type(op).__name__:
        case "Conv":
            return conv(op, *inputs)
        case "Linear":
            return linear(op, *inputs)
        case "AvgPool":
            return avg_pool(op, *inputs)
        case "Flatten":
            return inputs[0].reshape(len(inputs[0]), -1)
        case "Pad":
            return pad(op, *inputs)
        case "Add":
            return np.add.reduce(weighted(op, inputs))
        case "Concat":
            return np.concatenate(weighted(op, inputs), axis=1)
        case "Readout":
            return inputs[0] * op.scale
        case name:
            raise AssertionError(name)


# Networks


def trained(network: Any, images: Array) -> dict[str, Array]:
    """Every node's value in the trained network: neurons are ReLUs, clipped where they have a ceiling."""
    values: dict[str, Array] = {}
    for node in network.nodes:
        inputs = [values[name] for name in node.inputs]
        match type(node.op).__name__:
            case "Input":
                values[node.name] = images
            case "Neuron":
                values[node.name] = np.clip(inputs[0], 0.0, node.op.ceiling)
            case _:
                values[node.name] = apply(node.op, *inputs)
    return values


def spiking(network: Any, currents: Array, v: dict[str, Array]) -> tuple[dict[str, Array], Array]:
    """A network with thresholds, step by step.

    Args:
        currents: what the input hands on in each step, (T, B, *features).
        v: potential of each neuron layer before the first step, in units of the current.
    Returns:
        each neuron layer's train in {-1, 0, 1}, (T, B, *features), and the cumulative readout, (T, B, classes).
    """
    v = dict(v)
    trains: dict[str, list[Array]] = {name: [] for name in v}
    scores: list[Array] = []
    sent: dict[str, Any] = dict.fromkeys(v, 0)
    for t, current in enumerate(currents):
        values: dict[str, Array] = {}
        for node in network.nodes:
            op, inputs = node.op, [values[name] for name in node.inputs]
            match type(op).__name__:
                case "Input":
                    values[node.name] = current
                case "Neuron":
                    theta = array(op.threshold)
                    if op.drive is not None:
                        row = array(op.drive)[min(t, len(op.drive) - 1)]
                        inputs = [inputs[0] + row.reshape(-1, *(1,) * (inputs[0].ndim - 2))]
                    signed = op.spikes == "signed"
                    spikes, v[node.name] = if_neurons(
                        inputs, theta, op.reset, v[node.name], signed=signed, sent=sent[node.name]
                    )
                    sent[node.name] = sent[node.name] + spikes[0]
                    trains[node.name].append(spikes[0])
                    values[node.name] = spikes[0] * array(op.amplitude)
                case _:
                    values[node.name] = apply(op, *inputs)
        scores.append(values[network.nodes[-1].name])
    return {name: np.stack(train) for name, train in trains.items()}, mixed(network, np.cumsum(scores, axis=0))


def mixed(network: Any, totals: Array) -> Array:
    """Scores, (T, B, classes), as the readout makes them of sums: M S(t) + t c, without those of the first steps."""
    op = network.nodes[-1].op
    if op.mix is not None:
        mix, shift = array(op.mix), array(op.shift)
        totals = np.stack([np.stack([mix @ s for s in step]) + t * shift for t, step in enumerate(totals, start=1)])
    scores = totals.copy()
    for t in range(1, len(totals) + 1):
        early = int(op.delay * t)
        if early:
            scores[t - 1] = (totals[t - 1] - totals[early - 1]) * (t / (t - early))
    return scores


def stages(network: Any) -> list[list[Any]]:
    """A chain of layers, cut behind each neuron layer: the linear operations in front of each, and of the readout."""
    cut: list[list[Any]] = [[]]
    for before, node in zip(network.nodes, network.nodes[1:]):
        assert node.inputs == (before.name,), "not a chain"
        if type(node.op).__name__ == "Neuron":
            cut.append([])
        elif type(node.op).__name__ != "Readout":
            cut[-1].append(node.op)
    return cut


def current(stage: Sequence[Any], x: Array) -> Array:
    for op in stage:
        x = apply(op, x)
    return x


# Thresholds


def spike_norm(layers: Sequence[Sequence[Any]], spikes: Array, reset: str) -> tuple[list[float], list[Array]]:
    """Sengupta et al. (2019), algorithm 1, in its threshold-balancing form.

    Args:
        layers: linear operations in front of each neuron layer; weights untouched.
        spikes: input spike train, (T, B, *features), in {-1, 0, 1}.
    Returns:
        v_th,norm of each layer, and each layer's unit spikes.
    """
    v_th: list[float] = []
    trains: list[Array] = []
    for layer in layers:
        v_th_norm = 0.0
        received: list[Array] = []
        for step in spikes:
            received.append(current(layer, step))
            v_th_norm = max(v_th_norm, received[-1].max())
        spikes, _ = if_neurons(received, v_th_norm, reset)
        v_th.append(float(v_th_norm))
        trains.append(spikes)
    return v_th, trains


def rmp(
    layers: Sequence[Sequence[Any]], spikes: Array, alpha: float, after: bool = False
) -> tuple[list[float], list[Array]]:
    """Han et al. (2020), section 4.1, soft reset: thresholds of alpha times V_in^max, and each layer's unit spikes.

    Args:
        after: all V_in are measured with alpha = 1 and scaled then; else a layer's threshold is scaled and frozen
            before the next layer is measured.
    """
    v_th: list[float] = []
    measured_behind = scaled = spikes
    trains: list[Array] = []
    for layer in layers:
        received = np.stack([current(layer, step) for step in (measured_behind if after else scaled)])
        v_in = float(received.max())
        v_th.append(alpha * v_in)
        measured_behind, _ = if_neurons(received, v_in, "subtract")
        scaled, _ = if_neurons([current(layer, step) for step in scaled], v_th[-1], "subtract")
        trains.append(scaled)
    return v_th, trains


def data_norm_factors(network: Any, images: Array, percentile: float) -> list[float]:
    r"""Rueckauer et al. (2017), section 2.2.2: weights are multiplied by :math:`\lambda_{l-1} / \lambda_l`.

    :math:`\lambda_l` is a percentile of layer l's activations (Diehl et al., 2015: the maximum), :math:`\lambda_0` the
    largest input. Returns :math:`\lambda_0, \lambda_1, \ldots`
    """
    values = trained(network, images)
    layers = [values[node.name] for node in network.nodes if type(node.op).__name__ == "Neuron"]
    return [float(np.abs(images).max()), *(nearest_rank(layer, percentile) for layer in layers)]


def model_norm_factors(weights: Sequence[Array]) -> list[float]:
    """Diehl et al. (2015), algorithm 1: weights are divided by the largest sum of a neuron's positive weights.

    Fully connected layers without biases, inputs and rates in [0, 1].
    """
    factors: list[float] = []
    for layer in weights:
        max_pos_input = 0.0
        for neuron in layer:
            input_sum = 0.0
            for input_weight in neuron:
                input_sum += max(0.0, input_weight)
            max_pos_input = max(max_pos_input, input_sum)
        factors.append(max_pos_input)
    return factors


def nearest_rank(values: Array, percentile: float) -> float:
    """The smallest positive value with at least this share of all positive values at or below it; 0 without any."""
    ordered = sorted(value for value in values.flatten().tolist() if value > 0)
    if not ordered:
        return 0.0
    rank = math.ceil(Fraction(str(percentile)) * len(ordered) / 100)
    return float(ordered[rank - 1])


def spike_norm_graph(
    network: Any,
    currents: Array,
    reset: str,
    unity: Collection[str] = (),
    *,
    ahead: Mapping[str, float] | None = None,
    alpha: float = 1.0,
    average: bool = False,
    plain: bool = False,
) -> dict[str, float]:
    """SPIKE-NORM and RMP where layers branch and have biases: spikes have the size of their own threshold, so sums need
    no common unit.

    Args:
        currents: what the input hands on in each step, (T, B, *features), in units of the trained activations.
        unity: layers whose threshold is the size of the spikes that they receive.
        ahead: thresholds of layers that are not measured.
        alpha: factor on every other threshold, before the next layer is measured.
        average: measure the mean of the inputs above zero in place of the maximum.
        plain: spikes that meet in a sum all have the size of the first input's.
    """
    v_th: dict[str, float] = {}
    values: dict[str, Sequence[Array]] = {}
    size: dict[str, float] = {}
    for node in network.nodes:
        if node.inputs:
            size[node.name] = size[node.inputs[0]]
        match type(node.op).__name__:
            case "Input":
                values[node.name], size[node.name] = currents, node.op.amplitude
            case "Neuron":
                received = values[node.inputs[0]]
                everything = np.stack(received)
                if node.name in unity:
                    v_in = size[node.name]
                elif ahead is not None and node.name in ahead:
                    v_in = ahead[node.name]
                elif average:
                    v_in = exact_mean(everything[everything > 0])
                else:
                    v_in = float(everything.max())
                if v_in <= 0:  # nothing drives the layer: one spike of those that reach it
                    v_in = size[node.name]
                v_th[node.name] = v_in if node.name in unity else alpha * v_in
                if node.op.ceiling is not None:
                    v_th[node.name] = min(v_th[node.name], node.op.ceiling)
                size[node.name] = v_th[node.name]
                values[node.name], _ = if_neurons(received, v_th[node.name], reset, amplitude=v_th[node.name])
            case "Add" | "Concat" if plain:
                same = [[x * (size[node.inputs[0]] / size[name]) for x in values[name]] for name in node.inputs]
                values[node.name] = [apply(node.op, *step) for step in zip(*same)]
            case _:
                values[node.name] = [apply(node.op, *step) for step in zip(*(values[name] for name in node.inputs))]
    return v_th


def exact_mean(values: Array) -> float:
    return float(sum(map(Fraction, values.tolist())) / len(values)) if len(values) else 0.0


def spike_norm_unity(
    network: Any, spikes: Array, reset: str, unity: Collection[str]
) -> tuple[dict[str, float], dict[str, Array]]:
    """Sengupta et al. (2019), section 6.2: algorithm 1, but thresholds of 1 in the residual part; weights untouched.

    Args:
        spikes: input spike train, (T, B, *features), in {-1, 0, 1}.
        unity: the layers of the residual part.
    Returns:
        v_th,norm of each layer, and each layer's unit spikes; the network has no biases.
    """
    v_th: dict[str, float] = {}
    trains: dict[str, Array] = {}
    values: dict[str, Sequence[Array]] = {}
    for node in network.nodes:
        match type(node.op).__name__:
            case "Input":
                values[node.name] = spikes
            case "Neuron":
                received = values[node.inputs[0]]
                v_th[node.name] = 1.0 if node.name in unity else max(float(step.max()) for step in received)
                values[node.name], _ = if_neurons(received, v_th[node.name], reset)
                trains[node.name] = np.asarray(values[node.name])
            case _:
                values[node.name] = [apply(node.op, *step) for step in zip(*(values[name] for name in node.inputs))]
    return v_th, trains


def residual_part(network: Any) -> set[str]:
    """The neuron layers of residual blocks and those that read their sums, by listing every path through the network.

    A block reaches from its sum back to the last node that is on all paths to that sum.
    """
    paths: dict[str, list[list[str]]] = {}
    part: set[str] = set()
    for node in network.nodes:
        before = [path for name in node.inputs for path in paths[name]]
        paths[node.name] = [[*path, node.name] for path in before] or [[node.name]]
        if type(node.op).__name__ == "Add" and len(set(node.inputs)) > 1:
            fork = [name for name in before[0] if all(name in path for path in before)][-1]
            part |= {name for path in before for name in path[path.index(fork) + 1 :]}
            part |= {reader.name for reader in network.nodes if node.name in reader.inputs}
    return {node.name for node in network.nodes if type(node.op).__name__ == "Neuron" and node.name in part}


# Rate Norm (Ding et al., 2021)

Dense = tuple[Array, Array]


def rate_norm_stage_1(layers: Sequence[Dense], running_max: list[float], momentum: float, x: Array) -> Array:
    """Algorithm 1, one batch of the first stage (p = 1): scores; ``running_max`` moves along.

    Args:
        layers: weight (out, in) and bias of each layer; the last one has no Rate Norm.
    """
    for number, (weight, bias) in enumerate(layers[:-1]):
        x = x @ weight.T + bias
        running_max[number] = (1 - momentum) * running_max[number] + momentum * x.max()
        threshold = 1.0 * running_max[number]
        x = np.clip(x, 0, threshold) / threshold
    weight, bias = layers[-1]
    return x @ weight.T + bias


def rate_norm_stage_2(
    layers: Sequence[Dense], running_max: list[float], momentum: float, p: float, x: Array
) -> list[Array]:
    """Algorithm 1, lines 26 to 30, one batch: the rates of each layer, and last the scores.

    ``running_max`` moves along; with momentum 0 it rests, which with p = 1 makes the teacher of lines 21 to 25.
    """
    values: list[Array] = []
    for number, (weight, bias) in enumerate(layers[:-1]):
        x = x @ weight.T + bias
        running_max[number] = (1 - momentum) * running_max[number] + momentum * x.max()
        threshold = p * running_max[number]
        x = np.clip(x, 0, threshold) / threshold
        values.append(x)
    weight, bias = layers[-1]
    return [*values, x @ weight.T + bias]


def stage_2(
    layers: Sequence[Dense],
    running_max: list[float],
    momentum: float,
    raw: float,
    lambda_: float,
    rate: float,
    batches: Sequence[Array],
) -> list[float]:
    """Algorithm 1, lines 16 to 35, by plain gradient descent on p' (``raw``): p after each batch.

    The teacher is the network of stage 1. Gradients are differences of the whole loss, maxima of the batch included.
    """
    as_trained, found = list(running_max), []
    for x in batches:
        teacher = rate_norm_stage_2(layers, list(as_trained), 0.0, 1.0, x)
        losses: list[float] = []
        for step in (-1e-6, 1e-6):
            p = 1 / (1 + math.exp(-(raw + step)))
            student = rate_norm_stage_2(layers, list(running_max), momentum, p, x)
            losses.append(rate_inference_loss(teacher, student, lambda_))
        rate_norm_stage_2(layers, running_max, momentum, 1 / (1 + math.exp(-raw)), x)
        raw -= rate * (losses[1] - losses[0]) / 2e-6
        found.append(1 / (1 + math.exp(-raw)))
    return found


def expected_maximum(largest: Sequence[float], batch: int) -> float:
    """Mean over all batches, one by one."""
    drawn = [max(chosen) for chosen in itertools.combinations(largest, min(batch, len(largest)))]
    return sum(drawn) / len(drawn)


def omega(rates: Array) -> float:
    """Equation 8, of one image."""
    flat = rates.flatten()
    return float(sum(abs(r) for r in flat) / sum(r * r for r in flat))


def rate_inference_loss(teacher: Sequence[Array], student: Sequence[Array], lambda_: float) -> float:
    """Equation 13, mean over the images, of what :func:`rate_norm_stage_2` gives."""
    losses: list[float] = []
    for image in range(len(teacher[-1])):
        y, y_star = student[-1][image], teacher[-1][image]
        cosine = (y @ y_star) / (math.sqrt(y @ y) * math.sqrt(y_star @ y_star))
        inference = [omega(layer[image]) for layer in student[:-1]]
        losses.append(1 - cosine + lambda_ * sum(inference) / len(inference))
    return sum(losses) / len(losses)


def qcfs(x: float, theta: float, levels: int) -> float:
    """Bu et al. (2022), equation 12 with a shift of one half, of one number: in units of the threshold."""
    return min(max(math.floor(x * levels / theta + 0.5), 0), levels) / levels


def k_curve(train: Array, rates: Array) -> Array:
    """Equation 7 for a train (T, B, *features) in {0, 1} and trained rates (B, *features): (T, B)."""
    steps, batch = train.shape[:2]
    curve = np.zeros((steps, batch))
    for t in range(1, steps + 1):
        for image in range(batch):
            r = train[:t, image].sum(0) / t
            curve[t - 1, image] = ((r - rates[image]) ** 2).sum() / (rates[image] ** 2).sum()
    return curve


# Corrections of the drive and of V(0)

Start = tuple[Any, Array]
"""V(0), that broadcasts over (C, ...), and the drive of each step, (T, C)."""


def driven(currents: Array, theta: Any, v: Any, drive: Array, reset: str, signed: bool) -> Array:
    """Spikes in {-1, 0, 1}, (T, B, C, ...), of neurons that receive drive[t][c] beside their current."""
    v = v + np.zeros_like(currents[0])
    n = np.zeros_like(v)
    trains: list[Array] = []
    for current, row in zip(currents, drive):
        u = v + current + row.reshape(-1, *(1,) * (current.ndim - 2))
        z = (u >= theta).astype(float)
        if signed:
            z = z - ((u < 0) & (n > 0))
        v = u - theta * z if reset == "subtract" else np.where(z > 0, 0.0, u)
        n = n + z
        trains.append(z)
    return np.stack(trains)


def by_channel(x: Array) -> Array:
    """Mean of each channel over images and space, (C,)."""
    return np.array([x[:, c].mean() for c in range(x.shape[1])])


def bias(currents: Array, theta: Any, v: Any, trained: Array, passes: int, reset: str, signed: bool) -> Start:
    """Li et al. (2021), light pipeline: the mean error of each channel is taken from a constant drive."""
    table = np.zeros((len(currents), trained.shape[1]))
    for _ in range(passes):
        rates = driven(currents, theta, v, table, reset, signed).sum(0) / len(currents)
        table = table - (by_channel(theta * rates) - by_channel(trained))
    return v, table


def step_bias(
    currents: Array, theta: Any, v: Any, trained: Array, passes: int, rate: float, reset: str, signed: bool
) -> Start:
    """Wu et al. (2024): the same step by step; each step begins again on what the corrected steps before have left."""
    table = np.zeros((len(currents), trained.shape[1]))
    for t in range(len(currents)):
        for _ in range(passes):
            z = driven(currents[: t + 1], theta, v, table[: t + 1], reset, signed)[t]
            table[t] -= rate * (by_channel(theta * z) - by_channel(trained))
    return v, table


def potential(currents: Array, theta: Any, v: Any, trained: Array, passes: int, reset: str, signed: bool) -> Start:
    """Li et al. (2021), light pipeline: T times the mean error of each channel is taken from V(0)."""
    none = np.zeros((len(currents), trained.shape[1]))
    v = v + np.zeros((trained.shape[1], *(1,) * (trained.ndim - 2)))
    for _ in range(passes):
        rates = driven(currents, theta, v, none, reset, signed).sum(0) / len(currents)
        error = by_channel(theta * rates) - by_channel(trained)
        v = v - len(currents) * error.reshape(v.shape)
    return v, none


def ridge(scores: Array, wanted: Array, penalties: Sequence[float]) -> tuple[Array, Array]:
    """M and c of M s + c near the wanted scores: ridge regression towards the identity, which is fitted again without
    each image in turn to find its penalty.
    """

    def fit(s: Array, y: Array, strength: float) -> tuple[Array, Array]:
        centred = s - s.mean(0)
        gram = centred.T @ centred + strength * np.eye(s.shape[1])
        mix = np.eye(s.shape[1]) + np.linalg.solve(gram, centred.T @ (y - y.mean(0) - centred)).T
        return mix, y.mean(0) - mix @ s.mean(0)

    centred = scores - scores.mean(0)
    unit = np.trace(centred.T @ centred) / scores.shape[1] or 1.0

    def left_out(penalty: float) -> float:
        total = 0.0
        for i in range(len(scores)):
            others = np.arange(len(scores)) != i
            mix, shift = fit(scores[others], wanted[others], penalty * unit)
            total += float(((mix @ scores[i] + shift - wanted[i]) ** 2).sum())
        return total

    return fit(scores, wanted, unit * min(penalties, key=left_out))


def corrected_chain(network: Any, images: Array, timesteps: int, correct: Callable[..., Start]) -> dict[str, Start]:
    """V(0) and drive of each layer of a chain, each found with the spikes of the layers before it, which have theirs.

    Args:
        network: with thresholds in the activation form.
        correct: (currents, theta, V(0), trained activation, reset, signed) -> V(0) and drive, (T, C).
    """
    values = trained(network, images)
    spikes = np.stack([images] * timesteps)
    found: dict[str, Start] = {}
    for layer, (name, op) in zip(stages(network), network.neurons.items()):
        currents = np.stack([current(layer, step) for step in spikes])
        theta = array(op.threshold)
        signed = op.spikes == "signed"
        found[name] = correct(currents, theta, op.v_init * theta, values[name], reset=op.reset, signed=signed)
        spikes = driven(currents, theta, *found[name], op.reset, signed) * array(op.amplitude)
    return found
