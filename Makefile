# The commands of this repository, the same for a person and for .ci/run.
# `make help` lists them.

include tools/versions.env

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
# What `lockstep version` prints.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# Each fuzz target's time.
FUZZTIME ?= 10s
# The race detector pays where goroutines share state. The device tests of
# engine/frontend/fuse and node/holder are about processes, and are slow with
# it, but it is there that requests are served concurrently.
RACE_PACKAGES ?= ./internal/... ./journal/... ./engine/... ./group/... ./replication/... \
	./controller/... ./node/... ./driver/...

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Install what building, testing and the demo need (apt, as root)
	@tests/setup.sh

.PHONY: build
build: ## Build bin/lockstep and bin/lockstep-engine, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/lockstep ./cmd/lockstep-engine

.PHONY: test
test: setup build ## Run all tests (as root); ends with "N passed, N failed, N skipped"
	@tools/test.sh

.PHONY: race
race: export CGO_ENABLED = 1
race: ## Run the tests of the packages that share state under the race detector
	@tests/setup.sh --cgo
	@TEST_TIMEOUT=30m tools/test.sh -race $(RACE_PACKAGES)

# How long `make soak` loads two sites.
SOAK ?= 30m
.PHONY: soak
soak: export SOAK := $(SOAK)
soak: export TEST_TIMEOUT ?= 24h
soak: export TEST_LIVE := yes
soak: devices setup build ## Load two sites for half an hour (SOAK=5m), killed every minute; fails on what leaks
	@tools/test.sh -run '^TestSoak$$' ./tests/integration

.PHONY: lint
lint: ## Check formatting, vet, errors, import direction (.golangci.yml), and generated files
	@tools/lint.sh ./...
	@tools/generate.sh --check

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: corpus
corpus: ## Keep below testdata/fuzz what fuzzing has found to reach new code
	@tools/corpus.sh

.PHONY: sanity
sanity: setup ## Run csi-sanity, with nothing skipped
	@tools/test.sh ./tests/sanity/...

.PHONY: e2e
e2e: setup build ## Test in real Kubernetes clusters, made on this machine (as root) or given; RUN=REGEXP for some; see tests/e2e
	@tools/e2e.sh $(if $(RUN),-run '$(RUN)')

.PHONY: e2e-external
e2e-external: export TEST_TIMEOUT ?= 120m
e2e-external: setup build ## Run the External Storage suite of Kubernetes against tests/e2e/external-storage.yaml
	@tools/e2e.sh external $(DRIVER)

# demo and bench make devices, and are to take them away when make is told to
# end: their programs are run in place of the shell, which passes no signal on,
# and not by `go run`, which passes none but those of a terminal.
.PHONY: devices
devices: # Before anything is built or installed, say why it would be in vain
	@tests/setup.sh --devices

.PHONY: demo
demo: devices build ## Show two sites, PostgreSQL, rewind and failover, with measured figures
	@$(GO) build -o out/demo ./tests/demo
	@exec out/demo -bin bin/lockstep

.PHONY: bench
bench: devices build ## Measure against a plain loop device and qemu-storage-daemon, up to 20 minutes
	@$(GO) build -o out/bench ./tests/bench
	@exec out/bench -bin bin/lockstep

.PHONY: check-clean
check-clean: ## Fail if a process, mount or loop device of ours is left on this machine
	@tests/check-clean.sh

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -l -w $$(git ls-files -co --exclude-standard '*.go')

.PHONY: generate
generate: ## Write the code and definitions of api/v1alpha1, and deploy/manifests from the chart
	@tools/generate.sh

.PHONY: manifests
manifests: generate ## The same as generate

.PHONY: proto
proto: ## Generate Go code from api/*/v1/*.proto (needs protoc)
	GOBIN=$(CURDIR)/out/tools $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN=$(CURDIR)/out/tools $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	cd api && PATH=$(CURDIR)/out/tools:$$PATH protoc -I . --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative */v1/*.proto

.PHONY: clean
clean: ## Remove what make made
	rm -rf bin out
