# Two images of the resource, each with all its programs as one static binary
# under four names:
#
#   docker build --target slim .   nothing but ours, from scratch: check, in, and puts that promote or hand over
#   docker build .                 on the official Nix image: puts that build, too
#
#   --build-arg version=1.3.0      what nixos-closure --version and the User-Agent say
#   --build-arg revision=$(git rev-parse HEAD)
#   --platform linux/arm64         or linux/amd64; the builder runs as what it is and compiles for that
#   --target tests                 runs the tests that need no Nix, in the image
#
# Final stages run nothing: all that they have comes by COPY.
ARG base_image=nixos/nix:2.34.8
ARG builder_image=golang:1.26-bookworm

ARG BUILDPLATFORM
FROM --platform=${BUILDPLATFORM} ${builder_image} AS builder
WORKDIR /src
ENV CGO_ENABLED=0
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG version=dev
# The same sources and version make the same bytes, wherever they lie.
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X github.com/nixos-closure/nixos-closure-resource/internal/version.Number=$version" \
      -o /opt/resource/ ./cmd/nixos-closure
RUN for name in check in out; do ln -s nixos-closure /opt/resource/$name; done
# The official image has its programs where only its own environment finds them. A worker that has the image as a
# rootfs.tgz gives it none, so they are linked to where everybody looks.
RUN profile=/nix/var/nix/profiles/default && mkdir -p /links/usr/local/bin /links/etc/ssl/certs && \
    for program in nix nix-build nix-env nix-instantiate nix-store git ssh; do ln -s $profile/bin/$program /links/usr/local/bin/; done && \
    ln -s $profile/etc/ssl/certs/ca-bundle.crt /links/etc/ssl/certs/ca-certificates.crt

FROM scratch AS slim
ARG version=dev
ARG revision=unknown
LABEL org.opencontainers.image.title="nixos-closure-resource" \
      org.opencontainers.image.description="a Concourse resource type whose versions are built NixOS closures (without Nix)" \
      org.opencontainers.image.source="https://github.com/nixos-closure/nixos-closure-resource" \
      org.opencontainers.image.documentation="https://github.com/nixos-closure/nixos-closure-resource#readme" \
      org.opencontainers.image.version="${version}" \
      org.opencontainers.image.revision="${revision}"
COPY --from=builder /opt/resource/ /opt/resource/
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/

FROM ${base_image} AS resource
ARG base_image
ARG version=dev
ARG revision=unknown
LABEL org.opencontainers.image.title="nixos-closure-resource" \
      org.opencontainers.image.description="a Concourse resource type whose versions are built NixOS closures" \
      org.opencontainers.image.source="https://github.com/nixos-closure/nixos-closure-resource" \
      org.opencontainers.image.documentation="https://github.com/nixos-closure/nixos-closure-resource#readme" \
      org.opencontainers.image.base.name="${base_image}" \
      org.opencontainers.image.version="${version}" \
      org.opencontainers.image.revision="${revision}"
COPY --from=builder /opt/resource/ /opt/resource/
COPY --from=builder /links/ /

FROM builder AS test-builder
ARG TARGETOS
ARG TARGETARCH
RUN for package in $(go list ./internal/... ./resource); do \
      GOOS=$TARGETOS GOARCH=$TARGETARCH go test -c -o "/tests/${package#github.com/nixos-closure/nixos-closure-resource/}/" "$package"; \
    done

FROM resource AS tests
COPY . /src
COPY --from=test-builder /tests/ /src/
RUN set -e; for test in $(find /src -name '*.test'); do cd "$(dirname "$test")"; pwd; "$test"; done

FROM resource
