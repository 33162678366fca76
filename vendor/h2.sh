#!/usr/bin/env bash
# vendor/h2 is h2 as it is published, with h2.patch:
#
# - A call whose `:authority` is no host name is accepted, as servers of gRPC in other languages accept it. The maintainers of h2
#   want it refused (hyperium/h2#442, #487).
# - The streams that the server has reset, because it answered before the request had come, are remembered for longer. DATA that
#   was on its way is ignored for such a stream; for a forgotten one it counts as an error of the client, and enough of these end
#   the connection. h2 remembers 50 for a second, and then forgets the newest first, although `max_concurrent_reset_streams`
#   promises the oldest; hyper does not set it. The patch remembers twice as many as the client may have open, for 30 s, and forgets
#   the oldest first; 512 of them take some 0.6 MB. (h2's clients, of etcd and of other nodes, remember 50 for 30 s.) An ignored frame takes nothing of the budget for small frames, either: nothing ever gave that back.
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
