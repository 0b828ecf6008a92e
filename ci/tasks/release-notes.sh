#!/bin/sh
# See release-notes.yml.
set -eu
export HOME="$PWD/home"
mkdir -p "$HOME"
git config --global --add safe.directory '*' # Concourse's inputs belong to another user
notes=$PWD/notes
echo "v$(cat version/version)" >"$notes/name"
cd repository
git rev-parse HEAD >"$notes/commit"
last=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || last=
{
  if [ -n "$last" ]; then echo "Since $last:"; else echo "The first release:"; fi
  echo
  git log --no-merges --reverse --format='- %s' "${last:+$last..}HEAD"
} >"$notes/body.md"
cat "$notes/name" "$notes/body.md"
