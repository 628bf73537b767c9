"""Figures that the LoRA paper prints (arXiv 2106.09685), as data. `selfcheck` computes them anew."""

from dataclasses import dataclass

MILLION, BILLION = 10**6, 10**9


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of a table: what it trains, and the number of parameters that it prints, in `unit`."""

    where: str
    model: str
    method: str
    printed: str
    rank: int = 0
    targets: str = ""
    tokens: tuple[int, int] = (0, 0)
    """Prefix and infix."""
    unit: int = MILLION


GPT3, GPT2_M, GPT2_L = "gpt3-175b", "gpt2-medium", "gpt2-large"

ROWS = (
    PaperRow("table 15", GPT3, "lora", "4.7", rank=2, targets="v"),
    PaperRow("table 15", GPT3, "lora", "4.7", rank=1, targets="q,v"),
    PaperRow("table 15", GPT3, "lora", "9.4", rank=2, targets="q,v"),
    PaperRow("table 15", GPT3, "lora", "18.8", rank=4, targets="q,v"),
    PaperRow("table 15", GPT3, "lora", "37.7", rank=8, targets="q,v"),
    PaperRow("table 15", GPT3, "lora", "301.9", rank=64, targets="q,v"),
    PaperRow("table 15", GPT3, "lora", "9.4", rank=1, targets="q,k,v,o"),
    PaperRow("table 15", GPT3, "lora", "18.8", rank=2, targets="q,k,v,o"),
    PaperRow("table 15", GPT3, "lora", "37.7", rank=4, targets="q,k,v,o"),
    PaperRow("table 15", GPT3, "lora", "603.8", rank=64, targets="q,k,v,o"),
    PaperRow("table 15", GPT3, "adapter-h", "7.1", rank=1),
    PaperRow("table 15", GPT3, "adapter-h", "21.2", rank=4),
    PaperRow("table 15", GPT3, "adapter-h", "40.1", rank=8),
    PaperRow("table 15", GPT3, "adapter-h", "77.9", rank=16),
    PaperRow("table 15", GPT3, "adapter-h", "304.4", rank=64),
    PaperRow("table 15", GPT3, "prefix-embed", "0.4", tokens=(32, 8)),
    PaperRow("table 15", GPT3, "prefix-embed", "3.2", tokens=(256, 8)),
    PaperRow("table 15", GPT3, "prefix-embed", "6.4", tokens=(512, 8)),
    PaperRow("table 15", GPT3, "lora+prefix-embed", "37.8", rank=8, targets="q,v", tokens=(8, 4)),
    PaperRow("table 15", GPT3, "lora+prefix-embed", "151.1", rank=32, targets="q,v", tokens=(8, 4)),
    PaperRow("table 15", GPT3, "lora+prefix-embed", "302.1", rank=64, targets="q,v", tokens=(8, 4)),
    PaperRow("table 3", GPT2_M, "top-2-layers", "25.19"),
    PaperRow("table 3", GPT2_M, "adapter-l", "0.37", rank=6),
    PaperRow("table 3", GPT2_M, "adapter-l", "11.09", rank=224),
    PaperRow("table 3", GPT2_L, "full", "774.03"),
    PaperRow("table 3", GPT2_L, "adapter-l", "0.88", rank=8),
    PaperRow("table 3", GPT2_L, "adapter-l", "23.00", rank=248),
    PaperRow("table 2", "roberta-base", "lora", "0.3", rank=8, targets="q,v"),
    PaperRow("table 2", "roberta-base", "bitfit", "0.1"),
    PaperRow("table 2", "roberta-large", "lora", "0.8", rank=8, targets="q,v"),
    PaperRow("table 2", "deberta-v2-xxlarge", "lora", "4.7", rank=16, targets="q,v"),
)
"""What the formulas give too."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Rows whose formula gives another number than they print, or a statement that code contradicts, and why."""

    title: str
    reason: str
    rows: tuple[PaperRow, ...] = ()
    with_head: tuple[tuple[str, int, int, str], ...] = ()
    """(model, rank, classes, printed MB) of released files."""


