# The only list of commands; CI calls it too (.ci/run). What a target needs is installed into this folder: .tools/ for
# programs, .demo/ and .bench/ for what those targets make. Nothing is installed system-wide unless a line says so.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-builtin-rules

CARGO      ?= cargo
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
DENY       := .tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
FUZZ       := .tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
FUZZ_SECONDS ?= 60
SHIPPING   := .tools/shipping/ready
SHIPPING_PYTHON := $(CURDIR)/.tools/shipping/venv/bin/python
DRILL      := .tools/drill/ready
PACKAGERS  := .tools/packagers/ready
DEBUG_BINARY = $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/penstock

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## the release binary, target/release/penstock
	$(CARGO) build --locked --release

# The tests ask a real Prometheus and a real browser, and read archives with other programs; what is there already is not asked for again.
.PHONY: test-tools
test-tools: ## what the tests need from apt: age, gdb, prometheus with promtool, chromium, systemd-analyze, zstd, bsdtar, busybox, 7zz (installs them system-wide)
	@if ! (command -v prometheus && command -v promtool && command -v chromium && command -v systemd-analyze && \
	    command -v age && command -v gcore && command -v zstd && command -v bsdtar && command -v busybox && command -v 7zz) >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
	    prometheus chromium fonts-dejavu-core systemd age gdb zstd libarchive-tools busybox 7zip; fi

# The tests come last, so that what cargo test says is what is seen last.
.PHONY: test
test: test-tools fmt-check deny lint doc-check shipping ## everything CI runs: formatting, licences, bans, yanked versions, clippy, links in comments, what is shipped, all tests
	$(CARGO) test --locked

.PHONY: lint
lint: ## clippy, every warning an error
	$(CARGO) clippy --locked --all-targets -- -D warnings

# `--examples`, of which there are none, selects the features that the tests have, and with them what clippy has compiled.
.PHONY: doc-check
doc-check: ## rustdoc: a link in a comment that leads nowhere is an error
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --no-deps --document-private-items --lib --examples

.PHONY: fmt
fmt: ## format the code
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml

.PHONY: deny
deny: $(DENY) ## licences, banned crates, sources (deny.toml), yanked versions
	$(DENY) --locked check --hide-inclusion-graph licenses bans sources
	tests/yanked.sh

.PHONY: advisories
advisories: $(DENY) ## RustSec advisories; needs github.com, and fails where it cannot be reached (docs/decisions/0003)
	$(DENY) --locked check --hide-inclusion-graph advisories

.PHONY: demo
demo: ## a backup, a restore and their proof against a local AWS stand-in (PENSTOCK=path: that binary; KUBECONFIG: that cluster's objects)
	tests/demo/run.sh

.PHONY: bench
bench: ## criterion, one file for each stage
	$(CARGO) bench --locked

.PHONY: bench-peers
bench-peers: ## against other programs (docs/benchmarks.md), or an older binary (BASE=path); ROWS=P1,P3; installs apt packages (BENCH_ARGS=… replaces --install)
	PYTHONPATH=benches python3 -m peers $(if $(BASE),--base $(BASE)) $(if $(ROWS),--only $(ROWS)) $(or $(BENCH_ARGS),--install)

.PHONY: bench-kubernetes
bench-kubernetes: ## against kubectl on a real API server (docs/benchmarks.md); ROWS=K1,K3; installs apt packages (BENCH_ARGS=… replaces --install)
	tests/kube-apiserver.sh build .tools/kubernetes
	PYTHONPATH=benches python3 -m cluster $(if $(ROWS),--only $(ROWS)) $(or $(BENCH_ARGS),--install)

# A filter that matches nothing passes in cargo; here it must not.
.PHONY: soak
soak: ## the long tests, which `make test` shows as ignored
	@if ! $(CARGO) test --locked --test suite -- --ignored --list soak | grep -q ': test$$'; then \
	  echo 'soak: there are no soak tests' >&2; exit 1; fi
	$(CARGO) test --locked --test suite -- --ignored --show-output soak

.PHONY: radosgw
radosgw: ## the store suite and the attack drill on Ceph radosgw, started in .tools/radosgw (needs Debian's ceph packages: benches/radosgw.sh)
	benches/radosgw.sh start .tools/radosgw
	trap 'benches/radosgw.sh stop .tools/radosgw' EXIT; \
	  PENSTOCK_RADOSGW=http://127.0.0.1:$${RGW_PORT:-8000} $(CARGO) test --locked --test suite -- --ignored --exact conformance::radosgw ransomware::radosgw

