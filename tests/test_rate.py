"""Rate Norm and the rate inference loss as functions, against their formulas and plain autograd."""

import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds
from torch import Tensor

from equispike.errors import EquispikeError
from equispike.functional.integrate import if_scan
from equispike.functional.rate import OPERATOR, expected_maximum, omega, rate_inference_loss, rate_levels, rate_norm


def plain(x: Tensor, theta: Tensor) -> Tensor:
    """The formula as it stands, for autograd."""
    return torch.minimum(x.clamp(min=0), theta) / theta


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(seeds, st.floats(0.01, 100), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40)
def test_rate_norm_is_its_formula_to_the_last_bit(seed: int, value: float, dtype: torch.dtype) -> None:
    theta = torch.tensor(value, dtype=dtype)
    x = torch.cat([draw(seed, 50, dtype=dtype) * value, torch.tensor([0.0, -value, value, math.inf], dtype=dtype)])
    x = torch.cat([x, torch.nextafter(theta, torch.zeros(1, dtype=dtype))])
    found = rate_norm(x, theta)
    assert found.dtype == dtype
    assert torch.equal(found, x.clamp(min=0).minimum(theta) / theta)
    assert 0 <= float(found.min()) <= float(found.max()) == 1


# 2 is what a full rate becomes in between: at a threshold of 2 it stands on the kink, where there is no gradient
@given(seeds, st.floats(0.1, 5).filter(lambda theta: theta != 2.0))
@settings(max_examples=30)
def test_gradients_are_those_of_the_formula(seed: int, value: float) -> None:
    results: list[tuple[Tensor, ...]] = []
    for function in (rate_norm, plain):
        x, theta = draw(seed, 6, 4).requires_grad_(), torch.tensor(value, dtype=torch.float64, requires_grad=True)
        # twice the same theta, as where p is shared by layers
        loss = (function(function(x, theta) * 3 - 1, theta) * draw(seed + 1, 6, 4)).sum()
        results.append((*torch.autograd.grad(loss, (x, theta)),))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.tensor([-2.0, -0.3, 0.1, 0.4, 0.6, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rate_norm, (x, theta))
    (to_theta,) = torch.autograd.grad(rate_norm(x, theta).sum(), theta)
    assert float(to_theta) == pytest.approx(-(0.1 + 0.4 + 0.6) / 0.7**2)  # equation 6: -x / theta^2, summed


def test_saturated_and_silent_neurons_have_no_gradient() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0, 3.0], requires_grad=True)
    theta = torch.tensor(2.0, requires_grad=True)
    rate_norm(x, theta).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert theta.grad == 0


def test_the_operator_keeps_what_torch_asks_of_operators() -> None:
    theta = torch.tensor(2.0, requires_grad=True)
    for x in (
        torch.randn(2, 3, 4, 5, requires_grad=True),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ):
        torch.library.opcheck(torch.ops.equispike.rate_norm.default, (x, theta))
        assert rate_norm(x, theta).stride() == x.stride()


def test_mixed_precision_keeps_the_types() -> None:
    """Rates of bfloat16 inputs are bfloat16; the threshold's gradient is summed in its own float32."""
    x = torch.rand(4096, dtype=torch.bfloat16, requires_grad=True)
    theta = torch.tensor(2.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        rate = rate_norm(x, theta)
    rate.float().sum().backward()
    assert rate.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert theta.grad is not None
    assert theta.grad.dtype == torch.float32
    assert float(theta.grad) == pytest.approx(-float(x.detach().double().sum()) / 4, rel=1e-3)


def test_compiled_it_is_one_graph_with_the_same_gradients() -> None:
    x, theta = draw(0, 5, 7).requires_grad_(), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, theta: Tensor) -> Tensor:
        return (rate_norm(2 * x, theta) ** 2).sum()

    compiled: Any = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x, theta), (x, theta))
    expected = torch.autograd.grad(loss(x, theta), (x, theta))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_exported_it_is_one_node() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rate_norm(x, torch.tensor(2.0))

    program: Any = torch.export.export(Model(), (torch.rand(2, 3),)).run_decompositions({})
    assert [node.target for node in program.graph.nodes].count(OPERATOR) == 1
    assert not any("div" in str(node.target) or "clamp" in str(node.target) for node in program.graph.nodes)


def test_thresholds_of_other_shapes_are_refused() -> None:
    with pytest.raises(EquispikeError, match=r"theta of shape \(3,\)"):
        rate_norm(torch.rand(2, 3), torch.ones(3))


# Omega and the loss


@given(seeds, st.integers(1, 4))
@settings(max_examples=30)
def test_omega_is_equation_8_for_each_image(seed: int, batch: int) -> None:
    rates = draw(seed, batch, 3, 2, 2).abs().clamp(max=1)
    expected = [reference.omega(image) for image in rates.numpy()]
    assert omega(rates).tolist() == pytest.approx(expected, rel=1e-12)


