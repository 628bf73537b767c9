"""Cosines and shared directions from factors equal those of the updates themselves, formed in float64."""

from dataclasses import replace

import numpy as np
import pytest
from adapters.test_weight_statistics import Arrays, dense, factors, update
from hypothesis import given, settings
from hypothesis import strategies as st
from lorahub.adapters.weight_overlap import Overlap, of_the_whole, overlap_of, why_not


def compared(method: str, one: Arrays, two: Arrays, *, scales: tuple[float, float] = (1.0, 1.0)) -> Overlap:
    found = overlap_of(update(method, one, scales[0]), one, update(method, two, scales[1]), two)
    assert isinstance(found, Overlap), found
    return found


def column_space(whole: np.ndarray) -> np.ndarray:
    left, values, _ = np.linalg.svd(whole, full_matrices=False)
    return left[:, values > values[0] * max(whole.shape) * 1e-14]


def shared(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """φ of the column spaces, and what chance would make it."""
    u, v = column_space(one), column_space(two)
    ranks = u.shape[1], v.shape[1]
    return float(np.linalg.norm(u.T @ v) ** 2 / min(ranks)), max(ranks) / len(one)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["lora", "adalora", "loha", "lokr"]),
    out=st.integers(1, 24),
    width=st.integers(1, 24),
    ranks=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scales=st.tuples(*[st.floats(-4, 4).filter(lambda value: abs(value) > 1e-3)] * 2),
    seed=st.integers(0, 1000),
)
def test_factors_tell_what_the_formed_updates_tell(
    method: str, out: int, width: int, ranks: tuple[int, int], scales: tuple[float, float], seed: int
) -> None:
    one, two = (factors(method, out, width, rank, seed + index) for index, rank in enumerate(ranks))
    two = {role: array + (one[role] if one[role].shape == array.shape else 0) for role, array in two.items()}
    first, second = scales[0] * dense(method, one), scales[1] * dense(method, two)
    found = compared(method, one, two, scales=scales)
    inner = float(np.sum(first * second))
    norms = np.linalg.norm(first), np.linalg.norm(second)
    assert found.cosine == pytest.approx(inner / (norms[0] * norms[1]), abs=1e-9)
    assert found.inner == pytest.approx(inner, rel=1e-9, abs=1e-9 * norms[0] * norms[1])
    assert found.norms == pytest.approx(norms, rel=1e-9)
    assert (found.output, found.output_chance) == pytest.approx(shared(first, second), abs=1e-6)
    assert (found.input, found.input_chance) == pytest.approx(shared(first.T, second.T), abs=1e-6)
    turned = compared(method, two, one, scales=(scales[1], scales[0]))
    assert turned.as_json() == pytest.approx(found.as_json(), abs=1e-9)


def test_the_same_the_opposite_and_what_shares_nothing() -> None:
    one = factors("lora", 12, 10, 3, 0)
    assert compared("lora", one, one).as_json() == pytest.approx(
        {"cosine": 1, "input": 1, "output": 1, "input_chance": 0.3, "output_chance": 0.25}
    )
    assert compared("lora", one, one, scales=(2.0, -1.0)).cosine == pytest.approx(-1)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    here, there = one | {"up": basis[:, :3]}, one | {"up": basis[:, 3:6]}
    found = compared("lora", here, there)
    assert (found.cosine, found.output, found.input) == pytest.approx((0, 0, 1), abs=1e-12)


def test_the_rank_is_that_of_the_numbers_not_of_the_file() -> None:
    """Of rank 8 in the file, two directions in use: no more can be shared, and none is counted twice."""
    one = factors("lora", 20, 16, 2, 0)
    padded = {"up": np.hstack([one["up"], np.zeros((20, 6))]), "down": np.vstack([one["down"]] * 4)}
    assert compared("lora", padded, one).as_json() == pytest.approx(
        {"cosine": 1, "input": 1, "output": 1, "input_chance": 2 / 16, "output_chance": 2 / 20}
    )


def test_over_all_modules_the_cosine_is_that_of_one_long_vector() -> None:
    sets = [factors("lora", 8, 6, 2, seed) for seed in range(4)]
    pairs = [(sets[0], sets[1]), (sets[2], {**sets[2], "down": 3 * sets[2]["down"] + sets[3]["down"]})]
    whole = of_the_whole([compared("lora", *pair) for pair in pairs])
    first, second = (np.concatenate([dense("lora", pair[side]).ravel() for pair in pairs]) for side in (0, 1))
    assert whole["cosine"] == pytest.approx(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    assert whole["modules"] == 2
    assert of_the_whole([])["cosine"] is None


def test_where_nothing_can_be_said_the_reason_is() -> None:
    one, other = factors("lora", 6, 5, 2, 0), factors("lora", 6, 5, 2, 1)
    plain = update("lora", one, 1.0)
    assert why_not(plain, plain) is None
    assert "DoRA" in str(why_not(plain, update("lora", {**one, "magnitude": np.ones(6)}, 1.0)))
    assert "shapes" in str(why_not(plain, replace(plain, shape=(7, 5))))
    assert "ia3" in str(why_not(update("ia3", {"factor": np.ones(6)}, 1.0), plain))
    assert "Kronecker" in str(why_not(plain, update("lokr", factors("lokr", 3, 2, 1, 0), 1.0)))
    core = {"down": np.ones((2, 5, 1, 1)), "mid": np.ones((2, 2, 3, 3)), "up": np.ones((6, 2, 1, 1))}
    assert "no product" in str(why_not(update("lora", core, 1.0), plain))
    for broken, word in (
        (other | {"up": np.zeros((6, 2))}, "nothing"),
        (other | {"up": np.full((6, 2), np.nan)}, "NaN"),
    ):
        assert word in str(overlap_of(plain, one, update("lora", broken, 1.0), broken))
    huge = {role: array * 1e160 for role, array in one.items()}
    assert isinstance(overlap_of(plain, one, update("lora", huge, 1e10), huge), str)
    turned = factors("lokr", 4, 6, 1, 0) | {"w1": np.ones((4, 2)), "w2_a": np.ones((2, 1))}
    assert "other shapes" in str(
        overlap_of(
            update("lokr", factors("lokr", 4, 6, 1, 0), 1.0),
            factors("lokr", 4, 6, 1, 0),
            update("lokr", turned, 1.0),
            turned,
        )
    )
