"""Runtimes as people write them, and the verdicts held against what was measured in the runtimes themselves."""

from collections import Counter

import pytest
from lorahub.adapters.base_model import read_base
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.runtimes import RUNTIMES, parse_runtime
from lorahub.conversion import TARGETS, convert, refusal
from lorahub.errors import InvalidUsage, NotConvertible

from runtimes.verdicts import Comparison, Held, compared, corpus, files_of

LEAST_ADAPTERS = 60
READ_ALONE = 0.02
"""The share of false verdicts that is let pass where the runtime's code was only read."""


def test_a_version_is_the_newest_that_was_measured_of_it() -> None:
    newest = RUNTIMES["vllm"].versions[0]
    minor = newest.rpartition(".")[0]
    assert str(parse_runtime("vllm")) == str(parse_runtime(f"vllm@{minor}")) == f"vllm@{newest}"
    asked = parse_runtime(f" vllm@{minor} on awq ")
    assert (asked.runtime.name, asked.version, asked.quantisation) == ("vllm", newest, "awq")
    assert str(parse_runtime(str(asked))) == str(asked)


@pytest.mark.parametrize("text", ["", "nothing", "vllm@", "vllm@x", "vllm@0.3.9.9", "vllm on", "vllm on a b", "@1"])
def test_what_was_not_measured_is_refused(text: str) -> None:
    with pytest.raises(InvalidUsage) as refused:
        parse_runtime(text)
    assert refused.value.hint


def test_no_verdict_is_contradicted_by_its_runtime() -> None:
    """Each result that lies in runtimes/results, against what is said of the same adapter from its header alone."""
    rows: dict[str, list[Comparison]] = {}
    for one in compared():
        rows.setdefault(one.row, []).append(one)
    measured = {f"{one.name}@{version}" for one in RUNTIMES.values() for version in one.versions}
    assert set(rows) == measured, "make runtimes measures the rest"
    assert len({one.adapter for found in rows.values() for one in found}) >= LEAST_ADAPTERS
    for row, found in rows.items():
        counted = Counter(one.held for one in found)
        false = [one for one in found if one.held in (Held.FALSE_YES, Held.FALSE_NO, Held.OTHERWISE)]
        allowed = 0 if found[0].how == "run" else READ_ALONE * len(found)
        assert len(false) <= allowed, (row, [(one.adapter, one.held, one.verdict.reasons) for one in false])
        assert counted[Held.UNDECIDED] < len(found) / 10, row


def test_the_converter_says_without_the_numbers_what_it_says_with_them() -> None:
    told = corpus()
    bases = {name: read_base(files_of(one)) for name, one in told["bases"].items()}
    refused = Counter[bool]()
    for name, one in list(told["adapters"].items())[::5]:
        files, base = files_of(one["files"]), bases[one["base"]]
        for target in TARGETS:
            said = refusal(read_adapter(files), target, base)
            refused[said is None] += 1
            try:
                convert(files, target, base)
            except NotConvertible as error:
                assert said is not None and said.message == error.message, (name, target)  # noqa: PT017, PT018
            else:
                assert said is None, (name, target)
    assert min(refused.values()) > 10