def test_an_image_without_spikes_counts_nothing_and_has_a_finite_gradient() -> None:
    rates = torch.zeros(2, 3, requires_grad=True)
    found = omega(rates)
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert rates.grad is not None
    assert bool(rates.grad.isfinite().all())


def test_omega_keeps_the_memory_format_of_gradients() -> None:
    """Others slow down what follows: batch norm's backward pass on channels-last rates twentyfold."""
    rates = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(omega(rates).sum(), rates)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_omega_of_half_precision_is_summed_in_float32() -> None:
    rates = torch.full((1, 10_000), 0.5, dtype=torch.bfloat16)
    assert omega(rates).item() == 2.0
    assert omega(rates).dtype == torch.float32


@given(seeds, st.floats(0.05, 1))
@settings(max_examples=30)
def test_omega_grows_with_p_as_equation_10_says(seed: int, p: float) -> None:
    r"""Unsaturated rates: d Omega / d p = ||r||_1 / (p ||r||_2^2)."""
    x, largest = draw(seed, 2, 8).abs(), torch.tensor(100.0, dtype=torch.float64)
    scale = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    rates = rate_norm(x, scale * largest)
    assert float(rates.detach().max()) < 1
    (found,) = torch.autograd.grad(omega(rates).sum(), scale)
    r = rates.detach()
    assert float(found) == pytest.approx(float((r.sum(1) / (p * r.square().sum(1))).sum()), rel=1e-10)


@given(seeds, st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=20)
def test_the_loss_is_equation_13(seed: int, lambda_: float) -> None:
    teacher, student = draw(seed, 3, 5), draw(seed + 1, 3, 5)
    rates = [draw(seed + 2, 3, 4, 2).abs().clamp(0.01, 1), draw(seed + 3, 3, 6).abs().clamp(0.01, 1)]
    found = rate_inference_loss(teacher, student, rates, lambda_)
    expected = reference.rate_inference_loss(
        [teacher.numpy()], [*(r.numpy() for r in rates), np.asarray(student.numpy())], lambda_
    )
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-10)


@given(st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=7), st.integers(1, 9))
@settings(max_examples=40)
def test_the_expected_maximum_is_the_mean_over_all_batches_in_whatever_order(values: list[float], batch: int) -> None:
    largest = torch.tensor(values, dtype=torch.float64)
    found = expected_maximum(largest, batch)
    assert float(found) == pytest.approx(reference.expected_maximum(values, batch), rel=1e-12, abs=1e-12)
    assert torch.equal(found, expected_maximum(largest.flip(0), batch))


# Levels


@given(seeds, st.integers(1, 9), st.sampled_from([0.5, 1.0, 4.0]))
@settings(max_examples=30)
def test_levels_are_those_of_the_formula_and_of_spikes(seed: int, levels: int, value: float) -> None:
    """As many spikes as a neuron sends in L steps that starts at half its threshold, in whole numbers."""
    x = torch.randint(-20, 40, (30,), generator=torch.Generator().manual_seed(seed)).double()
    theta, size = torch.tensor(16.0, dtype=torch.float64), torch.tensor(value, dtype=torch.float64)
    found = rate_levels(x, theta, size, levels)
    assert found.tolist() == pytest.approx([value * reference.qcfs(float(v), 16.0, levels) for v in x])
    for v, y in zip(x.clamp(min=0), found, strict=True):
        spikes, _ = if_scan(v.expand(levels, 1), theta, v_init=8.0)
        assert float(spikes.sum()) * value / levels == pytest.approx(float(y))


@given(seeds, st.integers(1, 6))
@settings(max_examples=20)
def test_gradients_of_levels_take_the_floor_for_the_identity(seed: int, levels: int) -> None:
    results: list[list[Tensor]] = []
    for own in (True, False):
        x = draw(seed, 40).requires_grad_()
        theta, size = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 1.3))
        z = x * levels / theta + 0.5
        floor = z + (z.floor() - z).detach()
        y = rate_levels(x, theta, size, levels) if own else size * floor.clamp(0, levels) / levels
        results.append(list(torch.autograd.grad((y * draw(seed + 1, 40)).sum(), (x, theta, size))))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_operator_with_levels_keeps_what_torch_asks_of_operators() -> None:
    theta, size = (torch.tensor(v, requires_grad=True) for v in (2.0, 0.5))
    arguments = torch.randn(2, 3, 4, requires_grad=True), theta, size, 4
    torch.library.opcheck(torch.ops.equispike.rate_levels.default, arguments)
    with pytest.raises(EquispikeError, match=r"theta of shape \(3,\)"):
        rate_levels(torch.rand(2, 3), torch.ones(3), size, 4)
