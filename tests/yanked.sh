#!/usr/bin/env bash
# Fails when Cargo.lock holds a version that is yanked on crates.io.
#
# cargo-deny looks at yanked versions only together with the RustSec database, which the registries do not carry
# (docs/decisions/0003); `cargo package` says the same from the crates index alone. It only warns, so this reads the
# warning, and first proves on a lock file that holds a yanked version that it would see one.
set -euo pipefail
cd "$(dirname "$0")/.."

yanked_in() { # DIR: the warnings about yanked versions, one a line; fails when cargo does
  local log
  log=$(mktemp)
  if ! cargo package --locked --no-verify --allow-dirty --color never --manifest-path "$1/Cargo.toml" \
      --target-dir .tools/package 2>"$log" >/dev/null; then
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
  grep -F 'is yanked in registry' "$log" || true
  rm -f "$log"
}

known=$(yanked_in tests/fixtures/yanked)
if [[ $known != *crossbeam-channel* ]]; then
  echo "yanked: crossbeam-channel 0.5.14 is yanked and was not reported: this check cannot be trusted" >&2
  exit 1
fi
found=$(yanked_in .)
if [[ -n $found ]]; then
  echo "$found" >&2
  exit 1
fi
echo "yanked ok"
