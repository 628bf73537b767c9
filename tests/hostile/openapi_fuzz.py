"""Schemathesis over the API as it describes itself: `python tests/hostile/openapi_fuzz.py SECONDS` fuzzes for long."""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import schemathesis
from registry_process import BIN, Registry
from schemathesis.specs.openapi import checks

SETTINGS = {"LORAHUB_PUBLIC_URL": "http://registry.test", "LORAHUB_OIDC_ISSUERS": '["https://issuer.test"]'}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "response_schema_conformance",
    "content_type_conformance",
    "ignored_auth",
    "use_after_free",
)
CALLERS = ("anonymous", "user", "admin")
CONFIGURATION = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501]
"""
"""501 is `NotSupported`, for what the Hub has and a registry doesn't, where the description names it."""

checks.AUTH_REJECTION_STATUSES |= {404}  # what is private is answered like what isn't there


def tokens_of(registry: Registry) -> dict[str, str | None]:
    """Where no request that is made up can revoke them."""
    tokens = {"anonymous": None, "user": registry.add_user("fuzzy"), "admin": registry.token}
    with registry.database() as database:
        database.exec_driver_sql("UPDATE tokens SET id = id + 1000000000000000")
    return tokens


def fuzz(
    registry: Registry, token: str | None, folder: Path, *, examples: int, seed: int, seconds: int
) -> subprocess.CompletedProcess[str]:
    """Exit status 0: nothing was found. `folder` is where Schemathesis leaves what it found."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    command = [str(BIN / "st"), "run", f"{registry.url}/api/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--phases", "coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--max-time", str(seconds)]
    command += [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    hooks = {"SCHEMATHESIS_HOOKS": "hostile.openapi_fuzz", "PYTHONPATH": str(Path(__file__).parents[1])}
    hooks["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **hooks})


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(_context: object, value: object) -> bytes:
    """The body of a commit: whatever the fuzzer thinks of, as bytes."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def main(seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "registry", SETTINGS).start()
        try:
            for token in tokens_of(registry).values():
                seed = random.randrange(1 << 30)
                found = fuzz(registry, token, Path(folder), examples=1000, seed=seed, seconds=seconds)
                print(found.stdout, found.stderr)
                if found.returncode:
                    sys.exit(found.returncode)
        finally:
            registry.stop()
            registry.assert_sound()


if __name__ == "__main__":
    main(int(sys.argv[1]))
