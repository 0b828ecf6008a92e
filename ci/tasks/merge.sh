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
if git merge-base --is-ancestor FETCH_HEAD HEAD; then
  echo "the update is merged already"
  exit 0
fi
if ! git merge-base --is-ancestor HEAD FETCH_HEAD; then
  echo "error: there are commits that were not tested together with the update:" >&2
  git log --oneline FETCH_HEAD..HEAD >&2
  echo "hint: trigger the update again, it will have them" >&2
  exit 1
fi
# Against what the host runs, not against the update of the night before, which may have been red.
changes=$(nixos-closure diff "$HOST" "$(cat ../candidate/pointer):$(cat ../candidate/generation)") ||
  changes=$(cat ../candidate/changes.txt) # the host has nothing yet
git merge --quiet --no-ff --no-commit FETCH_HEAD
git commit --quiet --file - <<EOF
Update what the hosts are made of

$(git log --reverse --format=%b HEAD..FETCH_HEAD)

Built and tested as $(cat ../candidate/path)

$changes
EOF
git log --max-count 1 --format=%B
