#!/usr/bin/env bash
# vendor/h2 is h2 as it is published, with h2.patch: with that, a call whose `:authority` is no host name is taken, as servers of
# gRPC in other languages take it. Those who maintain h2 want it refused (hyperium/h2#442, #487).
#
#   vendor/h2.sh           says whether that is still so, and that benches/Cargo.lock has the same version
#   vendor/h2.sh update    makes it anew of the version in benches/Cargo.lock: `cargo update -p h2` there comes first
set -euo pipefail
cd "$(dirname "$0")"

# Cargo has fetched what is published for the benches, which do without the patch.
published=$(cargo metadata --locked --format-version 1 --manifest-path ../benches/Cargo.toml \
    --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" | python3 -c '
import json, pathlib, sys
packages = json.load(sys.stdin)["packages"]
print(next(pathlib.Path(p["manifest_path"]).parent for p in packages if p["name"] == "h2" and p["source"]))')

make_it() {
    mkdir "$1"
    cp -R "$published/src" "$published/Cargo.toml" "$published/LICENSE" "$1"
    patch --quiet --directory "$1" --strip 1 <h2.patch
}

if [ "${1-}" = update ]; then
    rm -rf h2
    make_it h2
    exit
fi
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
make_it "$temporary/h2"
diff --recursive --brief "$temporary/h2" h2 || {
    echo 'vendor/h2 is not what is published with h2.patch: run vendor/h2.sh update' >&2
    exit 1
}
