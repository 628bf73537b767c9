"""Statistics from factors equal those of the update itself, formed in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lorahub.adapters.adapter import Update
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.weight_statistics import UpdateStatistics, decode, statistics_of

Arrays = dict[str, np.ndarray]


def update(method: str, factors: Arrays, scale: float) -> Update:
    tensors = {role: TensorEntry(role, "F64", array.shape, 0, array.nbytes) for role, array in factors.items()}
    return Update("m", method, tensors, (None, None), scale=scale)


def dense(method: str, f: Arrays) -> np.ndarray:
    if method == "lora":
        return f["up"].reshape(f["up"].shape[0], -1) @ f["down"].reshape(f["down"].shape[0], -1)
    if method == "adalora":
        return f["up"] @ (f["down"] * f["diagonal"])
    if method == "loha":
        return (f["w1_a"] @ f["w1_b"]) * (f["w2_a"] @ f["w2_b"])
    one = f["w1"] if "w1" in f else f["w1_a"] @ f["w1_b"]
    two = f["w2"] if "w2" in f else f["w2_a"] @ f["w2_b"]
    return np.kron(one, two)


def factors(method: str, out: int, width: int, rank: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    shapes = {
        "lora": {"down": (rank, width), "up": (out, rank)},
        "adalora": {"down": (rank, width), "up": (out, rank), "diagonal": (rank, 1)},
        "loha": {"w1_a": (out, rank), "w1_b": (rank, width), "w2_a": (out, rank), "w2_b": (rank, width)},
        "lokr": {"w1": (2, 3), "w2_a": (out, rank), "w2_b": (rank, width)},
    }
    return {role: random.standard_normal(shape) for role, shape in shapes[method].items()}


def same(found: UpdateStatistics, whole: np.ndarray) -> None:
    values = np.linalg.svd(whole, compute_uv=False)
    assert found.frobenius == pytest.approx(np.linalg.norm(whole), rel=1e-9)
    count = min(len(found.singular_values), len(values))
    assert found.singular_values[:count] == pytest.approx(values[:count], rel=1e-7, abs=1e-9 * values[0])
    kept = values[values > 1e-12 * values[0]]
    shares = kept / kept.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["lora", "adalora", "loha", "lokr"]),
    out=st.integers(1, 24),
    width=st.integers(1, 24),
    rank=st.integers(1, 30),
    scale=st.floats(-4, 4).filter(lambda value: abs(value) > 1e-3),
    seed=st.integers(0, 1000),
)
def test_factors_tell_what_the_formed_update_tells(
    method: str, out: int, width: int, rank: int, scale: float, seed: int
) -> None:
    made = factors(method, out, width, rank, seed)
    same(statistics_of(update(method, made, scale), made), scale * dense(method, made))


def test_a_convolution_is_flattened() -> None:
    random = np.random.default_rng(0)
    made = {"down": random.standard_normal((4, 3, 3, 3)), "up": random.standard_normal((8, 4, 1, 1))}
    same(statistics_of(update("lora", made, 2.0), made), 2.0 * dense("lora", made))


def test_zero_and_nonfinite_updates() -> None:
    made = factors("lora", 6, 5, 2, 0)
    zero = statistics_of(update("lora", made, 1.0), made | {"up": np.zeros((6, 2))}, base_norm=3.0)
    assert (zero.frobenius, zero.effective_rank, zero.relative) == (0.0, 0.0, 0.0)
    made["up"][1, 1] = np.nan
    broken = statistics_of(update("lora", made, 1.0), made)
    assert (broken.frobenius, broken.nonfinite) == (None, 1)


def test_relative_to_the_base() -> None:
    made = factors("lora", 6, 5, 2, 0)
    found = statistics_of(update("lora", made, 1.0), made, base_norm=4.0)
    assert found.relative == pytest.approx(np.linalg.norm(dense("lora", made)) / 4.0)


@pytest.mark.parametrize(("dtype", "raw"), [("BF16", b"\x80\x3f"), ("F16", b"\x00\x3c"), ("F32", b"\x00\x00\x80\x3f")])
def test_dtypes(dtype: str, raw: bytes) -> None:
    assert decode(TensorEntry("w", dtype, (1,), 0, len(raw)), raw).tolist() == [1.0]
