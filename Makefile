# Each target does all the set-up it needs, so that a fresh clone starts with the one command that is wanted.
# After the first, plain `cargo run`, `cargo test` and `cargo bench` work too.

.PHONY: demo test peers interop daprd outbox-kills outbox-bench dapr dapr-kills bench-tenants dapr-traces dapr-differences alertmanager lint bench bench-sidecar p3 bench-p3 component reproducible fuzz mutants audit toolchain

# Sends one message of each kind through the sandbox to a simulated group, lets someone there speak to the robot,
# whom the application in examples/ answers, and shows the group.
demo: toolchain
	@echo "The first build compiles the sandbox's compiler; it takes about 5 minutes on 2 cores."
	cargo build --locked --package dingtalk-host --bins --examples
	cargo run --quiet --locked -- demo

# Every test: the pure modules, the host's, and the real component in the real host against the simulator; the last of
# them once with instances that are used again, and once with a fresh one for each call.
test: toolchain
	cargo test --locked
	DINGTALK_INSTANCES=fresh cargo test --locked --test promises

# Clients of DingTalk and of Dapr that others wrote, against the simulator and the host. Installs them, so it needs
# the network; tests/peers/README.md explains the table.
peers: toolchain
	cargo build --locked
	tests/peers/run target/debug/dingtalk-host

# The components in runtimes and beside languages that others wrote, with the examples. Installs them, so it needs the
# network; tests/interop/README.md explains the table. With the examples, the libraries have the features that they have
# in tests: without them, wasmtime would be compiled again after `make test`.
interop: toolchain component
	cargo build --locked --package dingtalk-host --bins --examples
	tests/interop/run target/debug/dingtalk-host target/component

# Dapr's sidecar, the real one, from its Go module, without its own DingTalk binding and with it. Needs Go and the network;
# the first time takes some 4 minutes on 2 cores.
daprd:
	tests/dapr/build

# The real sidecar with this binding beside it, as a pluggable component: what is sent and received, what happens when one of
# them goes, and Dapr's own conformance tests. tests/dapr/README.md explains the table.
dapr: toolchain
	cargo build --locked
	tests/dapr/run run target/debug/dingtalk-host

# Messages each way while daprd, the component and the application are killed at random.
KILLS_MESSAGES ?= 1000
dapr-kills: toolchain
	cargo build --locked
	tests/dapr/run kills target/debug/dingtalk-host $(KILLS_MESSAGES) $(KILLS_SEED)

# 10,000 messages through the outbox at DingTalk's 20 within a window, here 3 s, with and without kills: prints figures,
# and takes half an hour. Four of the sixteen senders are curl.
outbox-kills: export OUTBOX_MESSAGES ?= 10000
outbox-kills: export OUTBOX_WINDOW_MS ?= 3000
outbox-kills: toolchain
	cargo test --locked --package dingtalk-host --test promises -- --ignored --nocapture --test-threads 1 outbox::kills outbox::hosts

# Messages a second that the outbox takes over HTTP, asked by ApacheBench; with BENCH_STORE, in PostgreSQL too.
outbox-bench: toolchain
	cargo build --locked --profile measure --package dingtalk-host --bin dingtalk-host
	scripts/outbox-bench target/measure/dingtalk-host

# Ten thousand bindings that do nothing: memory of each, the time until an optimised host is ready, and the first message.
bench-tenants: export TENANTS_HOST = $(CURDIR)/target/measure/dingtalk-host
bench-tenants: toolchain
	cargo build --locked --profile measure --package dingtalk-host --bin dingtalk-host
	cargo test --locked --package dingtalk-host --test promises -- --ignored --nocapture tenants::ten_thousand

# Spans of the host, of daprd with Dapr's binding, and of daprd with this one, as an OpenTelemetry Collector gets them.
dapr-traces: toolchain
	cargo build --locked
	tests/dapr/run traces target/debug/dingtalk-host

# Asks Dapr's own binding, in the real sidecar, and the host the same things. Fails where docs/dapr.md does not say what
# differs, or says what does not; tests/dapr/README.md explains the table.
dapr-differences: toolchain daprd
	cargo build --locked
	target/daprd/differences target/daprd/daprd-builtin target/daprd/daprd target/debug/dingtalk-host docs/dapr.md target/daprd/worlds

# Alertmanager, the real one, with the files of examples/alertmanager, at a robot with DingTalk's limit. Needs Go and the
# network; tests/alertmanager/README.md explains the table.
alertmanager: toolchain
	cargo build --locked
	tests/alertmanager/run target/debug/dingtalk-host

