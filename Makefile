# Each target does all the set-up it needs, so that a fresh clone starts with the one command that is wanted.
# After the first, plain `cargo run`, `cargo test` and `cargo bench` work too.

.PHONY: demo test lint bench component toolchain

# Sends one message of each kind through the sandbox to a simulated group, lets someone there speak to the robot,
# whom the application in examples/ answers, and shows the group.
demo: toolchain
	cargo build --quiet --locked --example echo
	cargo run --quiet --locked -- demo

# Every test: the pure modules, the host's, and the real component in the real host against the simulator.
test: toolchain
	cargo test --locked

# Formatting, lints on every target (the component's own target included), documentation.
lint: toolchain
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if ls "$$(rustc --print target-libdir --target wasm32-unknown-unknown)"/libstd-*.rlib >/dev/null 2>&1; then \
	    echo "cargo clippy (the component's target)" && \
	    cargo clippy --locked --package dingtalk-binding --target wasm32-unknown-unknown -- -D warnings; \
	else \
	    echo "not linted: src/allocator.rs, src/exports.rs and src/transport.rs, because clippy needs rustup's wasm32-unknown-unknown"; \
	fi
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

# Times and ratios to a native client; README.md explains the rows.
bench: toolchain
	cargo bench --locked

# Writes target/component/dingtalk-binding.wasm, without compiling a host.
component: toolchain
	cargo run --quiet --locked --package dingtalk-component -- target/component/dingtalk-binding.wasm

# A compiler that can produce WebAssembly: asks rustup, falls back to the distribution's.
toolchain:
	@./scripts/toolchain
