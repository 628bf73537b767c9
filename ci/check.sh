#!/usr/bin/env bash
# What action.yml runs: `lorahub check` with the inputs as options, and its result as outputs.
# Inputs arrive as environment variables and are only ever arguments, never code.
set -euo pipefail

folder="${RUNNER_TEMP:-$(mktemp -d)}/lorahub-check"
mkdir -p "$folder"

options=(--level "$INPUT_LEVEL" --fail-on "$INPUT_FAIL_ON")
options+=(--report "json=$folder/result.json" --report "sarif=$folder/result.sarif" --report "junit=$folder/result.xml" --report github=-)
[ -n "${INPUT_ENDPOINT:-}" ] && options+=(--endpoint "$INPUT_ENDPOINT")

while IFS= read -r base; do
  [ -n "$base" ] && options+=(--base "$base")
done <<<"${INPUT_BASES:-}"
while IFS= read -r loader; do
  [ -n "$loader" ] && options+=(--for "$loader")
done <<<"${INPUT_LOADERS:-}"

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
for verdict, count in result["summary"].items():
    print(f"{verdict}={count}")
good = [{"adapter": check["adapter"], "base": check["base"]} for check in result["checks"] if check["verdict"] in ("compatible", "fits")]
print(f"matrix={json.dumps(good)}")
PYTHON
  {
    echo "result=$folder/result.json"
    echo "sarif=$folder/result.sarif"
  } >>"${GITHUB_OUTPUT:-/dev/stdout}"
fi
exit "$status"
