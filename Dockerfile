# Two images of the resource, each with all its programs as one static binary
# under four names:
#
#   docker build --target slim .   nothing but ours: check, in, and puts that promote or hand over
#   docker build .                 on the official Nix image: puts that build, too
#
# Nothing is installed in a final stage; everything comes by COPY.
ARG base_image=nixos/nix:2.34.0
ARG builder_image=golang:1.26-bookworm

FROM ${builder_image} AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV CGO_ENABLED=0
RUN go build -trimpath -ldflags '-s -w' -o /image/opt/resource/nixos-closure ./cmd/nixos-closure
RUN cd /image/opt/resource && ln -s nixos-closure check && ln -s nixos-closure in && ln -s nixos-closure out
RUN mkdir -p /image/etc/ssl/certs && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

FROM scratch AS slim
LABEL org.opencontainers.image.title="nixos-closure-resource" \
      org.opencontainers.image.description="a Concourse resource type whose versions are built NixOS closures (without Nix)" \
      org.opencontainers.image.source="https://github.com/nixos-closure/nixos-closure-resource"
COPY --from=builder /image/ /

FROM ${base_image} AS resource
LABEL org.opencontainers.image.title="nixos-closure-resource" \
      org.opencontainers.image.description="a Concourse resource type whose versions are built NixOS closures" \
      org.opencontainers.image.source="https://github.com/nixos-closure/nixos-closure-resource"
COPY --from=builder /image/opt/ /opt/

FROM resource
