#!/bin/sh
# See build.yml.
set -eu
export HOME="$PWD/home"
mkdir -p "$HOME"
git config --global --add safe.directory '*' # Concourse's inputs belong to another user
PATH=$PATH:/opt/resource # of the image: nixos-closure
warm="file://$PWD/warm"
export NIX_CONFIG="experimental-features = nix-command flakes
extra-substituters = $warm?trusted=true&priority=10
$NIX_CONFIG"
mkdir -p warm
[ -e warm/nix-cache-info ] || echo 'StoreDir: /nix/store' >warm/nix-cache-info

# One host after the other: evaluating them together would take the memory of all of them, and what they share is
# in the store, and in the cache, after the first.
failed=
for host in $(nix eval --raw ./config#nixosConfigurations --apply 'c: toString (builtins.attrNames c)'); do
  # shellcheck disable=SC2254 # globs are meant to match
  case $host in $HOSTS) ;; *) continue ;; esac
  echo "$host:"
  if nix build --out-link "built-$host" "./config#nixosConfigurations.\"$host\".config.system.build.toplevel" &&
    NIXOS_CLOSURE_POINTER="$host-built" nixos-closure push "built-$host"; then
    readlink "built-$host" >"paths/$host"
  else
    failed="$failed $host"
  fi
done

# Keep warm what this build needed, and what others needed in the last month. (A file that is named after its NAR
# goes after what names it.)
find warm -name '*.narinfo' -mtime +30 -delete
find warm -name '*.nar*' -mtime +31 -delete
nix copy --all --no-check-sigs --to "$warm?compression=zstd&compression-level=1"

[ -z "$failed" ] || { echo "error: failed:$failed" >&2 && exit 1; }
