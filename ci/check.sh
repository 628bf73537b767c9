#!/usr/bin/env bash
# What action.yml runs: `lorahub check` with the inputs as options, and its result as outputs.
# Inputs arrive as environment variables and are only ever arguments, never code.
set -euo pipefail

folder="${RUNNER_TEMP:-$(mktemp -d)}/lorahub-check"
mkdir -p "$folder"

options=()
[ -n "${INPUT_LEVEL:-}" ] && options+=(--level "$INPUT_LEVEL")
[ -n "${INPUT_FAIL_ON:-}" ] && options+=(--fail-on "$INPUT_FAIL_ON")
options+=(--report "json=$folder/result.json" --report "sarif=$folder/result.sarif" --report "junit=$folder/result.xml")
options+=(--report "markdown=$folder/result.md" --report github=-)
[ -n "${INPUT_ENDPOINT:-}" ] && options+=(--endpoint "$INPUT_ENDPOINT")

while IFS= read -r base; do
  [ -n "$base" ] && options+=(--base "$base")
done <<<"${INPUT_BASES:-}"
while IFS= read -r loader; do
  [ -n "$loader" ] && options+=(--for "$loader")
done <<<"${INPUT_LOADERS:-}"
while IFS= read -r environment; do
  [ -n "$environment" ] && options+=(--env "$environment")
done <<<"${INPUT_ENVIRONMENTS:-}"

adapters=()
while IFS= read -r adapter; do
  [ -n "$adapter" ] && adapters+=("$adapter")
done <<<"$INPUT_ADAPTERS"

status=0
lorahub check "${options[@]}" -- "${adapters[@]}" || status=$?

if [ -f "$folder/result.json" ]; then
  python3 - "$folder/result.json" >>"${GITHUB_OUTPUT:-/dev/stdout}" <<'PYTHON'
import json
import sys

result = json.load(open(sys.argv[1], encoding="utf-8"))
for name, count in {**result["summary"], "failed": result["outcomes"]["failed"]}.items():
    print(f"{name}={count}")
good = [
    {"adapter": check["adapter"], "base": check["base"]}
    for check in result["checks"]
    if check["outcome"] == "passed" and check["verdict"] in ("compatible", "fits")
]
print(f"matrix={json.dumps(good)}")
PYTHON
  {
    echo "result=$folder/result.json"
    echo "sarif=$folder/result.sarif"
    echo "markdown=$folder/result.md"
  } >>"${GITHUB_OUTPUT:-/dev/stdout}"
fi
exit "$status"
