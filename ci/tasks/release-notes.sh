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
if last=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); then
  echo "Since $last:"
else
  echo "The first release:"
fi >"$notes/body.md"
git log --no-merges --reverse --format='- %s' "${last:+$last..}HEAD" | sed '1i\\' >>"$notes/body.md"
cat "$notes/name" "$notes/body.md"
