# What a developer runs. Each target gets what it needs into .cache (see ci/get) and touches nothing else.

export PATH := $(PATH):$(CURDIR)/.cache/cc/bin:$(CURDIR)/.cache/shellcheck/bin:$(CURDIR)/.cache/zstd/bin

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: ## put a small system into a cache, check, get it, and switch a host to it
	@ci/demo

.PHONY: try
try: ## a shell in which everything is at hand, for docs/tutorial.md
	@ci/try $(CURDIR)/.cache/try

.PHONY: rehearsal
rehearsal: bin/linux-$(shell go env GOARCH) ## play a whole pipeline without Concourse, as docs/tutorial.md tells
	@ci/get current busybox
	@PATH="$(CURDIR)/.cache/nix/current/bin:$$PATH" go run ./ci/rehearsal bin/linux-$$(go env GOARCH)

.PHONY: test
test: lint build ## all tests, against real Nixes and real servers, with the race detector
	ci/get
	ci/get buildah runc nixos-nix zstd
	ci/servers/build
	NIXOS_CLOSURE_TEST_REQUIRE=1 go test -race -timeout 30m ./...

.PHONY: test-minio
test-minio: ## the tests of S3 on a MinIO server, too
	ci/servers/build minio
	NIXOS_CLOSURE_TEST_REQUIRE=1 NIXOS_CLOSURE_TEST_MINIO=1 go test -run MinIO ./internal/blob/... ./ci/e2e

.PHONY: soak
soak: ## let the network play up for ten minutes (FAULT_SECONDS has the time, FAULT_SEED repeats one)
	ci/get
	ci/servers/build
	NIXOS_CLOSURE_TEST_REQUIRE=1 FAULT_SECONDS=$${FAULT_SECONDS:-600} go test -timeout 0 -v -run TestFaultsAtRandom ./ci/e2e

.PHONY: rootfs
rootfs: ## build the images without a registry: bin/image/{full,slim}/rootfs.tgz; as root
	ci/get busybox buildah nixos-nix
	$(call build_image,slim)
	$(call build_image,full)

.PHONY: image
image: rootfs ## rootfs, and test what it has built in containers like Concourse's; as root
	ci/get current runc
	ci/servers/build
	$(call build_image,slim,slim-arm64,linux/arm64)
	$(call build_image,tests)
	@echo "testing the images in containers: a minute or two" >&2
	NIXOS_CLOSURE_TEST_REQUIRE=1 NIXOS_CLOSURE_TEST_IMAGES=$(CURDIR)/bin/image NIXOS_CLOSURE_TEST_IMAGE_VERSION=$(version) go test -count=1 ./ci/image

# $(call build_image,TARGET[,DIR[,PLATFORM]]): see ci/image/build.
define build_image
@echo "building the image $(or $(2),$(1))" >&2
@VERSION=$(version) REVISION=$$(git rev-parse HEAD) IMAGE_GOCACHE=$(CURDIR)/.cache/images/go ci/image/build bin/image/$(or $(2),$(1)) $(1) $(3)
endef

.PHONY: vm-test
vm-test: ## boot machines, and see what the test of a system lets through and what it doesn't
	ci/get current busybox vm
	NIXOS_CLOSURE_TEST_REQUIRE=1 NIXOS_CLOSURE_TEST_BOOT=all go test -v -run TestBoot ./ci/rehearsal

.PHONY: bench
bench: ## measure against nix copy, into docs/performance.md (ci/bench/main.go has the settings)
	go run ./ci/bench

.PHONY: fleets
fleets: ## measure the ways to publish fifty hosts, for docs/large-fleets.md
	ci/get current busybox
	ci/servers/build
	FLEET_FIGURES=1 go test -count=1 -timeout 0 -run TestFleetFigures -v ./ci/e2e

.PHONY: lint
lint: ## what tools can see without running anything
	@unformatted=$$(gofmt -l *.go */) && [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted" >&2; exit 1; }
	go mod tidy -diff
	go vet ./...
	go tool -modfile=ci/tools/go.mod staticcheck ./...
	ci/get shellcheck
	shellcheck --shell=sh ci/host ci/try ci/image/build ci/examples/*.sh ci/tasks/*.sh ci/rehearsal/machine/*.sh

# What the programs say of themselves: the last release, and how many commits ago it was.
version = $(or $(patsubst v%,%,$(shell git describe --tags --match 'v*' 2>/dev/null)),dev)
platforms := bin/linux-amd64 bin/linux-arm64

.PHONY: build $(platforms)
build: $(platforms) ## the programs, static, in bin/linux-amd64 and bin/linux-arm64

$(platforms): bin/linux-%:
	CGO_ENABLED=0 GOOS=linux GOARCH=$* go build -trimpath -buildvcs=false \
	  -ldflags '-s -w -X github.com/nixos-closure/nixos-closure-resource/internal/version.Number=$(version)' -o $@/ ./cmd/...