# Formatting, lints on every target (the component's own target included), documentation.
lint: toolchain
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if ls "$$(rustc --print target-libdir --target wasm32-unknown-unknown)"/libstd-*.rlib >/dev/null 2>&1; then \
	    echo "cargo clippy (the components' target)" && \
	    cargo clippy --locked --package dingtalk-binding --features component \
	        --target wasm32-unknown-unknown -- -D warnings && \
	    cargo clippy --locked --package dingtalk-no-handler --package dingtalk-binding-p3 \
	        --target wasm32-unknown-unknown -- -D warnings && \
	    cargo clippy --locked --package dingtalk-front --package dingtalk-delivery --package dingtalk-remember \
	        --package dingtalk-front-p3 --package dingtalk-delivery-p3 \
	        --target wasm32-unknown-unknown -- -D warnings && \
	    cargo clippy --locked --package dingtalk-remember --features spin \
	        --target wasm32-unknown-unknown -- -D warnings; \
	else \
	    echo "not linted: src/allocator.rs, src/exports.rs, src/transport.rs, and the edges of the guests in components/, because clippy needs rustup's wasm32-unknown-unknown"; \
	fi
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

# Calls a second, their processor time and where it goes, beside native Rust and, where there is Go, Dapr's own binding.
# docs/performance.md explains the rows. BENCH_PROFILE=release has it as it is shipped, some 8 % faster, after 15 minutes.
BENCH_PROFILE ?= measure
bench: toolchain
	cargo bench --locked --profile $(BENCH_PROFILE) --package dingtalk-host

# Requests a second of whole sidecars, and their processor time: the host, daprd with Dapr's binding, daprd with this one,
# asked by wrk or ApacheBench. Needs Go, and the network the first time.
bench-sidecar: toolchain
	cargo bench --locked --profile $(BENCH_PROFILE) --package dingtalk-host -- sidecar

# The components for WASI 0.3: that they do what those for WASI 0.2 do, and that calls overlap in one instance. Not part
# of `make test`: wasmtime with its features for WASI 0.3 is another build, which takes some 4 minutes on 2 cores.
p3: toolchain
	cargo test --locked --package dingtalk-bench

# What it costs beside the one for WASI 0.2; docs/performance.md explains the rows.
bench-p3: toolchain
	cargo run --locked --profile measure --package dingtalk-bench

# Writes every component and the interfaces to target/component/, without compiling a host. Each says which revision it
# was built from, and with SOURCE_URL where that is.
component: export SOURCE_REVISION ?= $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
component: toolchain
	cargo run --quiet --locked --package dingtalk-publish -- target/component

# Builds the last commit here and in another checkout with another target directory, and compares what is written.
reproducible: toolchain
	@test -z "$$(git status --porcelain)" || { \
	    echo "commit or put away the changes first: the last commit is compared" >&2; exit 1; }
	$(MAKE) component
	@set -eu; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	git clone --quiet . "$$copy/elsewhere"; \
	CARGO_TARGET_DIR="$$copy/built" $(MAKE) --no-print-directory -C "$$copy/elsewhere" component; \
	for file in "$$copy"/elsewhere/target/component/dingtalk-*; do cmp "$$file" "target/component/$${file##*/}"; done; \
	echo "the same bytes"

# How long each target runs, and which ones; fuzz/README.md explains them.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= answer callback endpoint message reply session

# Looks for inputs that break a promise of the pure modules. Needs a nightly compiler and cargo-fuzz.
fuzz:
	@cargo fuzz --version >/dev/null 2>&1 || { \
	    echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@cargo +nightly --version >/dev/null 2>&1 || { \
	    echo "a nightly compiler is missing: rustup toolchain install nightly" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	    case $$target in endpoint | session) words=url ;; *) words=json ;; esac; \
	    echo "fuzz $$target for $(FUZZ_SECONDS) s" && \
	    cargo +nightly fuzz run $$target -- -dict=fuzz/dictionaries/$$words.dict -max_len=4096 \
	        -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# Changes the code in small ways and looks which changes no test notices. MUTANTS chooses the files. Fails if more than
# 3 in 100 are missed. Properties try their usual number of cases, also those that try more in `make test`, and do not
# look for the smallest case that fails: it is run for every change, and one failure is enough.
MUTANTS ?= src/*.rs
mutants: export PROPTEST_CASES = 256
mutants: export PROPTEST_MAX_SHRINK_ITERS = 0
mutants: toolchain
	@cargo mutants --version >/dev/null 2>&1 || { \
	    echo "cargo-mutants is missing: cargo install cargo-mutants --locked" >&2; exit 1; }
	@# 2: some were missed. 3: some never ended. The table says how many.
	cargo mutants $(foreach file,$(MUTANTS),--file '$(file)') || case $$? in 2 | 3) ;; *) exit 1 ;; esac
	@cd mutants.out && awk -f ../scripts/mutants.awk caught.txt timeout.txt missed.txt unviable.txt

# Known weaknesses, licences and sources of every dependency; deny.toml has the rules. The list of weaknesses comes
# from the network; where that cannot be reached, the rest is still checked, and the last line says so.
audit:
	@cargo deny --version >/dev/null 2>&1 || { \
	    echo "cargo-deny is missing: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny --locked --workspace check bans licenses sources
	@cargo deny --locked --workspace fetch db >/dev/null 2>&1 || { \
	    echo "NOT CHECKED: known weaknesses; the advisory database cannot be reached from this machine" >&2; exit 1; }
	cargo deny --locked --workspace check --disable-fetch advisories

# A compiler that can produce WebAssembly: asks rustup, falls back to the distribution's.
toolchain:
	@./scripts/toolchain