DISCREPANCIES = (
    Discrepancy(
        "GPT-2 with LoRA r=4 on q,v",
        "printed is 0.1 % of the model, the budget of prefix-tuning; the released file of M (1.5 MB in 32 bits) "
        "has as many parameters as the formula gives",
        rows=(
            PaperRow("table 3", GPT2_M, "lora", "0.35", rank=4, targets="q,v"),
            PaperRow("table 3", GPT2_L, "lora", "0.77", rank=4, targets="q,v"),
        ),
    ),
    Discrepancy(
        "DeBERTa XXL with LoRA",
        "4.7M needs r=16, which the released scripts use (alpha 32); table 10 says r=8",
        rows=(PaperRow("table 10", "deberta-v2-xxlarge", "lora", "4.7", rank=8, targets="q,v"),),
    ),
    Discrepancy(
        "GPT-3 with LoRA on q,k,v,o",
        "section E.4 calls 37.7M r=2; table 15 has it as r=4, which the formula gives",
        rows=(PaperRow("section E.4", GPT3, "lora", "37.7", rank=2, targets="q,k,v,o"),),
    ),
    Discrepancy(
        "GPT-3 with prefix-layer tuning",
        "the rows don't follow the paper's own formula L·d·(lp + li)",
        rows=(
            PaperRow("table 15", GPT3, "prefix-layer", "5.1", tokens=(2, 2)),
            PaperRow("table 15", GPT3, "prefix-layer", "10.1", tokens=(8, 0)),
            PaperRow("table 15", GPT3, "prefix-layer", "20.2", tokens=(8, 8)),
            PaperRow("table 15", GPT3, "prefix-layer", "44.1", tokens=(32, 4)),
            PaperRow("table 15", GPT3, "prefix-layer", "76.1", tokens=(64, 0)),
        ),
    ),
    Discrepancy(
        "GPT-3 with BitFit",
        "printed is 12·d a layer; the public layout has biases of 11·d",
        rows=(PaperRow("table 4", GPT3, "bitfit", "14.2"),),
    ),
    Discrepancy(
        "GPT-2 M in full",
        "the released model has the number that the formula gives",
        rows=(PaperRow("table 3", GPT2_M, "full", "354.92"),),
    ),
    Discrepancy(
        "released files of RoBERTa and DeBERTa",
        "their sizes come out only with the classification head in 32 bits: what is called the adapter has it inside",
        with_head=(
            ("roberta-base", 8, 3, "3.4"),
            ("roberta-large", 8, 2, "7.1"),
            ("deberta-v2-xxlarge", 16, 3, "27.1"),
        ),
    ),
    Discrepancy(
        "how A begins",
        "the text says Gaussian; loralib and PEFT begin with kaiming-uniform, and PEFT's `gaussian` is N(0, 1/r²)",
    ),
)

ADAPTERS_KEPT = 100
"""For "storing 100 adapted models", section 4.2."""
FULL_SPEED, LORA_SPEED = 32.5, 43.1
"""Tokens a second and V100 while training GPT-3, footnote 5."""

HEADLINES = {
    "size": ("175,255.8M", "to rounding of an unpublished detail"),
    "fewer": ("10,000×", "a round number: 37,003 × at r=1, 4,625 × at r=8"),
    "checkpoint": ("35 MB", "36.0 MiB; in 32 bits it is twice that"),
    "full checkpoint": ("350 GB", "in 16 bits"),
    "kept": ("354 GB", "against 35 TB for 100 whole models"),
    "memory": ("3×", "weights and two moments in one precision, gradients not counted"),
    "memory in bytes": (
        "1.2 TB → 350 GB",
        "3.43 × as printed lies between 3.00 × (no gradients) and 4.00 × (all in 16 bits): the accounting isn't said",
    ),
    "speed": ("25 %", "of the time; the same figures are +32.6 % tokens a second"),
}
