"""Kernels for a chunk of steps on a GPU, in Triton: products of integers on tensor cores, and the neurons behind them.

Spikes, and sums of them in a pool's window, are bytes: (T', B, positions, channels), channels last and filled up to a
multiple of 16. Weights are integers, given as digits to the base 256 (see ``trains.Integers``), so that each product is
one of bytes, and each sum exact: spikes do not depend on how the work was divided, and are those of the CPU.
"""
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false, reportMissingImports=false
# pyright: reportUntypedFunctionDecorator=false, reportIndexIssue=false, reportMissingTypeStubs=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (Triton's language has no types)
# Numbers that vary from chunk to chunk are not specialised on, so that nothing is compiled again for them.

import triton
import triton.language as tl


@triton.jit
def _arrived(
    source, where, digits, image, position, inside, channel, sources, positions, kernel, outputs,
    inputs: tl.constexpr, depth: tl.constexpr, count: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """Weights that arrive at some output positions (rows) and channels (cols) in one step, (rows, cols), int32.

    ``where``, (kernel, positions), says which source position an element of the kernel reads, -1 if none. ``digits``,
    (count, outputs, kernel * depth), the lowest first, hold zeros behind each element's ``inputs`` channels.
    """
    low = tl.zeros((rows, cols), tl.int32)
    second = tl.zeros((rows, cols), tl.int32)
    third = tl.zeros((rows, cols), tl.int32)
    fourth = tl.zeros((rows, cols), tl.int32)
    blocks: tl.constexpr = depth // deep
    own = source + image[:, None] * (sources * inputs)
    inner = tl.arange(0, deep)
    weights = digits + channel[None, :] * (kernel * depth) + inner[:, None]
    digit = outputs * kernel * depth
    for k in range(kernel * blocks):
        from_channel = (k % blocks) * deep + inner
        read = tl.load(where + (k // blocks) * positions + position, inside, other=-1)
        valid = (read >= 0)[:, None]
        if inputs % deep:
            valid &= (from_channel < inputs)[None, :]
        spikes = tl.load(own + read[:, None] * inputs + from_channel[None, :], valid, other=0)
        low = tl.dot(spikes, tl.load(weights + k * deep), low, out_dtype=tl.int32)
        if count > 1:
            second = tl.dot(spikes, tl.load(weights + k * deep + digit), second, out_dtype=tl.int32)
        if count > 2:
            third = tl.dot(spikes, tl.load(weights + k * deep + 2 * digit), third, out_dtype=tl.int32)
        if count > 3:
            fourth = tl.dot(spikes, tl.load(weights + k * deep + 3 * digit), fourth, out_dtype=tl.int32)
    if count > 3:
        third += fourth * 256
    if count > 2:
        second += third * 256
    if count > 1:
        low += second * 256
    return low


@triton.jit
def _tapped(current, taps, tapped, tap_weights, image, position, channel, step, here, images, positions, width, count):
    """Add what single spikes give: (count, 4) numbers of a train's address, positions, channels and shift."""
    for r in range(count):
        train = tl.load(taps + 4 * r).to(tl.pointer_type(tl.int8))
        sources = tl.load(taps + 4 * r + 1)
        inputs = tl.load(taps + 4 * r + 2)
        from_channel = channel - tl.load(taps + 4 * r + 3)
        read = tl.load(tapped + r * positions + position, here, other=-1)
        valid = (read >= 0) & (from_channel >= 0) & (from_channel < inputs)
        spike = tl.load(train + ((step * images + image) * sources + read) * inputs + from_channel, valid, other=0)
        current += tl.where(spike != 0, tl.load(tap_weights + r * width + channel), 0.0)
    return current


@triton.jit(do_not_specialize=["images"])
def sums(
    source, where, digits, out, images, sources, positions, kernel, outputs, width,
    add: tl.constexpr, inputs: tl.constexpr, depth: tl.constexpr, count: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """Weights that arrive in every step, (T', B, positions, width), int32."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * cols + tl.arange(0, cols)
    step = tl.program_id(2).to(tl.int64)
    inside = row < images * positions
    arrived = _arrived(
        source + step * images * sources * inputs, where, digits, row // positions, row % positions, inside, channel,
        sources, positions, kernel, outputs, inputs, depth, count, rows, cols, deep,
    )  # fmt: skip
    place = (step * images * positions + row[:, None]) * width + channel[None, :]
    here = inside[:, None] & (channel < width)[None, :]
    if add:
        arrived += tl.load(out + place, here, other=0)
    tl.store(out + place, arrived, here)


@triton.jit(do_not_specialize=["steps", "images"])
def fire(
    source, where, digits, units, base, base_image, base_position, base_step, taps, tapped, tap_weights, reads,
    thresholds, v, spikes, steps, images, sources, positions, kernel, outputs, width,
    based: tl.constexpr, tap: tl.constexpr, hard: tl.constexpr,
    inputs: tl.constexpr, depth: tl.constexpr, count: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    """Neurons through all steps of a chunk, potentials in registers, with the products that drive them."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * cols + tl.arange(0, cols)
    inside = row < images * positions
    image, position = row // positions, row % positions
    known = channel < width
    here = inside[:, None] & known[None, :]
    place = row[:, None] * width + channel[None, :]
    unit = tl.load(units + channel, known, other=0.0)[None, :]
    threshold = tl.load(thresholds + channel, known, other=float("inf"))[None, :]
    currents = base + image[:, None].to(tl.int64) * base_image + position[:, None] * base_position + channel[None, :]
    u = tl.load(v + place, here, other=0.0)
    for t in range(steps):
        arrived = _arrived(
            source, where, digits, image, position, inside, channel, sources, positions, kernel, outputs, inputs,
            depth, count, rows, cols, deep,
        )  # fmt: skip
        current = arrived.to(tl.float32) * unit
        if based:
            current = tl.load(currents + t * base_step, here, other=0.0) + current
        if tap:
            current = _tapped(
                current, taps, tapped, tap_weights, image[:, None], position[:, None], channel[None, :], t, here,
                images, positions, width, reads,
            )  # fmt: skip
        u += current
        fires = u >= threshold
        tl.store(spikes + place, fires.to(tl.int8), here)
        u = tl.where(fires, 0.0 if hard else u - threshold, u)
        source += images * sources * inputs
        spikes += images * positions * width
    tl.store(v + place, u, here)


@triton.jit(do_not_specialize=["steps", "images"])
def integrate(
    arrived, units, base, base_image, base_position, base_step, taps, tapped, tap_weights, reads,
    thresholds, v, out, steps, images, positions, width,
    gathers: tl.constexpr, tap: tl.constexpr, fires: tl.constexpr, hard: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Neurons through some steps, given the sums that arrive; or, where none fire, their currents, float32."""
    neuron = tl.program_id(0) * block + tl.arange(0, block)
    here = neuron < images * positions * width
    row, channel = neuron // width, neuron % width
    image, position = row // positions, row % positions
    unit = tl.load(units + channel, here, other=0.0)
    currents = base + image.to(tl.int64) * base_image + position * base_position + channel
    size = images * positions * width
    threshold = tl.load(thresholds + channel, here, other=float("inf"))
    u = tl.load(v + (neuron if fires else channel), here, other=0.0)
    for t in range(steps):
        current = tl.load(currents + t * base_step, here, other=0.0)
        if gathers:
            current += tl.load(arrived + neuron, here, other=0).to(tl.float32) * unit
            arrived += size
        if tap:
            current = _tapped(
                current, taps, tapped, tap_weights, image, position, channel, t, here, images, positions, width, reads
            )
        if fires:
            u += current
            spike = u >= threshold
            tl.store(out + neuron, spike.to(tl.int8), here)
            u = tl.where(spike, 0.0 if hard else u - threshold, u)
        else:
            tl.store(out + neuron, current, here)
        out += size
    if fires:
        tl.store(v + neuron, u, here)


@triton.jit(do_not_specialize=["steps", "images", "fired_image"])
def tally(spikes, counts, fired, fired_image, steps, images, size, block: tl.constexpr):
    """Add up the spikes of each neuron over the steps, and of each image in each step."""
    image = tl.program_id(0)
    neuron = tl.program_id(1) * block + tl.arange(0, block)
    here = neuron < size
    place = image * size + neuron
    count = tl.load(counts + place, here, other=0)
    for t in range(steps):
        spike = tl.load(spikes + place, here, other=0).to(tl.int32)
        count += spike
        tl.atomic_add(fired + image * fired_image + t, tl.sum(spike, 0))
        spikes += images * size
    tl.store(counts + place, count, here)


@triton.jit(do_not_specialize=["total"])
def pool(spikes, windows, out, total, sources, cells, inputs, most, block: tl.constexpr):
    """Sums of spikes over windows: (cells, most) source positions, -1 where a window has fewer."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    here = place < total
    row, channel = place // inputs, place % inputs
    cell, frame = row % cells, row // cells
    own = spikes + frame * sources * inputs + channel
    sum = tl.zeros((block,), tl.int8)
    for w in range(most):
        read = tl.load(windows + cell * most + w, here, other=-1)
        sum += tl.load(own + read * inputs, read >= 0, other=0)
    tl.store(out + place, sum, here)


@triton.jit(do_not_specialize=["seed", "first", "steps", "images"])
def draw(limits, numbers, seed, first, steps, plus, minus, images, positions, channels, width, block: tl.constexpr):
    """Signed Poisson spikes (see ``functional.coding``), those of either sign as a train; limits in C order."""
    size = channels * positions
    place = tl.program_id(0) * block + tl.arange(0, block)
    here = place < images * size
    image, feature = place // size, place % size
    limit = tl.load(limits + place, here, other=0)
    number = tl.load(numbers + image, here, other=0).to(tl.uint32)
    group, own = (feature // 4).to(tl.uint32), feature % 4
    zero = tl.zeros((block,), tl.uint32)
    step = zero + first
    channel, position = feature // positions, feature % positions
    to = (image * positions + position) * width + channel
    for _ in range(steps):
        c0, c1, c2, c3 = tl.philox(seed, group, step, number, zero)
        word = tl.where(own == 0, c0, tl.where(own == 1, c1, tl.where(own == 2, c2, c3))).to(tl.int64)
        tl.store(plus + to, (word < limit).to(tl.int8), here)
        tl.store(minus + to, (word < -limit).to(tl.int8), here)
        plus += images * positions * width
        minus += images * positions * width
        step += 1
