#!/usr/bin/env bash
# Re-pin the four constraint files: hashes, every supported Python, no addresses. Arguments go to uv,
# e.g. `tools/pin.sh --upgrade`, `tools/pin.sh --upgrade-package ruff`.
set -euo pipefail
cd "$(dirname "$0")/.."

pin() { # pin FILE GROUP [uv arguments]
    local file=$1 group=$2
    shift 2
    echo "pinning the group '$group' in $file"
    .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --group "$group" --output-file "$file" "$@"
    # The workspace's own packages stand in the resolution as local paths.
    sed -i.bak '/^-e \|^\.\//d' "$file" && rm -f "$file.bak"
}

members=(packages/*/pyproject.toml integrations/*/pyproject.toml)
# All extras but presidio, whose spaCy weighs more than everything else together.
extras=(--extra estimate --extra instruments --extra logs --extra receiver --extra top --extra verify --extra yaml)
pin constraints.txt dev "${members[@]}" "${extras[@]}" "$@"
pin constraints-oldest.txt oldest "$@"
pin constraints-newest.txt newest --no-deps "$@"
pin constraints-local.txt local --constraint constraints.txt "$@" # installed over the pins of `dev`
