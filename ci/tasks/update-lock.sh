#!/bin/sh
# See update-lock.yml.
set -eu
export HOME="$PWD/home" GIT_AUTHOR_NAME="$NAME" GIT_AUTHOR_EMAIL="$EMAIL" GIT_COMMITTER_NAME="$NAME" GIT_COMMITTER_EMAIL="$EMAIL"
mkdir -p "$HOME"
git config --global --add safe.directory '*' # Concourse's inputs belong to another user
git clone --quiet config updated
cd updated
# shellcheck disable=SC2086 # several inputs are several words
nix --extra-experimental-features 'nix-command flakes' flake update --commit-lock-file $INPUTS
if [ "$(git rev-parse HEAD)" = "$(git -C ../config rev-parse HEAD)" ]; then
  echo "all inputs are at their newest"
else
  git log --max-count 1 --format=%B
fi
