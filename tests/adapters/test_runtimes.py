"""Runtimes as people write them."""

import pytest
from lorahub.adapters.runtimes import RUNTIMES, parse_runtime
from lorahub.errors import InvalidUsage


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
