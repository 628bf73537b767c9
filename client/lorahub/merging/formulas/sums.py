"""Methods whose ΔW doesn't depend on the weight; and LoRA with all that stands around it."""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.adapter import Kind, Update
from lorahub.adapters.base_changes import Taken
from lorahub.errors import NotMergeable
from lorahub.merging.formulas.case import Case, Roles
from lorahub.merging.steps import (
    Added,
    BlockProducts,
    Chain,
    Circulant,
    Hadamard,
    Kronecker,
    Magnitude,
    Product,
    Residual,
    Sparse,
    Spectrum,
    Stacked,
    Step,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorahub.merging.rounding import Matrix


def lora(case: Case) -> Step:
    """ΔW = s · up · down (arXiv:2106.09685); DoRA's magnitude and inits that take from the base around it."""
    step: Step = low_rank(case)
    remove = _taken_away(case)
    if remove is not None:
        step = Residual(remove, step)
    return _dora(case, step) if case.update.is_dora else step


def low_rank(case: Case) -> Product:
    down, up = _down_up(case)
    if "diagonal" in case.roles:
        down = down * case.roles["diagonal"].reshape(-1, 1)
    if case.update.kind is Kind.EMBEDDING:
        down, up = up.T, down.T
    left = np.ascontiguousarray(up)
    left *= case.scale  # the factors are this step's own
    return Product(left, np.ascontiguousarray(down))


def _down_up(case: Case) -> tuple["Matrix", "Matrix"]:
    """Down (r, in·k·k), up (out, r)."""
    roles = case.roles
    down, up = roles["down"], roles["up"].reshape(len(roles["up"]), -1)
    if "mid" in roles:  # Tucker: mid (r, r, k, k), down (r, in)
        core = np.einsum("ijkl,jn->inkl", roles["mid"], down.reshape(len(down), -1))
        return core.reshape(len(core), -1), up
    return down.reshape(len(down), -1), up


def adalora(case: Case) -> Step:
    """ΔW = s · B · (A ∘ E), E (r, 1) (arXiv:2303.10512)."""
    return low_rank(case)


def loha(case: Case) -> Step:
    one, two = (_hadamard_half(case.roles, number) for number in "12")
    return Hadamard(Product(one.left * case.scale, one.right), two)


def _hadamard_half(roles: Roles, number: str) -> Product:
    """w_a · w_b; with Tucker's core t (r, r, k, k): Σ_ij t[i, j] w_a[i, out] w_b[j, in]."""
    a, b, core = roles[f"w{number}_a"], roles[f"w{number}_b"], roles.get(f"t{number}")
    if core is None:
        return Product(a, b)
    right = np.einsum("ijkl,jn->inkl", core, b)
    return Product(np.ascontiguousarray(a.T), right.reshape(len(right), -1))


def lokr(case: Case) -> Step:
    one, two = (_kronecker_half(case.roles, half) for half in ("w1", "w2"))
    return Kronecker(one.reshape(len(one), -1) * case.scale, two.reshape(len(two), -1))


def _kronecker_half(roles: Roles, half: str) -> "Matrix":
    if half in roles:
        return roles[half]
    a, b, core = roles[f"{half}_a"], roles[f"{half}_b"], roles.get("t2" if half == "w2" else "t1")
    return a @ b if core is None else np.einsum("ijkl,ip,jr->prkl", core, a, b)


def vera(case: Case) -> Step:
    """ΔW = (λ_b ∘ B) · (λ_d ∘ A), both shared by all modules (arXiv:2310.11454)."""
    return _between_shared(case, case.roles["lambda_d"].reshape(-1), case.roles["shared_down"])


def pvera(case: Case) -> Step:
    """VeRA, where the second half of λ_d and A makes variances that only training knows (arXiv:2512.07703)."""
    ranks, down = case.roles["lambda_d"].reshape(-1), case.roles["shared_down"]
    return _between_shared(case, ranks[: len(ranks) // 2], down[: len(down) // 2])


def _between_shared(case: Case, ranks: "Matrix", down: "Matrix") -> Product:
    out, width = case.out_in
    up, outputs = case.roles["shared_up"], case.roles["lambda_b"].reshape(-1)
    rank = len(ranks)
    if down.ndim != 2 or up.ndim != 2 or (len(outputs), len(down), up.shape[1]) != (out, rank, rank):
        raise case.refused("its factors don't fit each other")
    if len(up) < out or down.shape[1] < width:
        raise _too_small(case)
    return Product(outputs[:, None] * up[:out] * case.scale, ranks[:, None] * down[:, :width])


def delora(case: Case) -> Step:
    """ΔW = λ/r · B · diag(1 / (‖Aᵢ‖ ‖Bⁱ‖)) · A, each input times the norm of the base's column (arXiv:2503.18225)."""
    down, up = _matrices(case)
    norms = np.maximum(np.linalg.norm(down, axis=1), _LEAST_NORM) * np.maximum(np.linalg.norm(up, axis=0), _LEAST_NORM)
    strength = float(case.roles["strength"].reshape(-1)[0]) / len(down)
    return Product(up * (case.scale * strength / norms), down * case.roles["input_norm"].reshape(-1))


_LEAST_NORM = 1e-4


def _matrices(case: Case) -> tuple["Matrix", "Matrix"]:
    """Down (r, in), up (out, r), of methods that know no convolutions."""
    down, up = case.roles["down"], case.roles["up"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise case.refused("its factors have no rank in common")
    return down, up


def miss(case: Case) -> Step:
    """Each run of r inputs gets the same r columns, block (r, out) (arXiv:2409.15371); "mini" repeats its columns."""
    block, (out, width) = case.roles["block"], case.out_in
    if out % block.shape[1]:
        raise case.refused(f"{block.shape[1]} columns don't repeat to {out}")
    left = np.tile(block, (1, out // block.shape[1])).T
    return Product(left * case.scale, np.tile(np.eye(len(block)), (1, -(-width // len(block))))[:, :width])


def gralora(case: Case) -> Step:
    """A LoRA of rank r / k for each of k · k blocks, and one of all of them."""
    count, _, rank = case.roles["down_blocks"].shape
    if rank % count:
        raise case.refused(f"rank {rank} is not for {count} blocks")
    step: Step = BlockProducts(case.roles["down_blocks"], case.roles["up_blocks"] * case.scale)
    if "up" in case.roles and "down" in case.roles:
        down, up = _matrices(case)
        every = Product(up * case.scale, down)
        if (len(every.left), every.right.shape[1]) != case.out_in:
            raise case.refused("its second LoRA is for another shape")
        step = Chain([step, every])
    return step


def c3a(case: Case) -> Step:
    """Circulant blocks, over the number of inputs."""
    return Circulant(case.roles["kernel"] * (case.scale / case.out_in[1]))


def vblora(case: Case) -> Step:
    """Both factors are made of a bank's vectors: the k of the largest logits, by softmax (arXiv:2405.15179)."""
    down, up = (_of_bank(case, side) for side in ("down", "up"))
    left = up.transpose(0, 2, 1).reshape(-1, up.shape[1])
    return Product(left * case.scale, down.reshape(len(down), -1))


def _of_bank(case: Case, side: str) -> "Matrix":
    """(…, vector length) of (…, vectors of the bank)."""
    if f"{side}_choices" in case.roles:
        choices = case.factors.integers(case.update.tensors[f"{side}_choices"])
        shares = case.roles[f"{side}_shares"]
        shares = np.concatenate([shares, 1 - shares.sum(axis=-1, keepdims=True)], axis=-1)
        is_inside = choices.size and 0 <= choices.min() <= choices.max() < len(case.roles["bank"])
        if shares.shape != choices.shape or not is_inside:
            raise case.refused("vectors outside the bank")
    else:
        logits = case.roles[f"{side}_logits"]
        choices = np.argsort(-logits, axis=-1, kind="stable")[..., : case.update.number or 1]
        chosen = np.take_along_axis(logits, choices, axis=-1)
        shares = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
    return np.asarray((shares[..., None] * case.roles["bank"][choices]).sum(axis=-2), np.float64)


def unilora(case: Case) -> Step:
    """Every number of both factors is one of the bank's, times a scale of its own (arXiv:2506.00799)."""
    up, down = (_picked(case, side) for side in ("up", "down"))
    if up.shape[1] != len(down):
        raise case.refused("its factors have no rank in common")
    return Product(up * case.scale, down)


def _picked(case: Case, side: str) -> "Matrix":
    places, bank = case.factors.integers(case.update.tensors[f"{side}_places"]), case.roles["bank"].reshape(-1)
    scales = case.roles[f"{side}_scales"]
    if not places.size or not 0 <= places.min() <= places.max() < len(bank):
        raise case.refused("places outside the bank")
    try:
        return np.asarray(bank[places] * np.broadcast_to(scales, places.shape), np.float64)
    except ValueError:
        raise case.refused("its scales are for other factors") from None


def randlora(case: Case) -> Step:
    """ΔW = Σₙ Bₙ Λₙ A Γₙ with random A and B that all modules share (arXiv:2502.00987), the smaller side with A."""
    out, width = case.out_in
    lambdas, gammas = case.roles["lambda_r"], case.roles["gamma"]
    small, large, count = min(out, width), max(out, width), len(gammas)
    if "shared_down" not in case.roles or "shared_up" not in case.roles:
        raise case.refused(
            "RandLoRA's bases are not in the file (save_projection=false)",
            hint="save the adapter with save_projection=True",
        )
    down, up = case.roles["shared_down"], case.roles["shared_up"]
    rank = len(lambdas)
    if down.shape[:-1] != (rank, 1) or up.ndim != 3 or up.shape[2] != rank:
        raise case.refused("the bases have another rank")
    if min(down.shape[2], gammas.shape[1]) < small or len(up) < large or up.shape[1] < count:
        raise _too_small(case)
    down, up = lambdas[:, :, None] * down[:, :, :small] * gammas[None, :, :small], up[:large, :count]
    left, right = up.reshape(large, -1), down.reshape(-1, small)  # PEFT's order, though the two have another
    product = Product(left * case.scale, right)
    return product if small == width else product.flipped


def _too_small(case: Case) -> NotMergeable:
    return case.refused("what all modules share is smaller than the weight")


def shira(case: Case) -> Step:
    at = case.factors.integers(case.update.tensors["indices"])
    out, width = case.out_in
    inside = at.ndim == 2 and len(at) == 2 and at.min(initial=0) >= 0
    if not inside or at[0].max(initial=0) >= out or at[1].max(initial=0) >= width:
        raise case.refused("indices outside the weight")
    return Sparse(case.roles["values"].reshape(-1) * case.scale, at)


def supertuning(case: Case) -> Step:
    """Numbers of the weight's own places, (n,), counted row by row; and perhaps a LoRA beside them."""
    values, places = case.roles["values"].reshape(-1), case.factors.integers(case.update.tensors["places"]).reshape(-1)
    out, width = case.out_in
    if len(values) != len(places) or not 0 <= places.min(initial=0) <= places.max(initial=0) < out * width:
        raise case.refused("places outside the weight")
    steps: list[Step] = [Sparse(values, np.stack(np.divmod(places, width)))]
    if "up" in case.roles and "down" in case.roles:
        down, up = _matrices(case)
        if (len(up), down.shape[1]) != case.out_in:
            raise case.refused("its LoRA is for another shape")
        steps.append(Product(up * case.scale, down))
    return steps[0] if len(steps) == 1 else Chain(steps)


def fourierft(case: Case) -> Step:
    """The real part of an inverse Fourier transform whose places follow from a seed (arXiv:2405.03003)."""
    return Spectrum(case.roles["spectrum"].reshape(-1) * case.scale, _drawn_places(case), case.out_in)


def waveft(case: Case) -> Step:
    """Coefficients at places that follow from a seed; of Haar's wavelet, each is four numbers (arXiv:2505.12532)."""
    values, at = case.roles["spectrum"].reshape(-1) * case.scale, _drawn_places(case)
    if not case.update.variant:
        return Sparse(values, at)
    if case.update.variant not in _HAAR:
        raise case.refused(f"the wavelet {case.update.variant[:20]} isn't merged here", hint="merge it with PEFT")
    sizes = [(size + 1) // 2 for size in case.out_in]
    is_detail = [place >= half for place, half in zip(at, sizes, strict=True)]
    corner = [2 * (place - half * detail) for place, half, detail in zip(at, sizes, is_detail, strict=True)]
    found = []
    for row in (0, 1):
        for column in (0, 1):
            sign = np.where(is_detail[0] & bool(column), -1, 1) * np.where(is_detail[1] & bool(row), -1, 1)
            found.append((values * sign / 2, np.stack([corner[0] + row, corner[1] + column])))
    every = np.concatenate([numbers for numbers, _ in found]), np.concatenate([places for _, places in found], axis=1)
    inside = (every[1][0] < case.out_in[0]) & (every[1][1] < case.out_in[1])
    return Sparse(every[0][inside], every[1][:, inside])


_HAAR = ("db1", "haar")


def _drawn_places(case: Case) -> "NDArray[np.int64]":
    """(2, n): the first n of torch's `randperm` of all places, seeded, as rows and columns."""
    out, width = case.out_in
    count = len(case.roles["spectrum"].reshape(-1))
    if count > out * width:
        raise case.refused(f"{count} frequencies are more than the weight has")
    return np.stack(np.divmod(_first_of_permutation(out * width, count, case.update.number or 0), width))


def _first_of_permutation(size: int, count: int, seed: int) -> "NDArray[np.int64]":
    """What `torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]` is on a CPU: numbers of a
    Mersenne twister, seeded as Knuth does, each of which swaps one place with a later one (ATen `randperm_cpu`).
    """
    drawn = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 1 << 32, min(count, size - 1), np.uint32)
    held: dict[int, int] = {}
    found = np.empty(count, np.int64)
    for place in range(count):
        other = place + int(drawn[place]) % (size - place) if place < size - 1 else place
        found[place] = held.get(other, other)
        held[other] = held.get(place, place)
    return found


def full(case: Case) -> Step:
    return Added(case.factors.rows(case.update.tensors["weight"]), case.scale)


def experts(update: Update, roles: Roles, scale: float, *, is_turned: bool) -> Step:
    """One product an expert; `is_turned`: stored (experts, in, out)."""
    _, out, width = update.shape
    downs, ups = expert_factors(update, roles["down"], roles["up"])
    steps = [Product(np.ascontiguousarray(up) * scale, down) for up, down in zip(ups, downs, strict=True)]
    return Stacked([step.flipped for step in steps] if is_turned else steps, (width if is_turned else out) or 0)


def expert_factors(update: Update, down: "Matrix", up: "Matrix") -> tuple["Matrix", "Matrix"]:
    """Down (experts, r, in) and up (experts, out, r): as they are, or of the matrices that PEFT has, `down`
    (experts·r, in) expert by expert and `up` (out, r·experts) rank by rank.
    """
    experts, out, width = (size or 0 for size in update.shape)
    if down.ndim == 3:
        return down, up
    rank = update.rank or 1
    return down.reshape(experts, rank, width), up.reshape(out, rank, experts).transpose(2, 0, 1)


# --- DoRA -------------------------------------------------------------------------------------------------------------


def _dora(case: Case, inner: Step) -> Step:
    if "input_magnitude" in case.roles:
        return Magnitude(inner, case.roles["input_magnitude"].reshape(-1), axis=0, group=prod(case.shape[2:]))
    magnitude = case.roles["magnitude"].reshape(-1)
    return Magnitude(inner, magnitude, axis=0) if case.update.kind is Kind.EMBEDDING else Magnitude(inner, magnitude)


# --- starts that change the base --------------------------------------------------------------------------------------


def _taken_away(case: Case) -> Callable[["Matrix"], "Matrix"] | None:
    """What PEFT subtracts from the base when it loads the adapter: W (out, in) -> the same shape."""
    taken, rank = None if case.change is None else case.change.taken, case.update.rank or 1
    if taken is Taken.SMALLEST:
        return lambda weight: svd_part(weight, slice(min(weight.shape) - rank, None))
    if taken is Taken.LARGEST:
        return lambda weight: svd_part(weight, slice(rank))
    if taken is Taken.ORTHOGONAL:
        return lambda weight: _qr_part(weight, rank) * case.update.scale
    return None


def svd_part(weight: "Matrix", part: slice) -> "Matrix":
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    return np.asarray((u[:, part] * s[part]) @ v[part], np.float64)


def _qr_part(weight: "Matrix", rank: int) -> "Matrix":
    q, r = np.linalg.qr(weight)
    return np.asarray(q[:, :rank] @ r[:rank], np.float64)
