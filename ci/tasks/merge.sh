#!/bin/sh
# See merge.yml.
set -eu
export HOME="$PWD/home" GIT_AUTHOR_NAME="$NAME" GIT_AUTHOR_EMAIL="$EMAIL" GIT_COMMITTER_NAME="$NAME" GIT_COMMITTER_EMAIL="$EMAIL"
mkdir -p "$HOME"
git config --global --add safe.directory '*' # Concourse's inputs belong to another user
PATH=$PATH:/opt/resource # of the image: nixos-closure
git clone --quiet config merged
cd merged
git fetch --quiet ../update HEAD
tested=$(git rev-parse 'FETCH_HEAD^{tree}')
if [ "$(git rev-parse 'HEAD^{tree}')" = "$tested" ]; then
  echo "nothing to merge: the branch is what was tested"
  exit 0
fi
if ! git merge-base --is-ancestor HEAD FETCH_HEAD; then
  echo "error: the branch has commits that the update was not tested with:" >&2
  git log --oneline FETCH_HEAD..HEAD >&2
  echo "hint: nothing was merged, and nothing is promoted; the next update has them, or start it now" >&2
  exit 1
fi
# Against what the host runs, not against the update of the night before, which may have been red.
changes=$(nixos-closure diff "$HOST" "$(cat ../candidate/pointer):$(cat ../candidate/generation)") ||
  changes=$(cat ../candidate/changes.txt) # the host has nothing yet
message="Update what the hosts are made of

$(git log --reverse --format=%b HEAD..FETCH_HEAD)

Built and tested as $(cat ../candidate/path)

$changes"
# Not by a merge, which could make something else: by the tree that was tested.
merge=$(printf '%s\n' "$message" | git commit-tree -p HEAD -p FETCH_HEAD "$tested")
git reset --quiet --hard "$merge"
git log --max-count 1 --format=%B
