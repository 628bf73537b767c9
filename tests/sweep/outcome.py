"""What a trial of the sweep found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    model: str
    recipe: str
    fault: str = ""
    """What lorahub says or does otherwise than PEFT; empty where they agree."""
    hole: str = ""
    """Why the trial couldn't be made."""
    modules: int = 0
    seconds: float = 0.0
