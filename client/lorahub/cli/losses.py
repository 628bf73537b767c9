"""What a rank costs, as `combine`, `extract` and `convert` show it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorahub.merging.adapters import Made


def loss_lines(made: "Made") -> list[str]:
    if not made.error:
        return [f"  rank {made.rank}; nothing of ΔW is lost"]
    module, worst = max(made.errors.items(), key=lambda item: item[1])
    return [f"  rank {made.rank}; {made.error:.1%} of ‖ΔW‖ is lost, most in {module} ({worst:.1%})"]


def loss_data(made: "Made") -> dict[str, Any]:
    return {"rank": made.rank, "error": made.error, "errors": dict(made.errors)}
