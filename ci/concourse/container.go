package concourse

// Container is what runs a command, given as further arguments, in a root that
// has nothing but what is in it: as root of namespaces of its own, in /build,
// which is dir. PATH is that of the command, as its environment has it.
func Container(root, dir string) []string {
	return append(Unshare(), "/bin/sh", "-euc", `
root=$1 dir=$2 path=$PATH
shift 2
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$root/build" "$root/dev" "$root/tmp"
touch "$root/dev/null"
mount --bind /dev/null "$root/dev/null"
mount --bind "$dir" "$root/build"
chroot=$(command -v chroot)
PATH=$path
exec "$chroot" "$root" /bin/sh -c 'cd /build; exec "$@"' sh "$@"`, "sh", root, dir)
}

// Unshare is what makes the mounts of a command its own. It gets a user namespace,
// too, whoever we are: in there it is root, and can do nothing outside, such as
// make a device.
func Unshare() []string {
	return []string{"unshare", "--user", "--map-root-user", "--mount"}
}