# First without a controller manager, which would make objects that the suite has not made. Then with one, for the restore drill, and beside
# it a second cluster to restore into. Last with a kubelet and containers, for the volumes of pods.
.PHONY: kubernetes
kubernetes: ## the cluster suite and the restore drill on real API servers and a real kubelet, built once and started in .tools/kubernetes (Debian 12, root: installs apt packages; 7 minutes of CPU)
	ALL=1 tests/kube-apiserver.sh build .tools/kubernetes
	command -v kubectl >/dev/null || { apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends kubernetes-client; }
	trap 'WIPE=1 tests/kube-apiserver.sh stop .tools/kubernetes' EXIT; \
	  CM=0 tests/kube-apiserver.sh start .tools/kubernetes; \
	  PENSTOCK_KUBECONFIG=$(CURDIR)/.tools/kubernetes/admin.kubeconfig $(CARGO) test --locked --test suite -- --ignored --exact kubernetes::real
	mkdir -p .tools/kubernetes-new && ln -sfn ../kubernetes/bin .tools/kubernetes-new/bin
	trap 'for which in kubernetes kubernetes-new; do WIPE=1 tests/kube-apiserver.sh stop .tools/$$which; done' EXIT; \
	  tests/kube-apiserver.sh start .tools/kubernetes; \
	  CM=0 API_PORT=16444 ETCD_PORT=23809 tests/kube-apiserver.sh start .tools/kubernetes-new; \
	  export PENSTOCK_KUBECONFIG=$(CURDIR)/.tools/kubernetes/admin.kubeconfig PENSTOCK_KUBECONFIG_NEW=$(CURDIR)/.tools/kubernetes-new/admin.kubeconfig; \
	  $(CARGO) test --locked --test suite -- --ignored --exact kubernetes::writes::real cluster_drill::real
	trap 'tests/kubelet.sh stop .tools/kubernetes; WIPE=1 tests/kube-apiserver.sh stop .tools/kubernetes' EXIT; \
	  tests/kube-apiserver.sh start .tools/kubernetes; tests/kubelet.sh start .tools/kubernetes; \
	  $(CARGO) test --locked --no-run --test suite; tests/kubelet.sh program .tools/kubernetes docker.io/penstock/penstock:test $(DEBUG_BINARY); \
	  export PENSTOCK_KUBECONFIG=$(CURDIR)/.tools/kubernetes/admin.kubeconfig PENSTOCK_KUBELET_ROOT=$(CURDIR)/.tools/kubernetes/node/kubelet; \
	  $(CARGO) test --locked --test suite -- --ignored --exact kubelet::real

.PHONY: stores
stores: debug-build ## a whole life on moto, s3rver, fauxqs, LocalStack and OpenStack Swift, from pip, npm and apt (STORES=names); installs apt packages; root
	PENSTOCK=$(DEBUG_BINARY) python3 tests/stores/run.py .tools/stores $(STORES)

.PHONY: fuzz
fuzz: $(FUZZ) ## fuzz the readers of indexes, manifests and age headers, FUZZ_SECONDS each (needs a nightly toolchain)
	for target in index manifest age_header; do \
	  mkdir -p fuzz/found/$$target; \
	  PATH="$(CURDIR)/$(dir $(FUZZ)):$$PATH" $(CARGO) +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -malloc_limit_mb=64 -rss_limit_mb=1024; \
	done

# Manifests, chart, units, Dockerfile, documentation: tests/shipping. The binary is the one that cargo test builds as well.
.PHONY: shipping
shipping: $(SHIPPING) debug-build ## config/, systemd/, Dockerfile and docs/ are valid, agree with each other and with the binary
	cd tests/shipping && PENSTOCK=$(DEBUG_BINARY) $(SHIPPING_PYTHON) -m unittest

.PHONY: docs
docs: $(SHIPPING) debug-build ## write docs/commands.md from what the binary says
	cd tests/shipping && PENSTOCK=$(DEBUG_BINARY) $(SHIPPING_PYTHON) commands.py

.PHONY: package
package: $(SHIPPING) $(DRILL) $(PACKAGERS) ## .deb, .rpm, image, SBOM into dist/, each of them tried; installs apt packages; root
	tests/shipping/package.sh

.PHONY: reproducible
reproducible: $(SHIPPING) $(PACKAGERS) ## make dist/ once more, compiling from nothing, and compare it with what `make package` left there
	tests/shipping/package.sh again

.PHONY: debug-build
debug-build: # what `cargo test` uses too: `cargo build` has other features of the dependencies, and would compile them all again
	$(CARGO) test --locked --no-run

.PHONY: clean-tools
clean-tools: ## remove what the targets installed or made: .tools/ .demo/ .bench/ dist/
	rm -rf .tools .demo .bench dist

$(SHIPPING): tests/shipping/install.sh tests/shipping/requirements.txt
	tests/shipping/install.sh $(@D)

$(DRILL): tests/shipping/requirements-drill.txt
	rm -rf $(@D)
	python3 -m venv $(@D)/venv
	$(@D)/venv/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(PACKAGERS):
	for tool in cargo-deb@3.8.0 cargo-generate-rpm@0.21.1 cargo-cyclonedx@0.5.9; do \
	  $(CARGO) install "$$tool" --locked --root .tools/packagers --target-dir .tools/build; \
	done
	rm -rf .tools/build
	touch $@

# Not optimised: it compiles in half the time, and runs for seconds.
$(DENY):
	$(CARGO) install --debug cargo-deny --version $(CARGO_DENY_VERSION) --locked --root .tools/cargo-deny-$(CARGO_DENY_VERSION) --target-dir .tools/build
	rm -rf .tools/build

$(FUZZ):
	$(CARGO) install cargo-fuzz --version $(CARGO_FUZZ_VERSION) --locked --root .tools/cargo-fuzz-$(CARGO_FUZZ_VERSION) --target-dir .tools/build
	rm -rf .tools/build
