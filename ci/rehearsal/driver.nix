# A test of web-1 in place of nixosTests.….driver: it has the same program, which boots no machine but looks at
# what the system would serve.
let
  inherit (import ./lib.nix) build busybox;
  candidate = (import ./default.nix).web-1;
in
build "nixos-test-driver-web-1" { inherit candidate; } ''
  mkdir -p $out/bin
  for program in chmod grep mknod rm sh timeout; do ln -s $busybox/busybox $out/bin/$program; done
  cat > $out/bin/nixos-test-driver <<EOF
  #!$busybox/busybox sh
  echo "machine: waiting for unit nginx.service"
  page=\$($busybox/busybox cat \$($busybox/busybox readlink $candidate/sw/bin/nginx | $busybox/busybox sed s,bin/nginx,html/index.html,))
  echo "machine: GET / is \$page"
  case \$page in *"It works"*) ;; *) echo "machine: the page should say that it works"; exit 1 ;; esac
  EOF
  chmod +x $out/bin/nixos-test-driver
''
