# Makes the archives of this directory again, by GNU tar.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
cd "$tmp"
mkdir d
printf content >d/file
ln d/file d/hard
ln -s file d/link
pack() { # NAME, and what tar is told
	local name=$1
	shift
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1 --mode=u+w "$@" | gzip -9n >"$here/$name.tgz"
}
pack label -cV backup d
pack label-pax --format=pax -cV backup d
pack increment -cg snapshot d
rm snapshot
pack increment-pax --format=pax -cg snapshot d
pack absolute -cP --transform='s,^d,/d,rh' d
pack v7 --format=v7 -c d
tar --sort=name -cf appended.tar d
rm d/file d/link
printf changed >d/file
ln -s hard d/link
tar -rf appended.tar d/file d/link
gzip -9n <appended.tar >"$here/appended.tgz"

rm d/file d/hard d/link
printf content >d/file
ln d/file d/hard
ln -s file d/link
truncate -s 384K d/disk
at=0
for letter in a b c d e f; do
	head -c 4096 /dev/zero | tr '\0' $letter | dd of=d/disk bs=4096 seek=$at conv=notrunc status=none
	at=$((at + 16))
done
pack sparse-gnu -cS d
pack sparse-0.0 --format=pax --sparse-version=0.0 -cS d
pack sparse-0.1 --format=pax --sparse-version=0.1 -cS d
pack sparse-1.0 --format=pax --sparse-version=1.0 -cS d
