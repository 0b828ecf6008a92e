#!/bin/sh
# See deploy.yml.
set -eu

fail() { # MESSAGE HINT
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

path=$(cat closure/path)
echo "$HOST: generation $(cat closure/generation), $path"

realise="nix-store --realise $path >/dev/null"

# What a host does to become the system $path. The switch may restart the network and with it the session that
# asked for it, so systemd runs it where there is one.
switch="set -e
nix-env --profile /nix/var/nix/profiles/system --set $path
run=
[ ! -d /run/systemd/system ] || run='systemd-run --collect --quiet --pipe --wait --service-type=exec --unit=nixos-closure-switch'
\$run $path/bin/switch-to-configuration switch"

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT

by_ssh() {
  (umask 077 && printf '%s\n' "$SSH_KEY" >"$private/key")
  printf '%s\n' "$KNOWN_HOSTS" >"$private/known_hosts"
  export NIX_SSHOPTS="-i $private/key -o UserKnownHostsFile=$private/known_hosts -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15"
  if [ -d closure/cache ]; then
    nix --extra-experimental-features nix-command copy --from "file://$PWD/closure/cache" --to "ssh-ng://$ADDRESS" "$path"
  else
    switch="$realise && $switch"
  fi
  # shellcheck disable=SC2029,SC2086 # the path is meant to be put in here, and the options to be several words
  ssh $NIX_SSHOPTS "$ADDRESS" "$switch"
}

by_salt() {
  printf '%s' "$realise && $switch" >"$private/switch"
  # From stdin, so that the login shows in no list of processes.
  answer=$(
    curl --silent --show-error --fail-with-body --max-time 1500 --header 'Accept: application/json' --config - <<EOF
url = "$SALT_API/run"
data = "$SALT_LOGIN"
data-urlencode = "client=local"
data-urlencode = "tgt=$HOST"
data-urlencode = "fun=cmd.run_all"
data-urlencode = "timeout=1400"
data-urlencode = "arg@$private/switch"
EOF
  )
  echo "$answer"
  case $answer in
  *'"retcode": 0'*) ;;
  *'"retcode":'*) fail "$HOST did not switch" "the answer above has what it said" ;;
  *) fail "$HOST did not answer" "does salt '$HOST' test.ping reach it?" ;;
  esac
}

case $BY in
ssh) by_ssh ;;
salt) by_salt ;;
pull) echo "$HOST follows its pointer by itself" ;;
*) fail "BY is $BY" "ssh, salt or pull" ;;
esac
